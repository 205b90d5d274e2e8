"""The query path of one application: choose models, ask the cache, submit, settle.

This is the one file where selection meets models.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from random import Random

from clipper.attainment import ApplicationStats, Recent
from clipper.batching.job import Block, Job, Waiter
from clipper.cache import EXACT, PredictionCache, cache_key
from clipper.choosing import Choice, Chooser
from clipper.clock import Clock
from clipper.deadlines import CallLater, Deadlines
from clipper.errors import InvalidInput
from clipper.guarding import Guard
from clipper.inputs import Row, parse_input_type
from clipper.learning.decisions import Made
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.learning.users import User
from clipper.model import Model
from clipper.panel import Member, Panel
from clipper.query import NO_MODEL, BatchQuery, BatchReceiver, Query, Receiver, RowWaiter
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord
from clipper.rendering import Rendering
from clipper.selection.combine import Combiner, make_combiner
from clipper.selection.losses import make_loss
from clipper.selection.policy import (
    Arm,
    Ensemble,
    Score,
    SingleChoice,
    Subject,
    make_arm,
)
from clipper.shadowing import Comparison, Shadowed
from clipper.values import Output, Prediction, RowError

logger = logging.getLogger(__name__)

NOBODY = Subject()

GONE = RowError("unavailable", "The application was deleted")

_new = tuple.__new__


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
    ) -> None:
        self._ids = ids
        self._cache = cache
        self._learning = learning
        self._decisions = learning.decisions
        self.now = self._now = clock.now
        self._call_later = call_later
        self.rng = Random()
        self.learner = learner
        self.deadlines = Deadlines(clock, call_later)
        self.stats = ApplicationStats(clock.now())
        # All mutable state beside the above: the record with what follows from it, the
        # models that answer, by arm, and the versions of a single one by name; who
        # decides, with how outputs are combined, a guard, and what shadows said; the
        # standing choice of a policy that always decides the same; the choice where there
        # is nobody to choose.
        self._set_record(record)
        self._models: dict[Arm, Model] = {}
        self._versions: dict[str, Model] = {}
        self._chooser = Chooser(learner, ids, self.rng)
        self._combiner: Combiner | None = None
        self._guard: Guard | None = None
        self._halting: set[Arm] = set()
        self.comparisons: dict[Arm, Comparison] = {}
        self._standing: Choice | None = None
        self._nobody = self._choice_of_nobody()
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
        self._models = {arm_of(model): model for model in candidates}
        self._versions = dict(versions)
        self.stats.follow((m.dispatcher.stats for m in self.reachable), self._now())
        self._chooser.set_arms(self._models)
        self._take_policy()

    def policy_changed(self) -> None:
        """The learner goes on under another policy, or without an arm."""
        self._chooser.forget()
        self._take_policy()

    def connection_changed(self) -> None:
        """A model can be asked from now on, or cannot any more."""
        self._chooser.forget()
        self._take_policy()

    def _take_policy(self) -> None:
        policy = self.learner.policy
        self._combiner = None
        if isinstance(policy, Ensemble):
            self._combiner = make_combiner(policy, self.loss)
        if not (isinstance(policy, SingleChoice) and policy.guards):
            self._guard = None
        elif self._guard is None or self._guard.policy is not policy:
            self._guard = Guard(policy)
            self._halting.clear()
        self._durable = policy.logged
        self._personal = policy.personal
        # whether a query is one model's affair from beginning to end
        self._single = self._combiner is None and not getattr(policy, "shadow_share", 0)
        self._nobody = self._choice_of_nobody()
        self._standing = None
        if not self._models:
            self._standing = self._nobody
        elif self._chooser.fixed:
            self._standing = self._chooser.choose(NOBODY, self._now())

    def _choice_of_nobody(self) -> Choice:
        generation = self.learner.generation
        stamp = self._ids.stamp(self.record.number, generation, 0, 0.0)
        return Choice((), (), [], None, 0.0, generation, stamp)

    @property
    def arms(self) -> dict[Arm, Model]:
        """The candidates by arm, in order."""
        return self._models

    @property
    def models(self) -> list[Model]:
        return list(self._models.values())

    @property
    def reachable(self) -> set[Model]:
        """Every version that a query may reach: candidates, and versions by name."""
        return {*self._models.values(), *self._versions.values()}

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
        if self._personal and subject.uid is not None and self._is_cold(subject.uid):
            return self._submit_later(row, receiver, subject, deadline, cache)
        if version is not None:
            choice = self._choice_of(self._named_version(version))
        else:
            choice = self._standing or self._chooser.choose(subject, arrived)
        query = Query(self, receiver, choice, subject, arrived, deadline)
        model = choice.model
        if model is None or choice.shadows or not model.connected:
            return self._submit_otherwise(query, row, cache)
        payload, shape = row
        if not (cache and self.caching):
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
        else:
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

    def _submit_otherwise(self, query: Query, row: Row, cache: bool) -> Query:
        """A query that is not for one connected model alone."""
        choice = query.choice
        if self._combiner is not None and choice.index is None and choice.arms:
            query.panel = self._convene(choice, row, query.deadline, cache)
            query.panel.begin(query)
        elif choice.model is None:
            query.job_done(NO_MODEL)
        else:
            if self._is_shadowed(choice):
                query.receiver = Shadowed(self, query.receiver, [row])
            query.job = self.ask(choice.model, row, query.deadline, query, cache)
        if not query.settled:
            self.deadlines.watch(query)
        return query

    def _is_shadowed(self, choice: Choice) -> bool:
        """Whether the shadows of a choice are asked this time."""
        policy = self.learner.policy
        return (
            bool(choice.shadows)
            and isinstance(policy, SingleChoice)
            and self.rng.random() < policy.shadow_share
        )

    def _is_cold(self, uid: str) -> bool:
        """Whether the user may have an experience that is not in memory."""
        users = self.learner.users
        return users.get(uid) is None and users.may_be_kept(uid)

    def _submit_later(
        self, row: Row, receiver: Receiver, subject: Subject, deadline: float, cache: bool
    ) -> Query:
        """Wait for a user's experience, at most half of the time there is; then choose by
        what is there."""
        arrived = self._now()
        query = Query(self, receiver, self._nobody, subject, arrived, deadline)
        begun = False

        def begin() -> None:
            nonlocal begun
            if begun or query.settled:
                return
            begun = True
            timer.cancel()
            query.choice = self._choose(subject, None, self._now())
            self._submit_otherwise(query, row, cache)

        timer = self._call_later((deadline - arrived) / 2, begin)
        assert subject.uid is not None
        self._learning.load(self.learner, subject.uid, begin)
        self.deadlines.watch(query)
        return query

    def _convene(self, choice: Choice, row: Row, deadline: float, cache: bool) -> Panel:
        """Ask all members of an ensemble for one row."""
        assert self._combiner is not None
        panel = Panel(self, choice, self._combiner)
        for index, model in enumerate(choice.models):
            member = Member(panel, index)
            job = self.ask(model, row, deadline, member, cache)
            if job is not None:
                panel.jobs.append((job, member))
        return panel

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
        model = batch.choice.model
        if self._is_shadowed(batch.choice):
            batch.receiver = Shadowed(self, receiver, rows)
        for index, row in enumerate(rows):
            waiter = RowWaiter(batch, index)
            if model is None:
                panel = self._convene(batch.choice, row, batch.deadline, cache)
                batch.panels.append(panel)
                panel.begin(waiter)
                continue
            job = self.ask(model, row, batch.deadline, waiter, cache)
            if job is not None:
                batch.jobs.append((job, waiter))
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
        choice = self._choose(subject, version, arrived)
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

    def _choose(self, subject: Subject, version: str | None, now: float) -> Choice:
        if version is not None:
            return self._choice_of(self._named_version(version))
        if self._standing is not None:
            return self._standing
        return self._chooser.choose(subject, now)

    def _choice_of(self, model: Model) -> Choice:
        """The decision of somebody who named a version."""
        arm, generation = arm_of(model), self.learner.generation
        stamp = self._ids.stamp(
            self.record.number, generation, model.record.generation, 1.0
        )
        return Choice((arm,), (model,), [1.0], 0, 1.0, generation, stamp)

    def _named_version(self, version: str) -> Model:
        if len(self.record.models) > 1:
            raise InvalidInput(
                f"version needs an application with one linked model; {self.name} has "
                f"{len(self.record.models)}"
            )
        model = self._versions.get(version)
        if model is None:
            raise InvalidInput(
                f"Requested version: {version} does not exist for model: "
                f"{(self.record.models or ['(none linked)'])[0]}"
            )
        return model

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
        if self._guard is not None and query.choice.index is not None:
            self._watch(self._guard, query.choice, [output], now - arrived)

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
        if self._guard is not None and batch.choice.index is not None:
            self._watch(self._guard, batch.choice, outputs, now - arrived)

    def _watch(
        self,
        guard: Guard,
        choice: Choice,
        outputs: Sequence[Output | None],
        seconds: float,
    ) -> None:
        arm = choice.arm
        assert arm is not None
        due = [guard.saw(arm, type(output) is RowError, seconds) for output in outputs]
        if any(due):
            self.judge()

    def judge(self) -> None:
        """Have the guard look at the arms; one that has to go is taken out."""
        if self._guard is None:
            return
        arms = [arm for arm in self._models if arm not in self.learner.halted]
        verdict = self._guard.judge(arms, self.learner.population.totals)
        if verdict is not None and verdict.arm not in self._halting:
            self._halting.add(verdict.arm)
            logger.warning("%s takes %s out: %s", self.name, *verdict)
            self._learning.halt(self.learner, *verdict, self.policy_changed)

    def weights(self, user: User | None = None) -> dict[Arm, float]:
        """How probable each arm is to answer a query, or how much it counts."""
        return self._chooser.weights(user)

    def scores(self) -> dict[Arm, Score]:
        """What the guard goes by; empty where nothing is guarded."""
        if self._guard is None:
            return {}
        return self._guard.scores([*self._models], self.learner.population.totals)

    def recent(self) -> Recent:
        """What became of the rows of the last 30 to 60 seconds."""
        return self.stats.recent(self._now())

    def keep(self, query: Query) -> None:
        """Remember what was decided, for feedback: the query's id goes out."""
        output, panel = query.output, query.panel
        if query.choice is self._standing:
            self._decisions.keep_output(self._ids.nonce, output)
            return
        made = _new(
            Made,
            (self.number, query.choice, query.subject, output if panel is None else panel),
        )
        self._decisions.keep(self._ids.nonce, made, self._durable)

    def keep_batch(self, batch: BatchQuery) -> None:
        outputs = batch.panels or batch.outputs
        made = Made(self.number, batch.choice, batch.subject, outputs)
        self._decisions.keep(self._ids.nonce, made, self._durable)

    def prediction(self, query: Query) -> Prediction:
        """The settled query as a value. Raises where there is no default output."""
        query_id = query.issue_id().decode()
        return self.make_prediction(query_id, query.output, query.choice, query.panel)

    def make_prediction(
        self, query_id: str, output: Output, choice: Choice, panel: Panel | None = None
    ) -> Prediction:
        value, default, why = self.rendering.answer(output)
        prediction = Prediction(query_id, value, default, why)
        if choice.told and choice.model is not None and not default:
            prediction.model = str(choice.model.id)
        if panel is not None:
            prediction.missing = panel.missing
            prediction.confidence = None if default else panel.confidence
        return prediction


def arm_of(model: Model) -> Arm:
    return make_arm(model.id, model.record.generation)
