"""One deployed model version: queue, controller and replicas behind one `submit`.

This is the one file where batching meets workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from clipper.background import Background
from clipper.batching.controller import BatchController
from clipper.batching.dispatcher import Dispatcher
from clipper.batching.job import Block, Job
from clipper.batching.registry import make_controller
from clipper.batching.wait import make_wait
from clipper.cache import PredictionCache, exact_prefix, key_prefix
from clipper.clock import Clock
from clipper.config import Limits
from clipper.errors import InvalidInput
from clipper.inputs import encode_json_value, parse_input_type
from clipper.records import BatchingSettings, ModelRecord
from clipper.values import ModelId, Output, RowError
from clipper.workers.replica_set import ReplicaSet, State, WorkerSpec

logger = logging.getLogger(__name__)

NO_REPLICA = RowError("no_model", "No connected models found for query")
STOPPED = RowError("unavailable", "The model version was taken out of service")

# What a batch may take of the SLO: all but a little for the way back.
WAY_BACK = 0.05
DEFAULT_OBJECTIVE = 0.05  # seconds, until an application with an SLO links the model


def _make_controller(record: ModelRecord) -> BatchController:
    """What the record names. It was there when the version was deployed; where it is no
    longer, as when a program does not add its own, the version is served all the same."""
    try:
        return make_controller(record.batching, DEFAULT_OBJECTIVE)
    except InvalidInput as error:
        logger.error("%s is served with the default controller: %s", record.key, error)
        return make_controller(BatchingSettings(), DEFAULT_OBJECTIVE)


class MakeReplicas(Protocol):
    """ReplicaSet, or what a program makes of it: with simulated replicas, say."""

    def __call__(
        self,
        spec: WorkerSpec,
        load_blob: Callable[[], Awaitable[bytes]],
        *,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> ReplicaSet: ...


class Model:
    """A model version that can answer."""

    def __init__(
        self,
        record: ModelRecord,
        load_blob: Callable[[], Awaitable[bytes]],
        cache: PredictionCache[Job],
        *,
        clock: Clock,
        limits: Limits,
        on_connection: Callable[[Model], None] = lambda model: None,
        make_replicas: MakeReplicas | None = None,
    ) -> None:
        self.record = record
        self.id = ModelId(record.name, record.version)
        self.input_type = parse_input_type(record.input_type)
        self.prefix = key_prefix(record.generation)
        self.exact_prefix = exact_prefix(self.prefix)
        self._cache = cache
        self._on_connection = on_connection
        loop = asyncio.get_running_loop()
        self.dispatcher = Dispatcher(
            self.input_type,
            _make_controller(record),
            lambda: self.replicas.ready,
            clock=clock,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            wait=make_wait(record.batching),
            limit=limits.queue_rows,
            retry=record.retry,
            on_verdict=lambda ended, verdict: self.replicas.judge(ended, verdict),
        )
        self.replicas = (make_replicas or ReplicaSet)(
            self._worker_spec(),
            load_blob,
            clock=clock,
            on_change=self._replicas_changed,
        )
        self.intake = self.dispatcher.intake
        self.background = Background(self.dispatcher, clock.now)
        self.submit: Callable[[Job | Block], None] = self.intake.submit
        # All mutable state beside the above: whether a replica answers or is expected to
        # (kept, because every query asks), whether it is known if the replicas come up, and
        # whether the version is on its way out.
        self._known = False
        self.connected = record.blob is not None and record.num_replicas > 0
        self.stopped = False

    def __repr__(self) -> str:
        return f"<Model {self.id} {self.replicas.state.name} {self.intake.queue!r}>"

    @property
    def starting(self) -> bool:
        """True until its replicas have come up, or failed to, for the first time: later
        a crash of one model takes no server out of service for others."""
        return self.connected and not self._known

    def set_objectives(self, slos: Sequence[float]) -> None:
        """The SLOs in seconds of the applications that this version answers for: the
        tightest bounds a batch, and several share the model fairly."""
        self.intake.share(len(slos) > 1)
        self.dispatcher.fleet.set_objective(
            (1.0 - WAY_BACK) * min(slos) if slos else DEFAULT_OBJECTIVE
        )

    def job_settled(self, job: Job, output: Output) -> None:
        """A cached job is over: keep its output, unless it failed."""
        assert job.key is not None
        kept = None if isinstance(output, RowError) or self.stopped else output
        self._cache.finish(job.key, job, kept)

    def promote(self, job: Job) -> None:
        """A waiter with an earlier deadline joined the job."""
        self.background.promote(job)

    async def stop(self, drain_seconds: float) -> None:
        """Answer what was accepted, within the bound, and end the workers: those that are
        still starting are waited for where somebody waits for them."""
        answers, self.connected = self.connected, False
        self.stopped = True
        if answers:
            await self.dispatcher.drain(drain_seconds)
        await self.replicas.stop(drain_seconds)
        self.dispatcher.close(STOPPED)
        self.background.close(STOPPED)

    def _replicas_changed(self) -> None:
        state = self.replicas.state
        self._known = self._known or state is not State.STARTING
        expected = self.replicas.wanted > 0 and state in (State.STARTING, State.LIVE)
        before, self.connected = self.connected, expected and not self.stopped
        if expected:  # also while it ends: it may be what is waited for
            self.dispatcher.reopen()
        elif not self.stopped or state is State.FAILED:
            self.dispatcher.close(NO_REPLICA)
            self.background.close(NO_REPLICA)
        if self.connected != before:
            self._on_connection(self)
        live = self.replicas.live
        noun = "replica" if live == 1 else "replicas"
        logger.info("%s is %s, %d %s live", self.id, state.value, live, noun)

    def _worker_spec(self) -> WorkerSpec:
        record = self.record
        example = None
        if record.example is not None:
            example = encode_json_value(self.input_type, record.example, "example")
        return WorkerSpec(
            name=record.name,
            version=record.version,
            input_type=self.input_type,
            example=example,
            environment=record.environment,
            memory_limit=record.memory_limit,
            spares=record.spares,
            recycle_after=record.recycle_after,
            recycle_memory=record.recycle_memory,
        )
