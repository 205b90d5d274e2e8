"""The replicas of one model version, kept alive.

A replica that dies is started again, at once the first time and then with growing pauses.
Too many deaths in a short time stop that: the version has failed, and every half minute
one replica tries whether it has healed. Replicas that live through all this go on
serving. Nothing here can hurt the server or another version.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from clipper.clock import Clock
from clipper.errors import ClipperError, DeployFailed
from clipper.workers.replica import (
    Patience,
    Replica,
    ReplicaFailed,
    ReplicaState,
    ReplicaStatistics,
    WorkerSpec,
)

__all__ = ["ReplicaSet", "Restarts", "SetStatistics", "State", "WorkerSpec"]

logger = logging.getLogger(__name__)

Progress = Callable[[str, dict[str, Any]], None]


class State(Enum):
    STARTING = "starting"  # no replica is ready yet, or all are being restarted
    LIVE = "live"  # at least one replica answers
    FAILED = "failed"  # none answers and restarting has not helped
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a dead replica is started again; all in seconds but for `deaths`."""

    first_pause: float = 0.1
    last_pause: float = 10.0
    deaths: int = 3  # more than so many
    window: float = 60.0  # within so long are a crash loop
    retry: float = 30.0  # between tries while the version has failed


@dataclass(frozen=True, slots=True)
class SetStatistics:
    state: State
    reason: str
    live: int
    wanted: int
    deaths: int  # since the start of the server
    restarts: int
    replicas: tuple[ReplicaStatistics, ...]


class _Slot:
    """A place for one replica, and the task that keeps it filled."""

    __slots__ = ("failures", "gone", "keeper", "replica", "started_at")

    def __init__(self) -> None:
        self.replica: Replica | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()  # set when the replica ended
        self.failures = 0  # deaths in a row, for the pause
        self.started_at = 0.0


