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
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from clipper.clock import Clock
from clipper.errors import ClipperError, DeployFailed
from clipper.workers.replica import LoadBlob, Replica, Report
from clipper.workers.spec import (
    Patience,
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
    STOPPED = "stopped"  # for good, or scaled to none


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a dead replica is started again; all in seconds but for `deaths`."""

    first_pause: float = 0.1
    last_pause: float = 10.0
    deaths: int = 3  # more than so many
    window: float = 60.0  # within so long are a crash loop
    retry: float = 30.0  # between tries while the version has failed
    proven: int = 5  # batches: one that answered so many is no part of a loop


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

    `on_change` is called when `state`, `ready` or `reason` changed.
    """

    # State: `_slots` are the places to be filled, `_starts` replicas on their way in for
    # a deploy or a larger scale, `_leaving` places being emptied for good; `state`, `live`
    # and `ready`, the replicas that take batches, follow from the slots and are renewed by
    # `_changed`; `_told` is what `on_change` was last called for. `_deaths` are the times
    # of the last deaths.
    # `_tripped`: a crash loop was seen and no replica has been ready since; then nothing
    # starts before `_next_try`, and one at a time (`_probe`). Until `_on_trial` a single
    # death trips it again.

    def __init__(
        self,
        spec: WorkerSpec,
        load_blob: LoadBlob,
        *,
        clock: Clock,
        on_change: Callable[[], None],
        restarts: Restarts | None = None,
        patience: Patience | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.live = 0
        self.ready: tuple[Replica, ...] = ()
        self.reason = ""
        self._load_blob = load_blob
        self._clock = clock
        self._on_change = on_change
        self._restarts = restarts or Restarts()
        self._patience = patience
        self._jitter = jitter
        self._slots: list[_Slot] = []
        self._leaving: list[_Slot] = []
        self._starts: set[asyncio.Task[None]] = set()
        self._deaths: deque[float] = deque(maxlen=self._restarts.deaths + 1)
        self._death_count = self._restart_count = 0
        self._tripped = self._stopped = False
        self._next_try = self._on_trial = 0.0
        self._probe = asyncio.Lock()
        self._told: tuple[object, ...] = (self.state, self.ready, self.reason)
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
    def wanted(self) -> int:
        """How many there should be."""
        return len(self._slots)

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
        """The last output of each worker, and of the latest one that ended."""
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
        slots = [_Slot() for _ in range(replicas)]
        self._slots += slots
        for slot in slots:
            self._keep(slot)
        self._changed()

    async def scale(self, replicas: int, drain_seconds: float = 10.0) -> None:
        """Have so many: more are started and awaited, the surplus finishes its batches.

        Raises DeployFailed when a new one does not start; those before stay.
        """
        if replicas > len(self._slots):
            await self._grow(replicas - len(self._slots), None)
        elif replicas < len(self._slots):
            surplus = self._slots[replicas:]
            del self._slots[replicas:]
            self._changed()
            await self._retire(surplus, drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Finish what is in flight within the bound and end all workers. Idempotent."""
        self._stopped = True
        slots, self._slots = self._slots, []
        self._changed()
        for start in self._starts:
            start.cancel()
        if self._starts:
            await asyncio.wait(self._starts)
        await self._retire(slots + self._leaving, drain_seconds)

    async def _grow(self, count: int, progress: Progress | None) -> None:
        """Add so many ready replicas, or none."""
        self._check_running()
        slots = [_Slot() for _ in range(count)]
        try:
            await self._fill_all(slots, progress)
        except ReplicaFailed as error:
            await self._retire(slots, 0)
            raise DeployFailed(f"{error.cause}\n{error.detail}".rstrip()) from None
        except BaseException:
            await self._retire(slots, 0)
            raise
        self._slots += slots
        self._tripped = False
        for slot in slots:
            self._keep(slot)
        self._changed()

    def _check_running(self) -> None:
        if self._stopped:
            raise DeployFailed("the model version was stopped")

    async def _fill_all(self, slots: list[_Slot], progress: Progress | None) -> None:
        """Fill the slots at the same time; on the first failure cancel the others."""
        blob = await self._load_blob()
        told: set[str] = set()
        ready = 0

        async def load() -> bytes:
            return blob

        def report(stage: str, seconds: float) -> None:
            if progress is not None and stage not in told:
                told.add(stage)
                progress(stage, {"seconds": seconds})

        async def fill(slot: _Slot) -> None:
            nonlocal ready
            await self._fill(slot, load, report)
            ready += 1
            if progress is not None:
                progress("ready", {"replicas": ready, "of": len(slots)})

        self._check_running()  # the blob took its time
        starts = {asyncio.create_task(fill(slot)) for slot in slots}
        self._starts |= starts
        try:
            await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            self._starts -= starts
        self._check_running()
        for start in starts:
            if not start.cancelled():
                start.result()  # raises what kept it from starting

    async def _fill(
        self,
        slot: _Slot,
        load_blob: LoadBlob,
        report: Report = lambda stage, seconds: None,
    ) -> Replica:
        """Start a replica in the slot, or raise what kept it from starting."""

        def ended(_: Replica) -> None:
            slot.gone.set()
            self._changed()

        slot.gone.clear()
        slot.started_at = self._clock.now()
        slot.replica = replica = Replica(
            self.spec,
            self._clock,
            on_end=ended,
            patience=self._patience,
        )
        try:
            await replica.start(load_blob, report)
        except BaseException:
            self._empty(slot)
            raise
        return replica

    def _empty(self, slot: _Slot) -> None:
        """Forget the slot's replica, but keep what its worker printed."""
        if slot.replica is not None:
            self._last_output = slot.replica.output() or self._last_output
            slot.replica = None

    async def _retire(self, slots: list[_Slot], drain_seconds: float) -> None:
        """End the replicas of slots that are no longer wanted. Their keepers end first,
        else they would start again what is stopped here."""
        self._leaving += [slot for slot in slots if slot not in self._leaving]
        keepers = [slot.keeper for slot in slots if slot.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        try:
            if keepers:
                await asyncio.wait(keepers)
            replicas = [slot.replica for slot in slots if slot.replica is not None]
            await asyncio.gather(*(replica.stop(drain_seconds) for replica in replicas))
        finally:
            for slot in slots:
                if slot.replica is not None:
                    slot.replica.kill()  # nothing is left of it unless we are cancelled
                self._empty(slot)
            self._leaving = [slot for slot in self._leaving if slot not in slots]

    # -- supervision -----------------------------------------------------------------

    def _keep(self, slot: _Slot) -> None:
        name = f"keep {self.spec.name}:{self.spec.version}"
        slot.keeper = asyncio.create_task(self._keep_filled(slot), name=name)

    async def _keep_filled(self, slot: _Slot) -> None:
        """Runs until it is cancelled. A replica that is there is waited for first."""
        while True:
            served = 0
            try:
                replica = slot.replica or await self._refill(slot)
                await slot.gone.wait()
                await replica.wait_gone()
                why, served = replica.reason, replica.statistics().batches
            except (ReplicaFailed, ClipperError) as error:
                why = error.cause
            except Exception as error:
                logger.exception("%r could not start a replica", self)
                why = f"it could not be started: {error}"
            self._empty(slot)
            self._count_death(slot, why, served)
            await self._pause(slot)

    async def _refill(self, slot: _Slot) -> Replica:
        """Start a replica when it is time; while the version has failed, one at a time."""
        if not self._tripped:
            replica = await self._fill(slot, self._load_blob)
        else:
            async with self._probe:
                if self._tripped:  # every failed try puts the next one off
                    await asyncio.sleep(max(0.0, self._next_try - self._clock.now()))
                replica = await self._fill(slot, self._load_blob)
                self._tripped = False
        if self._death_count:
            self._restart_count += 1
        self.reason = ""
        self._changed()
        return replica

    def _count_death(self, slot: _Slot, why: str, served: int) -> None:
        now, rule = self._clock.now(), self._restarts
        proven = served >= rule.proven
        if proven or now - slot.started_at > rule.window:
            slot.failures = 0
        slot.failures += 1
        self._death_count += 1
        if not proven:
            # one that served well and was killed says nothing against the version
            self._deaths.append(now)
        recent = sum(now - death <= rule.window for death in self._deaths)
        self.reason = f"a worker ended: {why}"
        if not proven and (recent > rule.deaths or now < self._on_trial):
            self._tripped = True
            self._next_try = now + rule.retry
            self._on_trial = self._next_try + rule.window
            self.reason = (
                f"workers keep ending, the last one because {why}; "
                f"a new one is tried every {rule.retry:g} seconds"
            )
        logger.warning("%s:%s: %s", self.spec.name, self.spec.version, self.reason)
        self._changed()

    async def _pause(self, slot: _Slot) -> None:
        """The first restart is immediate, then pauses double up to a bound."""
        if slot.failures > 1 and not self._tripped:
            pause = self._restarts.first_pause * 2.0 ** min(slot.failures - 2, 30)
            pause = min(pause, self._restarts.last_pause)
            await asyncio.sleep(pause * (0.5 + 0.5 * self._jitter()))

    def _changed(self) -> None:
        """Renew what follows from the rest, and tell."""
        before = self._told
        ready = tuple(r for r in self.replicas if r.state is ReplicaState.READY)
        if ready != self.ready:
            self.ready = ready
        self.live = len(ready)
        if self._stopped or not self._slots:
            self.state = State.STOPPED
        elif self.live:
            self.state = State.LIVE
        else:
            self.state = State.FAILED if self._tripped else State.STARTING
        self._told = (self.state, self.ready, self.reason)
        if self._told != before:
            try:
                self._on_change()
            except Exception:  # no loop of ours may end because of that
                logger.exception("a callback of %r raised", self)
