"""Work that goes on to its end, whoever waits for it: tasks in the background, and changes
that a caller who leaves must not tear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from clipper.errors import ClipperError

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Once begun it goes on to its end, even where the caller is
    cancelled, which is told after that."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    failed = task.exception()  # asked for in any case, else it is logged as lost
    if cancelled is not None:
        raise cancelled
    if failed is not None:
        raise failed
    return task.result()


class Tasks:
    """The background tasks of a server, each kept until it ends and told of if it fails."""

    def __init__(self) -> None:
        # All mutable state: the tasks that run.
        self._running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Tasks running={self.running}>"

    @property
    def running(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    async def join(self) -> None:
        """Wait until none runs, also of those that others begin."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def settle(self, seconds: float) -> None:
        """The same, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:
                    await asyncio.wait(self._running)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ClipperError):
            logger.error("a background task failed: %s", error)
        else:
            logger.error("a background task failed", exc_info=error)
