"""The keys that query ids are signed with: one for each period, kept in the store."""

from __future__ import annotations

from random import Random

from clipper.clock import Clock
from clipper.query_id import PERIOD, QueryIds, key_number
from clipper.store.base import Store


class QueryKeys:
    """Gives query ids the keys of the time."""

    def __init__(self, store: Store, clock: Clock, rng: Random) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        # All mutable state: whether a change is under way.
        self._changing = False

    async def open(self) -> QueryIds:
        """Query ids with this period's key; those of the last period, and of the time
        before there were periods, are read as well."""
        wall = self._clock.wall()
        number = key_number(wall)
        key, nonce = await self._key(number), self._rng.getrandbits(63)
        ids = QueryIds(key, self._clock, number, nonce)
        before = key_number(wall - PERIOD)
        ids.accept(await self._key(before), before)
        ids.accept(await self._store.secret("query-key"), 0)
        return ids

    def due(self, ids: QueryIds) -> bool:
        """Whether another period has begun, and nobody is about to change the key."""
        return not self._changing and key_number(self._clock.wall()) != ids.number

    async def change(self, ids: QueryIds) -> None:
        """Sign with this period's key from now on."""
        number = key_number(self._clock.wall())
        self._changing = True
        try:
            ids.sign_with(await self._key(number), number)
        finally:
            self._changing = False

    async def _key(self, number: int) -> bytes:
        return await self._store.secret(f"query-key-{number}")
