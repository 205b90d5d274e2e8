"""Workers that all are to start take turns, so that the first are soon there: where each
has a share of the processor, all are ready only when the last is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# A worker whose model takes longer to load keeps the next one waiting for so many seconds:
# it may be waiting itself, for a disk or a network.
LONGEST = 0.5


class Turns:
    """At most one for each processor, in the order in which they were asked for."""

    # State: the free turns, and who waits for one.

    def __init__(self, at_once: int | None = None, longest: float = LONGEST) -> None:
        self._free = asyncio.Semaphore(at_once or os.cpu_count() or 1)
        self._longest = longest

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, which ends with the block or when it lasts too long."""
        over = False

        def end() -> None:
            nonlocal over
            if not over:
                over = True
                self._free.release()

        await self._free.acquire()
        timer = asyncio.get_running_loop().call_later(self._longest, end)
        try:
            yield
        finally:
            timer.cancel()
            end()
