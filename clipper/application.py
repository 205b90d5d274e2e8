"""The query path of one application: choose a model, ask the cache, submit, settle.

This is the one file where selection meets models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from clipper.attainment import ApplicationStats, Recent
from clipper.batching.job import Block, Job
from clipper.cache import EXACT, PredictionCache, cache_key
from clipper.clock import Clock
from clipper.deadlines import CallLater, Deadlines
from clipper.errors import (
    ClipperError,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    Overloaded,
    Unavailable,
)
from clipper.inputs import Row, parse_input_type
from clipper.model import Model
from clipper.query import NO_MODEL, BatchQuery, BatchReceiver, Query, Receiver, RowWaiter
from clipper.query_id import QueryIds, Stamp
from clipper.records import ApplicationRecord
from clipper.selection.policy import Subject
from clipper.selection.registry import make_policy
from clipper.values import ModelId, Output, Prediction, RowError

NOBODY = Subject()

MOST_TAILS = 32
_DEFAULT_TAIL = b'","output":%b,"default":true,"default_explanation":%b}'

GONE = RowError("unavailable", "The application was deleted")

_ERRORS: dict[str, type[ClipperError]] = {
    "deadline_exceeded": DeadlineExceeded,
    "no_model": Unavailable,
    "unavailable": Unavailable,
    "overloaded": Overloaded,
}


class Application:
    """One named endpoint with its SLO, default output, policy and linked models."""

    def __init__(
        self,
        record: ApplicationRecord,
        ids: QueryIds,
        cache: PredictionCache[Job],
        *,
        clock: Clock,
        call_later: CallLater,
    ) -> None:
        self._ids = ids
        self._cache = cache
        self._now = clock.now
        self._rng = Random()
        self.deadlines = Deadlines(clock, call_later)
        self.stats = ApplicationStats(clock.now())
        # All mutable state beside the above: the record with what follows from it, the
        # models that answer, with one maker of query ids for each, and the standing
        # choice of a policy that always decides the same.
        self._set_record(record)
        self._models: dict[ModelId, Model] = {}
        self._versions: dict[str, Model] = {}
        self._stamps: dict[ModelId, Stamp] = {}
        self._standing: tuple[Model | None, Stamp] | None = None

    def __repr__(self) -> str:
        return f"<Application {self.name} models={list(map(str, self._models))}>"

    def _set_record(self, record: ApplicationRecord) -> None:
        self.record = record
        self.name = record.name
        self.input_type = parse_input_type(record.input_type)
        self.slo = record.slo_micros / 1e6
        self.caching = record.cache
        self._ttl = record.cache_ttl_seconds
        self._policy = make_policy(record.policy)
        self._state: Any = self._policy.init(())
        self._default = self._default_text(record)
        self._default_tails: dict[str, bytes | None] = {}
        self._unanswered = self._ids.stamp(record.number, record.policy_generation, 0, 0.0)

    def _default_text(self, record: ApplicationRecord) -> bytes | None:
        text = record.default_output
        return None if text is None else render_string(text, record.parse_output)

    # -- configuration ------------------------------------------------------------------

    def update(
        self,
        record: ApplicationRecord,
        current: Sequence[Model],
        versions: Mapping[str, Model],
    ) -> None:
        """Take a new record and the models it now leads to.

        `current` are the candidates' current versions in order; `versions`, those of
        the single linked model by version, for queries that name one.
        """
        if record is not self.record:
            self._set_record(record)
        self._models = {model.id: model for model in current}
        self._versions = dict(versions)
        self.stats.follow((m.dispatcher.stats for m in self.reachable), self._now())
        self._state = self._policy.init(tuple(self._models))
        self._stamps = {model.id: self._stamp(model) for model in current}
        self._standing = self._choose(NOBODY, None) if self._policy.fixed else None

    def _stamp(self, model: Model) -> Stamp:
        record = self.record
        arm = model.record.generation
        return self._ids.stamp(record.number, record.policy_generation, arm, 1.0)

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
        model, stamp = (
            self._standing
            if version is None and self._standing is not None
            else self._choose(subject, version)
        )
        query = Query(self, receiver, stamp, arrived, deadline)
        if model is None or not model.connected:
            query.job_done(NO_MODEL)
            return query
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

    def submit_batch(
        self,
        rows: Sequence[Row],
        receiver: BatchReceiver,
        subject: Subject = NOBODY,
        version: str | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
    ) -> BatchQuery:
        """Ask for one prediction for each row; rows that are equal are evaluated once."""
        model, batch = self._begin_batch(len(rows), receiver, subject, version, deadline_ms)
        if model is None:
            return batch
        for index, row in enumerate(rows):
            waiter = RowWaiter(batch, index)
            if not (cache and self.caching):
                job = Job(row.payload, row.shape, batch.deadline, waiter)
                batch.jobs.append((job, waiter))
                model.submit(job)
                continue
            key = cache_key(model.prefix, *row)
            hit = (
                self._cache.get(key)
                if self._ttl is None
                else self._cache.get_since(key, batch.arrived - self._ttl)
            )
            if hit is not None:
                batch.row_done(index, hit)
                continue
            started = self._join_or_start(model, key, row, batch.deadline, waiter)
            batch.jobs.append((started, waiter))
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
        model, batch = self._begin_batch(rows, receiver, subject, version, deadline_ms)
        if model is None:
            return batch
        block = Block(payload, rows, shape, batch.deadline, batch)
        batch.blocks.append(block)
        model.submit(block)
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
    ) -> tuple[Model | None, BatchQuery]:
        arrived = self._now()
        deadline = arrived + self._budget(deadline_ms)
        model, stamp = self._choose(subject, version)
        batch = BatchQuery(self, receiver, stamp, arrived, deadline, rows)
        if model is None or not model.connected:
            for index in range(rows):
                batch.row_done(index, NO_MODEL)
            model = None
        if not rows:
            batch.finish()
            model = None
        return model, batch

    def _budget(self, deadline_ms: float | None) -> float:
        return self.slo if deadline_ms is None else min(self.slo, deadline_ms / 1e3)

    def _choose(self, subject: Subject, version: str | None) -> tuple[Model | None, Stamp]:
        if version is not None:
            model = self._named_version(version)
            return model, self._stamp(model)
        decision = self._policy.select(self._state, subject, self._rng)
        if decision is None:
            return None, self._unanswered
        arm = decision.arms[0]
        return self._models[arm], self._stamps[arm]

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
        self, model: Model, key: bytes, row: Row, deadline: float, waiter: Query | RowWaiter
    ) -> Job:
        """Single flight: wait for the evaluation of this key, or begin it."""
        job = self._cache.join(key)
        if job is not None:
            if job.join(waiter, deadline):
                model.intake.promote(job)
            return job
        job = Job(row.payload, row.shape, deadline, waiter, key, model)
        self._cache.begin(key, job)
        model.submit(job)
        return job

    # -- answers ------------------------------------------------------------------------

    def count(self, output: Output, arrived: float) -> None:
        """One query was settled."""
        stats, now = self.stats, self._now()
        if now >= stats.turns_at:
            stats.turn(now)
        if type(output) is RowError:
            stats.fail(output)
        else:
            stats.predictions += 1
        stats.latency.observe(now - arrived)

    def count_batch(self, outputs: Sequence[Output | None], arrived: float) -> None:
        stats, now = self.stats, self._now()
        if now >= stats.turns_at:
            stats.turn(now)
        failures = [output for output in outputs if isinstance(output, RowError)]
        for error in failures:
            stats.fail(error)
        stats.predictions += len(outputs) - len(failures)
        stats.latency.observe_many(now - arrived, len(outputs))

    def recent(self) -> Recent:
        """What became of the rows of the last 30 to 60 seconds."""
        return self.stats.recent(self._now())

    def text(self, output: bytes | str) -> bytes:
        """A model's output as JSON text."""
        if type(output) is bytes:
            return output
        # a worker sends a string output as str only where it is JSON text
        assert type(output) is str
        return output.strip().encode() if self._parses else msgspec.json.encode(output)

    @property
    def _parses(self) -> bool:
        # what a json function returns is JSON already: a string is meant as a string
        return self.record.parse_output and self.record.input_type != "json"

    def default_for(self, error: RowError) -> bytes | None:
        """The default output as JSON text, or None where the error must be told."""
        if error.code == "overloaded" and self.record.on_overload == "reject":
            return None
        return self._default

    def default_tail(self, error: RowError) -> bytes | None:
        """What follows the query id in an answer with the default output, made once for
        each of the few causes there are; None where the error must be told."""
        try:
            return self._default_tails[error.cause]
        except KeyError:
            default, tail = self.default_for(error), None
            if default is not None:
                tail = _DEFAULT_TAIL % (default, msgspec.json.encode(error.cause))
            if len(self._default_tails) < MOST_TAILS:
                self._default_tails[error.cause] = tail
            return tail

    def error_for(self, error: RowError) -> ClipperError:
        return error_class(error)(error.cause)

    def prediction(self, query: Query) -> Prediction:
        """The settled query as a value. Raises where there is no default output."""
        return self.make_prediction(query.issue_id().decode(), query.output)

    def make_prediction(self, query_id: str, output: Output) -> Prediction:
        if not isinstance(output, RowError):
            return Prediction(query_id, msgspec.json.decode(self.text(output)))
        default = self.default_for(output)
        if default is None:
            raise self.error_for(output)
        return Prediction(query_id, msgspec.json.decode(default), True, output.cause)


def error_class(error: RowError) -> type[ClipperError]:
    """What a failed query becomes where there is no default output."""
    return _ERRORS.get(error.code, ModelFailed)


def render_string(text: str, parse: bool) -> bytes:
    """A string output as JSON text: as the JSON it holds, if it does and `parse` is
    set, else as a JSON string."""
    if parse:
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
        else:
            return text.strip().encode()
    return msgspec.json.encode(text)
