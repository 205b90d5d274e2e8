"""The query path of one application: choose models, ask the cache, submit, settle.

This is the one file where selection meets models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from clipper.attainment import ApplicationStats, Recent
from clipper.batching.job import Block, Job, Waiter
from clipper.cache import EXACT, PredictionCache, cache_key
from clipper.choosing import Choice
from clipper.clock import Clock
from clipper.deadlines import CallLater, Deadlines
from clipper.inputs import Row, parse_input_type
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.learning.users import User
from clipper.loading import Loading, is_cold
from clipper.model import Model
from clipper.panel import Panel
from clipper.query import NO_MODEL, BatchQuery, BatchReceiver, Query, Receiver
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord
from clipper.rendering import Rendering
from clipper.roster import Roster
from clipper.rows import Asking
from clipper.selection.combine import Combiner, make_combiner
from clipper.selection.losses import make_loss
from clipper.selection.policy import Arm, Ensemble, Subject
from clipper.shadowing import Shadowed
from clipper.values import RowError
from clipper.watching import Watch

NOBODY = Subject()

GONE = RowError("unavailable", "The application was deleted")


class Application:
    """One named endpoint with its SLO, default output, policy and linked models."""

    def __init__(
        self,
        record: ApplicationRecord,
        learner: Learner,
        learning: Learning,
        ids: QueryIds,
        cache: PredictionCache[Job],
        *,
        clock: Clock,
        call_later: CallLater,
        rng: Random | None = None,
    ) -> None:
        self.ids = ids
        self.learning = learning
        self.decisions = learning.decisions
        self._cache = cache
        self.now = self._now = clock.now
        self.call_later = call_later
        self.rng = rng or Random()
        self.learner = learner
        self.deadlines = Deadlines(clock, call_later)
        self.stats = ApplicationStats(clock.now())
        self.roster = Roster(record, learner, ids, self.rng)
        self.watch = Watch(record.name, learner, learning, self.policy_changed)
        # All mutable state beside the above: the record and the policy, with what follows
        # from each.
        self._set_record(record)
        self._take_policy()

    def __repr__(self) -> str:
        return f"<Application {self.name} models={list(map(str, self.models))}>"

    def _set_record(self, record: ApplicationRecord) -> None:
        self.record = record
        self.name = record.name
        self.number = record.number
        self.input_type = parse_input_type(record.input_type)
        self.slo = record.slo_micros / 1e6
        self.caching = record.cache
        self.rendering = Rendering(record)
        self.loss = make_loss(record.loss, parse=self.rendering.parses)
        self._ttl = record.cache_ttl_seconds

    # -- configuration ------------------------------------------------------------------

    def update(
        self,
        record: ApplicationRecord,
        candidates: Sequence[Model],
        versions: Mapping[str, Model],
    ) -> None:
        """Take a new record and the models it now leads to.

        `candidates` are the versions to choose from, in order; `versions`, those of the
        single linked model by version, for queries that name one.
        """
        if record is not self.record:
            self._set_record(record)
        self.roster.update(record, candidates, versions, self._now())
        self.stats.follow((m.dispatcher.stats for m in self.reachable), self._now())
        self._take_policy()

    def policy_changed(self) -> None:
        """The learner goes on under another policy, or without an arm."""
        self.roster.renew(self._now())
        self._take_policy()

    def connection_changed(self) -> None:
        """A model can be asked from now on, or cannot any more."""
        self.roster.renew(self._now())

    def _take_policy(self) -> None:
        policy = self.learner.policy
        self.watch.follow(self.arms, self.roster.chooser.shadows())
        self.durable = policy.logged  # decisions go to the disk
        self._personal = policy.personal
        self._shadow_share = getattr(policy, "shadow_share", 0.0)
        self._combiner: Combiner | None = None
        if isinstance(policy, Ensemble):
            self._combiner = make_combiner(policy, self.loss)
        # whether a query is one model's affair from beginning to end
        self._single = self._combiner is None and not self._shadow_share

    @property
    def arms(self) -> dict[Arm, Model]:
        """The candidates by arm, in order."""
        return self.roster.models

    @property
    def models(self) -> list[Model]:
        return list(self.roster.models.values())

    @property
    def reachable(self) -> set[Model]:
        """Every version that a query may reach: candidates, and versions by name."""
        return self.roster.reachable

    def close(self) -> None:
        """Settle what waits; the application is gone."""
        self.deadlines.close(GONE)

    # -- the way of a query -------------------------------------------------------------

    def submit(
        self,
        row: Row,
        receiver: Receiver,
        subject: Subject = NOBODY,
        version: str | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
    ) -> Query:
        """Ask for one prediction. The receiver is told once, perhaps before this
        returns. `deadline_ms` may only shorten the SLO."""
        arrived = self._now()
        deadline = arrived + (
            self.slo if deadline_ms is None else self._budget(deadline_ms)
        )
        roster = self.roster
        if version is not None:
            choice = roster.name(version)
        elif (
            self._personal
            and subject.uid is not None
            and is_cold(self.learner, subject.uid)
        ):
            query = Query(self, receiver, roster.nobody, subject, arrived, deadline)
            self.deadlines.watch(query)
            Loading(self, query, row, cache)
            return query
        else:
            choice = roster.standing or roster.chooser.choose(subject, arrived)
        query = Query(self, receiver, choice, subject, arrived, deadline)
        model = choice.model
        payload, shape = row
        if model is None or choice.shadows or not model.connected:
            self.start(query, row, cache)
        elif not (cache and self.caching):
            intake = model.intake
            refusal = None if intake.shared else intake.refusal(deadline)
            if refusal is not None:
                query.job_done(refusal)
                return query
            query.job = job = Job(payload, shape, deadline, query)
            if intake.shared:
                intake.submit(job)
            else:
                intake.accept(job)
        else:  # as `ask` does, without the calls
            key = (
                model.exact_prefix + payload
                if shape is None and len(payload) <= EXACT
                else cache_key(model.prefix, payload, shape)
            )
            hit = (
                self._cache.get(key)
                if self._ttl is None
                else self._cache.get_since(key, arrived - self._ttl)
            )
            if hit is not None:
                query.job_done(hit)
                return query
            query.job = self._join_or_start(model, key, row, deadline, query)
        if not query.settled:
            self.deadlines.watch(query)
        return query

    def start(self, query: Query, row: Row, cache: bool) -> None:
        """Begin a query as its choice says, whatever that is. Its deadline is watched by
        the caller."""
        choice = query.choice
        if self._combiner is not None and choice.index is None and choice.arms:
            query.panel = Panel(self, choice, self._combiner)
            query.panel.begin(query, row, query.deadline, cache)
        elif choice.model is None:
            query.job_done(NO_MODEL)
        else:
            if self._is_shadowed(choice):
                query.receiver = Shadowed(self, query.receiver, [row])
            query.job = self.ask(choice.model, row, query.deadline, query, cache)

    def _is_shadowed(self, choice: Choice) -> bool:
        """Whether the shadows of a choice are asked this time."""
        return bool(choice.shadows) and self.rng.random() < self._shadow_share

    def ask(
        self,
        model: Model,
        row: Row,
        deadline: float,
        waiter: Waiter,
        cache: bool = True,
        background: bool = False,
    ) -> Job | None:
        """One row of one model, through the cache; with `background`, when there is
        nothing better to do. The waiter is told once; None if it was told already."""
        if not model.connected:
            waiter.job_done(NO_MODEL)
            return None
        if not (cache and self.caching):
            job = Job(row.payload, row.shape, deadline, waiter)
            if background:
                model.background.submit(job)
            else:
                model.submit(job)
            return job
        key = cache_key(model.prefix, *row)
        hit = (
            self._cache.get(key)
            if self._ttl is None
            else self._cache.get_since(key, self._now() - self._ttl)
        )
        if hit is not None:
            waiter.job_done(hit)
            return None
        return self._join_or_start(model, key, row, deadline, waiter, background)

    def submit_batch(
        self,
        rows: Sequence[Row],
        receiver: BatchReceiver,
        subject: Subject = NOBODY,
        version: str | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
    ) -> BatchQuery:
        """Ask for one prediction for each row; rows that are equal are evaluated once.
        One decision is taken for all rows."""
        batch = self._begin_batch(len(rows), receiver, subject, version, deadline_ms)
        if batch.settled:
            return batch
        if self._is_shadowed(batch.choice):
            batch.receiver = Shadowed(self, receiver, rows)
        if batch.choice.model is None:
            assert self._combiner is not None
            # all at once: when the deadline comes, every row has its panel
            batch.panels += [Panel(self, batch.choice, self._combiner) for _ in rows]
        Asking(self, batch, rows, cache).begin()
        if not batch.settled:
            self.deadlines.watch(batch)
        return batch

    def submit_block(
        self,
        payload: bytes,
        rows: int,
        shape: tuple[int, ...] | None,
        receiver: BatchReceiver,
        subject: Subject = NOBODY,
        version: str | None = None,
        deadline_ms: float | None = None,
    ) -> BatchQuery:
        """Ask for predictions of many equal-shaped rows that need no cache."""
        if not self._single and version is None:
            size = len(payload) // rows
            each = [Row(payload[i * size : (i + 1) * size], shape) for i in range(rows)]
            return self.submit_batch(each, receiver, subject, None, deadline_ms, False)
        batch = self._begin_batch(rows, receiver, subject, version, deadline_ms)
        if batch.settled:
            return batch
        assert batch.choice.model is not None
        block = Block(payload, rows, shape, batch.deadline, batch)
        batch.blocks.append(block)
        batch.choice.model.submit(block)
        if not batch.settled:
            self.deadlines.watch(batch)
        return batch

    def _begin_batch(
        self,
        rows: int,
        receiver: BatchReceiver,
        subject: Subject,
        version: str | None,
        deadline_ms: float | None,
    ) -> BatchQuery:
        """A batch with its decision; settled already where there is nobody to ask."""
        arrived = self._now()
        deadline = arrived + self._budget(deadline_ms)
        choice = self.roster.choose(subject, version, arrived)
        batch = BatchQuery(self, receiver, choice, subject, arrived, deadline, rows)
        if not rows:
            batch.finish()
        elif not any(m.connected for m in choice.models) or (
            choice.model is not None and not choice.model.connected
        ):
            for index in range(rows):
                batch.row_done(index, NO_MODEL)
        return batch

    def _budget(self, deadline_ms: float | None) -> float:
        return self.slo if deadline_ms is None else min(self.slo, deadline_ms / 1e3)

    def _join_or_start(
        self,
        model: Model,
        key: bytes,
        row: Row,
        deadline: float,
        waiter: Waiter,
        background: bool = False,
    ) -> Job:
        """Single flight: wait for the evaluation of this key, or begin it."""
        job = self._cache.join(key)
        if job is not None:
            if job.join(waiter, deadline):
                model.promote(job)
            return job
        job = Job(row.payload, row.shape, deadline, waiter, key, model)
        self._cache.begin(key, job)
        if background:
            model.background.submit(job)
        else:
            model.submit(job)
        return job

    # -- answers ------------------------------------------------------------------------

    def count(self, query: Query) -> None:
        """One query was settled."""
        output, arrived = query.output, query.arrived
        stats, now = self.stats, self._now()
        if now >= stats.turns_at:
            stats.turn(now)
        if type(output) is RowError:
            stats.fail(output)
        else:
            stats.predictions += 1
        stats.latency.observe(now - arrived)
        watch = self.watch
        if watch.guard is not None and query.choice.index is not None:
            watch.saw(query.choice, [output], now - arrived)

    def count_batch(self, batch: BatchQuery) -> None:
        outputs, arrived = batch.outputs, batch.arrived
        stats, now = self.stats, self._now()
        if now >= stats.turns_at:
            stats.turn(now)
        failures = [output for output in outputs if isinstance(output, RowError)]
        for error in failures:
            stats.fail(error)
        stats.predictions += len(outputs) - len(failures)
        stats.latency.observe_many(now - arrived, len(outputs))
        watch = self.watch
        if watch.guard is not None and batch.choice.index is not None:
            watch.saw(batch.choice, outputs, now - arrived)

    def weights(self, user: User | None = None) -> dict[Arm, float]:
        """How probable each arm is to answer a query, or how much it counts."""
        return self.roster.chooser.weights(user)

    def recent(self) -> Recent:
        """What became of the rows of the last 30 to 60 seconds."""
        return self.stats.recent(self._now())
