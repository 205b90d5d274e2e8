"""The replicas of one model version, kept alive.

A replica that ends is started again, at once the first time and then with growing pauses.
A crash loop (crash_loop.py) stops that: the version has failed, and every half minute one
replica tries whether it has healed. Replicas that live through all this go on serving.
Spares stand by, loaded and proved, and take the place of one that ended in the same turn.
A replica that has become old or large is followed by another before it leaves.
Nothing here can hurt the server or another version.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from clipper.clock import Clock
from clipper.errors import DeployFailed
from clipper.values import Verdict
from clipper.workers.crash_loop import Restarts
from clipper.workers.place import Place, Ward, cancel_once
from clipper.workers.places import Places
from clipper.workers.recycling import Recycler
from clipper.workers.replica import Replica
from clipper.workers.spec import Patience, ReplicaFailed, ReplicaStatistics, WorkerSpec
from clipper.workers.supervised import LoadBlob, MakeReplica, Supervised
from clipper.workers.turns import Turns

__all__ = ["ReplicaSet", "Restarts", "SetStatistics", "State", "WorkerSpec"]

logger = logging.getLogger(__name__)

Progress = Callable[[str, dict[str, Any]], None]


class State(Enum):
    STARTING = "starting"  # no replica is ready yet, or all are being restarted
    LIVE = "live"  # at least one replica answers
    FAILED = "failed"  # none answers and restarting has not helped
    STOPPED = "stopped"  # for good, or scaled to none


@dataclass(frozen=True, slots=True)
class SetStatistics:
    state: State
    reason: str
    live: int
    wanted: int
    deaths: int  # since the start of the server
    restarts: int
    replicas: tuple[ReplicaStatistics, ...]  # those that take batches
    spares: int = 0  # that are ready
    spares_wanted: int = 0
    recycled: Mapping[str, int] = field(default_factory=dict)  # by the reason


class ReplicaSet:
    """Starts, restarts, replaces, scales and stops the workers of one model version.

    `on_change` is called when `state`, `ready` or `reason` changed.
    """

    # State: that of `_ward`, `_places` and `_recycler`; `_starts`, tasks that fill places
    # for a deploy or a larger scale. `state`, `live` and `ready`, the replicas that take
    # batches, follow from the places and are renewed by `_changed`; `_told` is what
    # `on_change` was last called for.

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
        make_replica: MakeReplica = Replica,
    ) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.live = 0
        self.ready: tuple[Supervised, ...] = ()
        self._clock = clock
        self._on_change = on_change
        self._ward = Ward(
            spec,
            load_blob,
            clock,
            restarts or Restarts(),
            patience,
            jitter,
            make_replica,
            self._changed,
        )
        self._places = Places(self._ward)
        self._recycler = Recycler(self._ward, self._places, self._changed)
        self._starts: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._told: tuple[object, ...] = (self.state, self.ready, self.reason)

    def __repr__(self) -> str:
        name = f"{self.spec.name}:{self.spec.version}"
        return f"<ReplicaSet {name} {self.state.value} {self.live}/{self.wanted}>"

    # -- what others ask -------------------------------------------------------------

    @property
    def reason(self) -> str:
        """Why the last replica ended, until another one is ready."""
        return self._ward.reason

    @property
    def replicas(self) -> list[Supervised]:
        """Those that are up or coming up, but for spares."""
        return [
            place.replica for place in self._places.serving if place.replica is not None
        ]

    @property
    def wanted(self) -> int:
        """How many there should be that take batches."""
        return len(self._places.serving)

    def statistics(self) -> SetStatistics:
        return SetStatistics(
            self.state,
            self.reason,
            self.live,
            self.wanted,
            self._ward.deaths,
            self._ward.restarts,
            tuple(replica.statistics() for replica in self.replicas),
            sum(place.ready for place in self._places.spares),
            len(self._places.spares),
            {due.value: count for due, count in self._recycler.counts.items()},
        )

    def log_tail(self) -> str:
        """The last output of each worker, and of the latest that ended."""
        parts = self._ward.words.parts()
        roles = ("worker", self._places.serving), ("spare worker", self._places.spares)
        for role, places in roles:
            replicas = [place.replica for place in places if place.replica is not None]
            parts += [(f"{role} {r.pid}", r.output()) for r in replicas]
        return "\n".join(f"== {title} ==\n{text}" for title, text in parts if text)

    def judge(self, ended: Sequence[object], verdict: Verdict) -> None:
        """Whether rows were to blame for the end of replicas that had a batch: OPEN as
        soon as they ended, then one other verdict."""
        ward = self._ward
        before = ward.crashes.tripped
        ward.crashes.judge(ended, verdict, self._clock.now(), self._places.answered())
        if ward.crashes.tripped and not before:
            ward.explain(ward.why)
            self._changed()

    # -- life ------------------------------------------------------------------------

    async def start(self, replicas: int, progress: Progress | None = None) -> None:
        """Start so many and return when all are ready, for a deploy; spares follow.

        Raises DeployFailed with the worker's own words, everything stopped again.
        `progress` hears of the stages loading, example and ready.
        """
        try:
            await self._grow(replicas, progress)
        except BaseException:
            await self.stop(0)
            raise

    def restore(self, replicas: int, turns: Turns | None = None) -> None:
        """Start so many in the background, under supervision from the first moment; in
        turn, where others start as well."""
        self._serve(self._places.new(replicas), turns)

    async def scale(self, replicas: int, drain_seconds: float = 10.0) -> None:
        """Have so many: more are started and awaited, the surplus finishes its batches.

        Raises DeployFailed when a new one does not start; those before stay.
        """
        if replicas > self.wanted:
            await self._grow(replicas - self.wanted, None)
        elif replicas < self.wanted:
            surplus = self._places.take(replicas)
            self._changed()
            await self._places.retire(surplus, drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Finish what is in flight within the bound and end all workers. Idempotent."""
        self._stopped = True
        self._places.take(0)
        self._changed()
        recycler = self._recycler.task
        tasks = self._starts if recycler is None else {*self._starts, recycler}
        for task in tasks:
            cancel_once(task)
        try:
            if tasks:
                await asyncio.wait(tasks)
        except BaseException:
            drain_seconds = 0.0
            raise
        finally:
            await self._places.retire([*self._places.leaving], drain_seconds)
        await self._recycler.end()

    async def _grow(self, count: int, progress: Progress | None) -> None:
        """Add so many ready replicas, or none."""
        self._check_running()
        places = self._places.new(count)
        try:
            await self._fill_all(places, progress)
        except ReplicaFailed as error:
            await self._places.retire(places, 0)
            raise DeployFailed(f"{error.cause}\n{error.detail}".rstrip()) from None
        except BaseException:
            await self._places.retire(places, 0)
            raise
        self._ward.crashes.reset()
        self._serve(places)

    def _serve(self, places: list[Place], turns: Turns | None = None) -> None:
        """Let them take batches, with the spares and the recycling that go with them."""
        self._places.serve(places, turns)
        self._places.accompany(turns)
        self._recycler.begin()
        self._changed()

    def _check_running(self) -> None:
        if self._stopped:
            raise DeployFailed("the model version was stopped")

    async def _fill_all(self, places: list[Place], progress: Progress | None) -> None:
        """Fill the places at the same time; on the first failure cancel the others."""
        blob = await self._ward.load_blob()
        told: set[str] = set()
        ready = 0

        async def load() -> bytes:
            return blob

        def report(stage: str, seconds: float) -> None:
            if progress is not None and stage not in told:
                told.add(stage)
                progress(stage, {"seconds": seconds})

        async def fill(place: Place) -> None:
            nonlocal ready
            await place.fill(load, report)
            ready += 1
            if progress is not None:
                progress("ready", {"replicas": ready, "of": len(places)})

        self._check_running()  # the blob took its time
        starts = {asyncio.create_task(fill(place)) for place in places}
        self._starts |= starts
        for start in starts:
            start.add_done_callback(self._starts.discard)
        try:
            await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for start in starts:
                cancel_once(start)
            await asyncio.wait(starts)
        self._check_running()
        for start in starts:
            if not start.cancelled():
                start.result()  # raises what kept it from starting

    # -- what follows from the rest --------------------------------------------------

    def _changed(self) -> None:
        """Renew what follows from the rest, and tell."""
        before = self._told
        serving = self._places.serving
        if self._places.spares:
            self._places.promote()
        ready = tuple(p.replica for p in serving if p.replica is not None and p.ready)
        if ready != self.ready:
            self.ready = ready
        if len(ready) != self.live and not self._stopped:
            logger.info(
                "%s:%s: %d of %d replicas are ready",
                self.spec.name,
                self.spec.version,
                len(ready),
                len(serving),
            )
        self.live = len(ready)
        if self._stopped or not serving:
            self.state = State.STOPPED
        elif self.live:
            self.state = State.LIVE
        else:
            tripped = self._ward.crashes.tripped
            self.state = State.FAILED if tripped else State.STARTING
        self._told = (self.state, self.ready, self.reason)
        if self._told != before:
            try:
                self._on_change()
            except Exception:  # no loop of ours may end because of that
                logger.exception("a callback of %r raised", self)
