"""Stand-ins for time, the event loop and replicas, moved by hand."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from clipper.application import Application
from clipper.cache import PredictionCache
from clipper.clock import Clock
from clipper.config import LearningSettings
from clipper.inputs import InputType
from clipper.layout import decode_batch
from clipper.learning.service import Learning
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord
from clipper.store.memory import MemoryStore
from clipper.values import Batch, BatchFailure, BatchResult, FailureKind, Output
from clipper.workers.replica_set import State, WorkerSpec
from clipper.workers.turns import Turns


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 1000.0, wall: float = 1.7e9) -> None:
        self._now = now
        self._wall = wall

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def move(self, seconds: float) -> None:
        self._now += seconds
        self._wall += seconds


class FakeTimer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """`call_soon` and `call_later` of an event loop in the time of a ManualClock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._ticket = count()
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._soon: list[Callable[[], None]] = []
        self.spawned: list[Any] = []

    @property
    def armed(self) -> list[FakeTimer]:
        return [timer for _, _, timer in self._timers if not timer.cancelled]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.clock.now() + delay, callback)
        heapq.heappush(self._timers, (timer.at, next(self._ticket), timer))
        return timer

    async def work(self) -> None:
        """Do what was spawned, and what that schedules."""
        self.turn()
        while self.spawned:
            await self.spawned.pop(0)
            self.turn()

    def turn(self) -> None:
        """Run what was scheduled, and what that schedules, until nothing is due."""
        while self._soon:
            due, self._soon = self._soon, []
            for callback in due:
                callback()

    def advance(self, seconds: float) -> None:
        """Let time pass; timers fire in order, each at its own time."""
        end = self.clock.now() + seconds
        self.turn()
        while self._timers and self._timers[0][0] <= end:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                self.clock.move(max(0.0, timer.at - self.clock.now()))
                timer.callback()
                self.turn()
        self.clock.move(end - self.clock.now())


def fake_learning(
    clock: ManualClock, loop: FakeLoop, settings: LearningSettings | None = None
) -> Learning:
    """Learning over an open log in memory; what it would do in the background is kept in
    `loop.spawned`."""
    log = MemoryStore()
    log._open = True  # as open() does, which is a coroutine
    return Learning(
        log,
        clock,
        settings or LearningSettings(),
        call_soon=loop.call_soon,
        call_later=loop.call_later,
        spawn=loop.spawned.append,
    )


def make_application(
    record: ApplicationRecord,
    ids: QueryIds,
    cache: PredictionCache[Any],
    *,
    clock: ManualClock,
    loop: FakeLoop,
    learning: Learning | None = None,
) -> Application:
    """An application with a learner of its own."""
    learning = learning or fake_learning(clock, loop)
    return Application(
        record,
        learning.begin(record),
        learning,
        ids,
        cache,
        clock=clock,
        call_later=loop.call_later,
    )


def values_of(kind: InputType, batch: Batch) -> list[Any]:
    """What the function in a worker would see of a batch, as plain lists."""
    body = bytearray(b"".join(batch.buffers))
    rows = decode_batch(kind, batch.rows, batch.layout, body)
    return [row.tolist() if hasattr(row, "tolist") else row for row in rows]


class FakeReplica:
    """Keeps what it is sent until the test answers."""

    def __init__(self, kind: InputType = InputType.DOUBLES, room: int = 2) -> None:
        self.kind = kind
        self.capacity = room
        self.batches: list[Batch] = []
        self.seen: list[list[Any]] = []

    @property
    def room(self) -> bool:
        return len(self.batches) < self.capacity

    def submit(self, batch: Batch) -> None:
        assert self.room
        self.batches.append(batch)
        self.seen.append(values_of(self.kind, batch))

    def answer(
        self,
        function: Callable[[Any], Output] = lambda row: str(row).encode(),
        seconds: float = 0.001,
    ) -> None:
        """Answer the oldest batch, row by row."""
        batch = self.batches[0]
        self._finish([function(row) for row in values_of(self.kind, batch)], seconds)

    def oldest(self) -> list[Any]:
        """The rows of the oldest batch."""
        return values_of(self.kind, self.batches[0])

    def fail(self, kind: FailureKind, cause: str = "it failed") -> None:
        """Fail the oldest batch."""
        self._finish(BatchFailure(kind, cause), 0.001)

    def _finish(self, result: BatchResult, seconds: float) -> None:
        batch = self.batches.pop(0)
        batch.seconds = seconds
        batch.done(batch, result)


class FakeReplicaSet:
    """The replicas of a model without processes: one FakeReplica, LIVE once restored or
    started. Tests take it out of service with `become`."""

    def __init__(
        self,
        spec: WorkerSpec,
        load_blob: Callable[[], Awaitable[bytes]],
        *,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.live = 0
        self.wanted = 0
        self.replica = FakeReplica(spec.input_type)
        self._ready = (self.replica,)
        self._on_change = on_change

    @property
    def ready(self) -> tuple[FakeReplica, ...]:
        return self._ready if self.live else ()

    def judge(self, ended: Any, verdict: Any) -> None: ...

    def become(self, state: State) -> None:
        self.state = state
        self.live = self.wanted if state is State.LIVE else 0
        self._on_change()

    def restore(self, replicas: int, turns: Turns | None = None) -> None:
        self.wanted = replicas
        self.become(State.LIVE)

    async def start(self, replicas: int, progress: Any = None) -> None:
        self.restore(replicas)

    async def scale(self, replicas: int, drain_seconds: float = 10.0) -> None:
        self.wanted = replicas
        self.become(State.LIVE if replicas else State.STARTING)

    async def stop(self, drain_seconds: float) -> None:
        while self.replica.batches:
            self.replica.fail(FailureKind.RETURNED)
        self.become(State.STOPPED)
