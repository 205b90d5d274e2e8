"""When a worker that is well is replaced all the same: because models leak."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from clipper.errors import ClipperError
from clipper.workers.place import Place, Ward
from clipper.workers.places import Places
from clipper.workers.spec import ReplicaFailed
from clipper.workers.supervised import Supervised

logger = logging.getLogger(__name__)

LOOK = 0.25  # seconds between looks

# Replacing may take so much of the time that it takes to bring up a worker: a fifth.
PAUSE = 4.0

# A worker that is as large as the limit when it starts is replaced only when it has grown
# by so much, or nothing else would be done.
GROWTH = 1.25

# What is replaced may take so long for its last batches; a hang is noticed before.
LAST_BATCHES = 60.0


class Due(Enum):
    """Why a worker is to be replaced."""

    BATCHES = "batches"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class RecyclingRule:
    """`after` counts batches, `memory` is in resident bytes; None is no limit.

    Bytes, not a multiple of what the worker had when it was ready: a model that loads the
    rest upon its first query would be replaced for ever, and bytes are what a machine has.
    """

    after: int | None = None
    memory: int | None = None

    @property
    def active(self) -> bool:
        return self.after is not None or self.memory is not None

    def due(
        self, share: float, batches: int, memory: int | None, fresh: int | None
    ) -> Due | None:
        """Whether a worker is to be replaced, and why. `share`, a little below 1, differs
        among workers, so that those that came together do not go together; `fresh` is the
        memory it began with."""
        if self.after is not None and batches >= max(1.0, share * self.after):
            return Due.BATCHES
        if self.memory is None or memory is None:
            return None
        large = memory >= max(share * self.memory, GROWTH * (fresh or 0))
        return Due.MEMORY if large else None


class Recycler:
    """Replaces what is due, one at a time, new before old: a spare where one is ready, else
    a worker that is started for it, so that there is never more than one too many."""

    # State: `counts` of those that were replaced, by the reason; the task that does it; and
    # `_farewell`, a task that goes on where that one is cancelled: the last batches of an
    # old worker.

    def __init__(self, ward: Ward, places: Places, on_change: Callable[[], None]) -> None:
        self._ward = ward
        self._places = places
        self._on_change = on_change
        self._rule = RecyclingRule(ward.spec.recycle_after, ward.spec.recycle_memory)
        self.counts = dict.fromkeys(Due, 0)
        self.task: asyncio.Task[None] | None = None
        self._farewell: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._rule.active and self.task is None:
            name = f"recycle {self._ward.spec.name}:{self._ward.spec.version}"
            self.task = asyncio.create_task(self._run(), name=name)

    async def end(self) -> None:
        """Wait for what goes on, once nothing keeps the old worker any more."""
        if self._farewell is not None:
            await asyncio.wait((self._farewell,))

    async def _run(self) -> None:
        """Runs until it is cancelled."""
        ward, name = self._ward, f"{self._ward.spec.name}:{self._ward.spec.version}"
        while True:
            await asyncio.sleep(LOOK)
            found = next(self._due_places(), None)
            if found is None:
                continue
            began, pause = ward.clock.now(), 0.0
            try:
                await self._replace(*found)
            except (ReplicaFailed, ClipperError) as error:
                logger.warning("%s: a worker was not replaced: %s", name, error.cause)
                pause = ward.rule.retry
            except Exception:
                logger.exception("%s: a worker was not replaced", name)
                pause = ward.rule.retry
            await asyncio.sleep(max(pause, PAUSE * (ward.clock.now() - began)))

    def _due_places(self) -> Iterator[tuple[Place, Due]]:
        for place in self._places.serving:
            replica = place.replica
            if replica is not None and place.ready:
                memory = replica.memory() if self._rule.memory is not None else None
                batches = replica.statistics().batches
                due = self._rule.due(place.share, batches, memory, place.fresh)
                if due is not None:
                    yield place, due

    async def _replace(self, old: Place, due: Due) -> None:
        places, replica = self._places, old.replica
        assert replica is not None  # it is due
        spare = places.ready_spare()
        if spare is not None:
            places.exchange(old, spare)
            self._tell(due)
            await replica.stop(LAST_BATCHES)  # its keeper starts the next spare
            return
        (new,) = places.new(1)
        try:
            await _fill(new, replica)
            if old not in places.serving or old.replica is not replica:
                raise ReplicaFailed("it ended by itself meanwhile")
        except BaseException:
            await places.retire([new], 0)
            raise
        places.succeed(old, new)
        self._tell(due)
        self._farewell = asyncio.create_task(places.retire([old], LAST_BATCHES))
        await asyncio.shield(self._farewell)

    def _tell(self, due: Due) -> None:
        self.counts[due] += 1
        self._on_change()


async def _fill(new: Place, old: Supervised) -> None:
    """Start a worker, unless the one that it is to follow ends meanwhile."""
    filling = asyncio.create_task(new.fill())
    ending = asyncio.create_task(old.wait_gone())
    try:
        await asyncio.wait((filling, ending), return_when=asyncio.FIRST_COMPLETED)
        if not filling.done():
            raise ReplicaFailed("the one that it was to follow has ended")
        filling.result()
    finally:
        filling.cancel()
        ending.cancel()
        await asyncio.wait((filling, ending))
