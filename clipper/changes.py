"""Who may change a server at present, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from clipper.errors import Unavailable

TAKING_OVER = "another server is taking over; try again in a moment"


class Changes:
    """Lets changes of records happen one at a time, and those of a model's workers; none
    once the server drains or its store is another's."""

    def __init__(self) -> None:
        # All mutable state: a lock for records; one for each model name whose workers are
        # started or ended, as long as somebody has it; and whether the end has come,
        # whether workers are another's to start, and whether the store is another's.
        self._records = asyncio.Lock()
        self._workers: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.draining = False
        self._held = self._released = False

    def __repr__(self) -> str:
        return f"<Changes under_way={self.under_way} draining={self.draining}>"

    @property
    def under_way(self) -> bool:
        locks = (self._records, *self._workers.values())
        return any(lock.locked() for lock in locks)

    @property
    def may_start(self) -> bool:
        """Whether workers may be started, and functions kept for them."""
        return not self.draining and not self._held

    def drain(self) -> None:
        self.draining = True

    def hold(self) -> None:
        """Start no more workers: those of another server are taking over."""
        self._held = True

    def go_on(self) -> None:
        """The other server came to nothing."""
        self._held = False

    def release(self) -> None:
        """Change nothing more: the store becomes another server's."""
        self._held = self._released = True

    @asynccontextmanager
    async def of_records(self) -> AsyncIterator[None]:
        """Records change one at a time, so that what was checked still holds when it is
        committed. Nothing in here waits for workers: a rollback never waits for a
        deploy."""
        async with self._records:
            self.check_open()
            yield

    def of_workers(self, name: str) -> asyncio.Lock:
        """Held while workers of a model start or end; taken before `of_records`."""
        return self._workers.setdefault(name, asyncio.Lock())

    def check_open(self) -> None:
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self._released:
            raise Unavailable(TAKING_OVER)

    def check_may_start(self) -> None:
        self.check_open()
        if self._held:
            raise Unavailable(TAKING_OVER)