class ReplicaSet:
    """Starts, restarts, scales and stops the workers of one model version.

    `on_room` is called when a replica can take a batch that could not before, `on_change`
    when `state`, `live` or `reason` may have changed. Both are plain calls.
    """

    # State: `_slots` are the places that are to be filled; `_deaths` the times of recent
    # deaths; `_tripped` says that a crash loop was seen and no replica was ready since;
    # `_probe` serialises tries while it is; `_leaving` are replicas on their way out.

    def __init__(
        self,
        spec: WorkerSpec,
        load_blob: Callable[[], Awaitable[bytes]],
        *,
        clock: Clock,
        on_room: Callable[[], None],
        on_change: Callable[[], None],
        restarts: Restarts | None = None,
        patience: Patience | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.reason = ""
        self._load_blob = load_blob
        self._clock = clock
        self._on_room = on_room
        self._on_change = on_change
        self._restarts = restarts or Restarts()
        self._patience = patience
        self._jitter = jitter
        self._slots: list[_Slot] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._deaths: deque[float] = deque(maxlen=self._restarts.deaths + 1)
        self._death_count = self._restart_count = 0
        self._tripped = False
        self._stopped = False
        self._probe = asyncio.Lock()
        self._last_output = ""

    def __repr__(self) -> str:
        name = f"{self.spec.name}:{self.spec.version}"
        return f"<ReplicaSet {name} {self.state.value} {self.live}/{len(self._slots)}>"

    # -- what others ask -------------------------------------------------------------

    @property
    def replicas(self) -> list[Replica]:
        """Those that are up or coming up."""
        return [slot.replica for slot in self._slots if slot.replica is not None]

    @property
    def live(self) -> int:
        """How many are ready."""
        return sum(replica.state is ReplicaState.READY for replica in self.replicas)

    @property
    def state(self) -> State:
        if self._stopped:
            return State.STOPPED
        if self.live:
            return State.LIVE
        return State.FAILED if self._tripped else State.STARTING

    def pick(self) -> Replica | None:
        """The ready replica with the fewest batches in flight, if any has room."""
        best: Replica | None = None
        for slot in self._slots:
            replica = slot.replica
            if replica is not None and replica.room:
                if not replica.in_flight:
                    return replica
                if best is None or replica.in_flight < best.in_flight:
                    best = replica
        return best

    def statistics(self) -> SetStatistics:
        return SetStatistics(
            self.state,
            self.reason,
            self.live,
            len(self._slots),
            self._death_count,
            self._restart_count,
            tuple(replica.statistics() for replica in self.replicas),
        )

    def log_tail(self) -> str:
        """The last output of each worker, and of the latest one that died."""
        parts = [("the latest worker that ended", self._last_output)]
        parts += [(f"worker {r.pid}", r.output()) for r in self.replicas]
        return "\n".join(f"== {title} ==\n{text}" for title, text in parts if text)

    # -- life ------------------------------------------------------------------------

    async def start(self, replicas: int, progress: Progress | None = None) -> None:
        """Start so many and return when all are ready, for a deploy.

        Raises DeployFailed with the worker's own words, everything stopped again.
        `progress` hears of the stages loading, example and ready.
        """
        try:
            await self._grow(replicas, progress)
        except BaseException:
            await self.stop(0)
            raise

    def restore(self, replicas: int) -> None:
        """Start so many in the background, under supervision from the first moment."""
        for _ in range(replicas):
            slot = _Slot()
            self._slots.append(slot)
            self._keep(slot)
        self._on_change()

    async def scale(self, replicas: int, drain_seconds: float = 10.0) -> None:
        """Have so many: more are started and awaited, the surplus finishes its batches.

        Raises DeployFailed when a new one does not start; those before stay.
        """
        if self._stopped:
            raise DeployFailed("the model version was stopped")
        if replicas > len(self._slots):
            await self._grow(replicas - len(self._slots), None)
        elif replicas < len(self._slots):
            surplus = self._slots[replicas:]
            del self._slots[replicas:]
            self._on_change()
            await self._retire(surplus, drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Finish what is in flight within the bound and end all workers. Idempotent."""
        self._stopped = True
        slots, self._slots = self._slots, []
        if slots:
            self._on_change()
        await self._retire(slots, drain_seconds)

    async def _grow(self, count: int, progress: Progress | None) -> None:
        """Add so many ready replicas or none."""
        told: set[str] = set()

        def report(stage: str, seconds: float) -> None:
            if progress is not None and stage not in told:
                told.add(stage)
                progress(stage, {"seconds": seconds})

        slots = [_Slot() for _ in range(count)]
        ready = 0
        try:
            starts = [asyncio.ensure_future(self._fill(slot, report)) for slot in slots]
            try:
                for finished in asyncio.as_completed(starts):
                    await finished
                    ready += 1
                    if progress is not None:
                        progress("ready", {"replicas": ready, "of": count})
            finally:
                for start in starts:
                    start.cancel()
                await asyncio.gather(*starts, return_exceptions=True)
            if self._stopped:
                raise DeployFailed("the model version was stopped while it started")
        except BaseException as error:
            await self._retire(slots, 0)
            if isinstance(error, ReplicaFailed):
                raise DeployFailed(_in_full(error)) from None
            raise
        self._slots += slots
        for slot in slots:
            self._keep(slot)
        self._on_change()
        self._on_room()

    async def _fill(self, slot: _Slot, report: Callable[[str, float], None]) -> None:
        """Start a replica in the slot, or raise what kept it from starting."""
        slot.gone.clear()
        slot.started_at = self._clock.now()
        slot.replica = Replica(
            self.spec,
            self._clock,
            on_room=self._on_room,
            on_end=lambda replica: slot.gone.set(),
            patience=self._patience,
        )
        try:
            await slot.replica.start(self._load_blob, report)
        except BaseException:
            self._remember(slot)
            raise

    def _remember(self, slot: _Slot) -> None:
        """Empty the slot, but keep what its worker printed."""
        if slot.replica is not None:
            self._last_output = slot.replica.output() or self._last_output
            slot.replica = None

    async def _retire(self, slots: list[_Slot], drain_seconds: float) -> None:
        """End the keepers first, else they would start anew what is stopped next."""
        keepers = [slot.keeper for slot in slots if slot.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        if keepers:
            await asyncio.wait(keepers)
        await asyncio.gather(
            *(slot.replica.stop(drain_seconds) for slot in slots if slot.replica)
        )
        for slot in slots:
            self._remember(slot)

    # -- supervision -----------------------------------------------------------------

    def _keep(self, slot: _Slot) -> None:
        name = f"keep {self.spec.name}:{self.spec.version}"
        slot.keeper = asyncio.create_task(self._keep_filled(slot), name=name)

    async def _keep_filled(self, slot: _Slot) -> None:
        """Runs until it is cancelled. A replica that is there is waited for first."""
        while True:
            try:
                if slot.replica is None:
                    await self._refill(slot)
                await slot.gone.wait()
                await self._bury(slot)
            except ReplicaFailed as error:
                self._died(slot, error.cause)
            except ClipperError as error:  # the package cannot be read
                self._died(slot, error.cause)
            except Exception as error:
                logger.exception("%r could not start a replica", self)
                self._died(slot, f"a replica could not be started: {error}")
            await self._pause(slot)

    async def _refill(self, slot: _Slot) -> None:
        """Start a replica; while the version has failed, one at a time."""
        if self._tripped:
            async with self._probe:
                await self._fill(slot, _no_report)
        else:
            await self._fill(slot, _no_report)
        self._tripped = False
        self.reason = ""
        if self._death_count:
            self._restart_count += 1
        self._on_change()

    async def _bury(self, slot: _Slot) -> None:
        replica = slot.replica
        assert replica is not None
        self._on_change()
        await replica.wait_gone()
        self._remember(slot)
        self._died(slot, replica.reason)

    def _died(self, slot: _Slot, why: str) -> None:
        now = self._clock.now()
        self._death_count += 1
        self._deaths.append(now)
        if now - slot.started_at > self._restarts.window:
            slot.failures = 0
        slot.failures += 1
        self.reason = f"a worker ended: {why}"
        rule = self._restarts
        recent = sum(now - death <= rule.window for death in self._deaths)
        if recent > rule.deaths:
            self._tripped = True
            self.reason = (
                f"workers ended {recent} times within {rule.window:g} seconds, the last "
                f"one because {why}; the next try is in {rule.retry:g} seconds"
            )
        logger.warning("%s:%s: %s", self.spec.name, self.spec.version, self.reason)
        self._on_change()

    async def _pause(self, slot: _Slot) -> None:
        if self._tripped:
            await asyncio.sleep(self._restarts.retry)
        elif slot.failures > 1:
            pause = self._restarts.first_pause * 2.0 ** min(slot.failures - 2, 30)
            pause = min(pause, self._restarts.last_pause)
            await asyncio.sleep(pause * (0.5 + 0.5 * self._jitter()))


def _no_report(stage: str, seconds: float) -> None:
    """Restarts have no audience."""


def _in_full(error: ReplicaFailed) -> str:
    return f"{error.cause}\n{error.detail}".rstrip()
