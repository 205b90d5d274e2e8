"""The places of a replica set: those whose replicas take batches, and the spares."""

from __future__ import annotations

import asyncio
import logging

from clipper.workers.place import Place, Ward
from clipper.workers.turns import Turns

logger = logging.getLogger(__name__)


class Places:
    """Which place is for what. It starts nothing but the keepers of new places."""

    # State: `serving`, whose replicas take batches; `spares`; and `leaving`, which are
    # being emptied for good.

    def __init__(self, ward: Ward) -> None:
        self._ward = ward
        self.serving: list[Place] = []
        self.spares: list[Place] = []
        self.leaving: list[Place] = []

    def new(self, count: int) -> list[Place]:
        """Places that are for nothing yet."""
        return [Place(self._ward) for _ in range(count)]

    def serve(self, places: list[Place], turns: Turns | None = None) -> None:
        """Let them be filled, and take batches."""
        self.serving += places
        for place in places:
            place.keep(turns)

    def accompany(self, turns: Turns | None = None) -> None:
        """Have the spares that go with places that serve."""
        if self.serving:
            places = self.new(self._ward.spec.spares - len(self.spares))
            self.spares += places
            for place in places:
                place.keep(turns)

    def take(self, keep: int) -> list[Place]:
        """All but so many serving places, out of service: those that do not answer, then
        the latest; the spares go with the last. They are leaving from now on."""
        latest = self.serving[::-1]
        order = sorted(latest, key=lambda place: place.ready)
        taken = order[: max(0, len(order) - keep)]
        self.serving = [place for place in self.serving if place not in taken]
        if not self.serving:
            taken += self.spares
            self.spares.clear()
        self.leaving += taken
        return taken

    def promote(self) -> None:
        """Put spares that are ready where replicas are not."""
        for place in [place for place in self.serving if not place.ready]:
            spare = self.ready_spare()
            if spare is None:
                return
            self.exchange(place, spare)
            spec = self._ward.spec
            logger.info("%s:%s: a spare takes batches from now on", spec.name, spec.version)

    def ready_spare(self) -> Place | None:
        return next((place for place in self.spares if place.ready), None)

    def exchange(self, place: Place, spare: Place) -> None:
        """The spare serves, and the other is a spare from now on."""
        at, by = self.serving.index(place), self.spares.index(spare)
        self.serving[at], self.spares[by] = spare, place

    def succeed(self, old: Place, new: Place) -> None:
        """The new place, which is filled, serves instead of the old one."""
        self.serving[self.serving.index(old)] = new
        new.keep()

    async def retire(self, places: list[Place], drain_seconds: float) -> None:
        """End the replicas of places that are no longer wanted."""
        self.leaving += [place for place in places if place not in self.leaving]
        try:
            await asyncio.gather(*(place.leave(drain_seconds) for place in places))
        finally:
            self.leaving = [place for place in self.leaving if place not in places]

    def answered(self) -> int:
        """Batches that the version has answered so far."""
        places = (*self.serving, *self.spares, *self.leaving)
        live = (place.replica for place in places if place.replica is not None)
        return self._ward.answered + sum(r.statistics().batches for r in live)
