"""Tasks that nobody waits for, each kept until it ends and told of if it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from clipper.errors import ClipperError

logger = logging.getLogger(__name__)


class Tasks:
    """The background tasks of a server."""

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

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ClipperError):
            logger.error("a background task failed: %s", error)
        else:
            logger.error("a background task failed", exc_info=error)
