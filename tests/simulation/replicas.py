"""Virtual workers: they take as long as a seed says, and fail as real ones do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from clipper.clock import Clock
from clipper.layout import decode_batch
from clipper.values import Batch, BatchFailure, BatchResult, FailureKind, Output, RowError
from clipper.workers.replica_set import State, WorkerSpec

if TYPE_CHECKING:
    from .world import World

MAX_IN_FLIGHT = 2

# What the function does with a row, by its value. The rest are answered.
RAISES, KILLS, FAILS = 13, 17, 19
CYCLE = 101

RAISED = "the function raised"
MISCOUNTED = "the function returned another number of outputs"
ROW_FAILED = RowError("model_failed", "the output is not a number")


@dataclass(frozen=True)
class Nature:
    """How the workers of a model behave. Times are seconds, chances are per batch."""

    fixed: float = 0.001
    per_row: float = 0.0004
    noise: float = 0.02  # standard deviation, of the service time
    tail: float = 0.0  # chance that a batch takes up to `tail_seconds` longer
    tail_seconds: float = 0.02
    jump_at: float = float("inf")  # when service times are multiplied by `jump`
    jump: float = 2.0
    slow_replica: float = 1.0  # times as slow is the first of several replicas
    wire: float = 0.0  # seconds each way
    crash: float = 0.0
    hang: float = 0.0
    hang_seconds: float = 0.3
    miscount: float = 0.0
    odd_rows: bool = False  # whether there are rows that raise, kill or fail
    restart: tuple[float, float] = (0.0, 0.05)  # seconds until there is another worker

    def does(self, value: int) -> int | None:
        """RAISES, KILLS or FAILS, or None where the row is answered."""
        odd = value % CYCLE
        return odd if self.odd_rows and odd in (RAISES, KILLS, FAILS) else None

    def seconds(self, rows: int, now: float, rng: Random) -> float:
        took = self.fixed + self.per_row * rows
        if self.noise:
            took *= max(0.2, rng.gauss(1.0, self.noise))
        if self.tail and rng.random() < self.tail:
            took += rng.random() * self.tail_seconds
        return took * self.jump if now >= self.jump_at else took


def output_of(value: int, generation: int) -> bytes:
    """What version `generation` of the model answers for a row."""
    return b"%d" % (value * 1000 + generation)


class VirtualReplica:
    """Runs one batch at a time, in order, and may hold a second one."""

    # State: the batches, the running one first, with its values, how long it takes and
    # what will happen to it; when the worker became free; whether it takes batches, and
    # whether it is over.

    def __init__(self, owner: VirtualReplicaSet, number: int, speed: float) -> None:
        self.owner = owner
        self.number = number
        self.speed = speed
        self.batches: deque[Batch] = deque()
        self.ready = True
        self.over = False
        self._values: list[int] = []
        self._seconds = 0.0
        self._fate: Any = None
        self._free_at = 0.0

    @property
    def room(self) -> bool:
        return self.ready and len(self.batches) < MAX_IN_FLIGHT

    def submit(self, batch: Batch) -> None:
        owner = self.owner
        assert self.room, "a batch for a replica without room"
        self.batches.append(batch)
        owner.world.watch.sent(self, batch)
        if len(self.batches) == 1:
            self._begin(max(owner.world.clock.now() + owner.nature.wire, self._free_at))

    def _begin(self, at: float) -> None:
        owner, nature, rng = self.owner, self.owner.nature, self.owner.rng
        batch = self.batches[0]
        owner.world.watch.begun(self, batch)
        self._values = _values_of(owner.spec.input_type, batch)
        took = self._seconds = nature.seconds(batch.rows, at, rng) * self.speed
        later, chance = owner.world.loop.at, rng.random()
        if chance < nature.hang:
            self._fate = later(at + nature.hang_seconds, self.die, FailureKind.HUNG)
        elif chance < nature.hang + nature.crash or self._kills():
            when = at + took * rng.random()
            self._fate = later(when, self.die, FailureKind.CRASHED)
        else:
            self._free_at = at + took
            self._fate = later(self._free_at + nature.wire, self._finish)

    def _kills(self) -> bool:
        nature = self.owner.nature
        return nature.odd_rows and any(nature.does(v) == KILLS for v in self._values)

    def _finish(self) -> None:
        owner, batch = self.owner, self.batches.popleft()
        result = self._result(batch)
        batch.seconds = self._seconds
        if self.batches:
            self._begin(self._free_at)
        owner.world.watch.finished(self, batch, result)
        batch.done(batch, result)
        if not self.ready and not self.batches:
            self.over = True

    def _result(self, batch: Batch) -> BatchResult:
        nature, generation = self.owner.nature, self.owner.generation
        if nature.miscount and self.owner.rng.random() < nature.miscount:
            return BatchFailure(FailureKind.WRONG_COUNT, MISCOUNTED)
        if not nature.odd_rows:
            return [output_of(value, generation) for value in self._values]
        kinds = [nature.does(value) for value in self._values]
        if RAISES in kinds:
            return BatchFailure(FailureKind.RAISED, RAISED)
        outputs: list[Output] = []
        for value, kind in zip(self._values, kinds, strict=True):
            outputs.append(ROW_FAILED if kind == FAILS else output_of(value, generation))
        return outputs

    def die(self, kind: FailureKind) -> None:
        """The worker is gone. The oldest batch is to blame, the one behind it is not."""
        if self.over:
            return
        self.over = True
        self.ready = False
        if self._fate is not None:
            self._fate.cancel()
        batches, self.batches = self.batches, deque()
        self.owner.ended(self)
        for batch in batches:
            failure = BatchFailure(kind, kind.value)
            self.owner.world.watch.finished(self, batch, failure)
            batch.done(batch, failure)
            kind = FailureKind.RETURNED

    def retire(self) -> None:
        """Take nothing new, and end with what is in flight."""
        self.ready = False
        self.over = not self.batches


def _values_of(kind: Any, batch: Batch) -> list[int]:
    rows = decode_batch(kind, batch.rows, batch.layout, bytearray(b"".join(batch.buffers)))
    assert len(rows) == batch.rows
    if isinstance(rows, np.ndarray):
        return [int(value) for value in rows[:, 0].tolist()]
    return [int(row[0]) for row in rows]


class VirtualReplicaSet:
    """Stands in for a model's ReplicaSet."""

    # State: every replica that is not over; those of them that take batches; how many
    # there should be, and ever were; whether workers that end are followed by others.

    def __init__(
        self,
        world: World[Any],
        spec: WorkerSpec,
        load_blob: Callable[[], Awaitable[bytes]],
        *,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self.world = world
        self.spec = spec
        self.nature = world.scenario.nature
        self.rng = Random(world.rng.random())
        self.generation = int(spec.version)
        self._on_change = on_change
        self.replicas: list[VirtualReplica] = []
        self.ready: tuple[VirtualReplica, ...] = ()
        self.state = State.STARTING
        self.live = 0
        self.wanted = 0
        self.count = 0
        self._told: object = None

    def judge(self, ended: Any, verdict: Any) -> None: ...

    def restore(self, replicas: int) -> None:
        self.wanted = replicas
        self.state = State.STARTING
        for _ in range(replicas - len(self.ready)):
            self._add()

    def _add(self) -> None:
        if self.live >= self.wanted or self.state in (State.FAILED, State.STOPPED):
            return
        slow = self.nature.slow_replica if self.count == 0 else 1.0
        self.replicas.append(VirtualReplica(self, self.count, slow))
        self.count += 1
        self._changed()

    def ended(self, replica: VirtualReplica) -> None:
        self._changed()
        pause = self.rng.uniform(*self.nature.restart)
        self.world.loop.at(self.world.clock.now() + pause, self._add)

    def scale(self, replicas: int) -> None:
        """Fewer or more; those that are too many answer what they have."""
        if self.state in (State.FAILED, State.STOPPED):
            return
        self.wanted = replicas
        for replica in self.ready[replicas:]:
            replica.retire()
        self._changed()
        for _ in range(replicas - self.live):
            self._add()

    def fail(self) -> None:
        """The version is given up: workers end and none follows, for now."""
        if self.state is State.STOPPED:
            return
        self.state = State.FAILED
        for replica in self.ready:
            replica.die(FailureKind.CRASHED)
        self._changed()

    def recover(self) -> None:
        if self.state is State.FAILED:
            self.restore(self.wanted)

    async def stop(self, drain_seconds: float) -> None:
        self.state = State.STOPPED
        self.wanted = 0
        for replica in self.replicas:
            replica.retire()
        self._changed()
        await asyncio.sleep(min(drain_seconds, 0.01))
        for replica in self.replicas:
            replica.die(FailureKind.CRASHED)
        self._changed()

    def _changed(self) -> None:
        self.replicas = [replica for replica in self.replicas if not replica.over]
        ready = tuple(replica for replica in self.replicas if replica.ready)
        if ready != self.ready:
            self.ready = ready
        self.live = len(ready)
        if self.state not in (State.FAILED, State.STOPPED):
            self.state = State.LIVE if self.live else State.STARTING
        now = (self.state, self.live)
        if now != self._told:
            self._told = now
            self._on_change()
