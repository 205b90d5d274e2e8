"""Replicas without processes, whose life a test has in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clipper.clock import Clock
from clipper.values import Batch, BatchFailure, FailureKind, Output
from clipper.workers.spec import (
    Patience,
    ReplicaFailed,
    ReplicaState,
    ReplicaStatistics,
    WorkerSpec,
)
from clipper.workers.supervised import LoadBlob, Report, Supervised


class Puppet:
    """Ready as soon as it is started, unless its troupe says otherwise."""

    def __init__(self, troupe: Troupe, on_end: Callable[[Supervised], None]) -> None:
        self.state = ReplicaState.STARTING
        self.reason = ""
        self.pid = len(troupe.all)
        self.batches: list[Batch] = []
        self.served = 0
        self.bytes = troupe.bytes
        self.killed = False
        self.patient = False  # whether it finishes its batches before it stops
        self.looked_at = 0  # how often its statistics were asked for
        self._idle = asyncio.Event()  # once a batch was the last
        self._gone = asyncio.Event()
        self.slow_to_go = False  # whether it takes its time when its start is given up
        self.cancelled = 0  # times that somebody gave up its start
        self.blob = b""
        self.began = 0.0  # on the clock
        self.patience: Patience | None = None
        self.first: tuple[int, float] | None = None
        self.drains: list[float] = []  # what it was given to stop, each time
        self._troupe = troupe
        self._on_end = on_end

    @property
    def room(self) -> bool:
        return self.state is ReplicaState.READY and len(self.batches) < 2

    @property
    def in_flight(self) -> int:
        return len(self.batches)

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)

    async def start(self, load_blob: LoadBlob, report: Report) -> None:
        try:
            self.blob = await load_blob()
            if self._troupe.gate is not None:
                await self._troupe.gate.wait()
            if self._troupe.seconds:
                await asyncio.sleep(self._troupe.seconds)
        except BaseException:
            await self._go()
            raise
        if why := self._troupe.refusals.get(self.pid, self._troupe.refuses):
            self.kill()
            raise ReplicaFailed(why)
        report("loading", 0.25)
        report("example", 0.5)
        self.state = ReplicaState.READY

    async def _go(self) -> None:
        """End after a start that was given up, and count who would not wait for that."""
        try:
            self.cancelled += 1
            if self.slow_to_go:
                await asyncio.sleep(0.05)
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.kill()

    async def stop(self, drain_seconds: float) -> None:
        self.drains.append(drain_seconds)
        if self.patient and self.batches:
            self.state = ReplicaState.DRAINING
            self._idle.clear()
            await self._idle.wait()
        self.kill()

    def answer(self, outputs: list[Output]) -> None:
        """Answer the oldest batch."""
        batch = self.batches.pop(0)
        batch.done(batch, outputs)
        if not self.batches:
            self._idle.set()

    def kill(self) -> None:
        if self.state not in (ReplicaState.STOPPED, ReplicaState.FAILED):
            self._end(ReplicaState.STOPPED, FailureKind.RETURNED)

    def die(self, kind: FailureKind = FailureKind.CRASHED) -> None:
        self.reason = kind.value
        self._end(ReplicaState.FAILED, kind)

    def _end(self, state: ReplicaState, kind: FailureKind) -> None:
        self.state = state
        batches, self.batches = self.batches, []
        self._idle.set()
        self._gone.set()
        self._on_end(self)
        for batch in batches:
            batch.done(batch, BatchFailure(kind, kind.value))
            kind = FailureKind.RETURNED

    async def wait_gone(self) -> None:
        await self._gone.wait()

    def output(self) -> str:
        return f"output of {self.pid}"

    def statistics(self) -> ReplicaStatistics:
        self.looked_at += 1
        return ReplicaStatistics(
            self.state,
            self.pid,
            self.served,
            self.served,
            self.in_flight,
            0.0,
            self.reason,
            self.first,
            self.killed,
        )

    def memory(self) -> int | None:
        return self.bytes


class Troupe:
    """Makes the puppets of a replica set, and keeps them."""

    def __init__(self) -> None:
        self.all: list[Puppet] = []
        self.refuses = ""  # why no puppet starts, if so
        self.refusals: dict[int, str] = {}  # the same of one, by its number
        self.gate: asyncio.Event | None = None  # what those that start wait for
        self.seconds = 0.0  # that those to come take to start
        self.bytes: int | None = None  # of those to come

    def __call__(
        self,
        spec: WorkerSpec,
        clock: Clock,
        *,
        on_end: Callable[[Supervised], None],
        patience: Patience | None,
    ) -> Puppet:
        puppet = Puppet(self, on_end)
        puppet.began, puppet.patience = clock.now(), patience
        self.all.append(puppet)
        return puppet
