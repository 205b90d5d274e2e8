"""The thread that writes: it takes what waits, makes it durable at once, then answers.

No timer gathers a group: while one flush runs, the next group waits in the queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias

from clipper.errors import Overloaded, StoreError
from clipper.records import State

from .database import Database, Outcome, Work

logger = logging.getLogger(__name__)

GROUP = 1_000  # works made durable by one flush
WAITING = 10_000  # works accepted and not yet answered
WAITING_BYTES = 64 * 1024 * 1024  # of works that said how large they are

# Told in one turn of the loop, so that others have their turn in between: whichever of
# these is reached first.
SLICE = 50  # works
SLICE_BYTES = 128 * 1024  # of works that said how large they are; one may be larger

# Told the result of a work, or why it failed.
Done: TypeAlias = Callable[[Any, Exception | None], None]


class _Item(NamedTuple):
    work: Work
    done: Done
    size: int


class Writer:
    """Runs works on the database, in order, on a thread of its own.

    `begin` opens the database and reads the state, `end` closes it; both run on the
    thread. The thread is a daemon: a store that was never closed does not keep the
    process, and loses nothing that was answered.
    """

    def __init__(
        self,
        begin: Callable[[], tuple[Database, State]],
        end: Callable[[Database], None],
        *,
        waiting: int = WAITING,
    ) -> None:
        self._begin = begin
        self._end = end
        self._limit = waiting
        self._loop = asyncio.get_running_loop()
        # Shared by both threads: the queue alone; None in it is the end.
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        # All other state belongs to the loop. The counters are what bounds the
        # queue, and what is done and was not told yet.
        self._untold: deque[tuple[_Item, Outcome]] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._accepting = False
        self._stopping = False
        self._over = False  # the thread is
        self._started: asyncio.Future[State] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._main, name="clipper-store", daemon=True
        )

    async def start(self) -> State:
        """Open the database. Once; what `begin` raises is raised here."""
        self._thread.start()
        state = await self._started
        self._accepting = not self._stopping
        return state

    def submit(self, work: Work) -> asyncio.Future[Any]:
        """Run `work` with the connection inside a savepoint of its own; its result once
        it is durable. Raises Overloaded if too much waits, StoreError if closed."""
        future = self._loop.create_future()
        self.tell(work, partial(_resolve, future))
        return future

    def tell(self, work: Work, done: Done, size: int = 0) -> None:
        """As `submit`, for a work of about `size` bytes. `done` is called on the loop with
        the result or the error; all are called in the order of the works."""
        if not self._accepting:
            raise StoreError("the store is closed")
        if self._waiting >= self._limit or self._waiting_bytes >= WAITING_BYTES:
            raise Overloaded(f"{self._waiting} changes wait for the disk already")
        self._waiting += 1
        self._waiting_bytes += size
        self._queue.put(_Item(work, done, size))

    async def stop(self) -> None:
        """Finish what was accepted and close the database. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self._accepting = False
            self._queue.put(None)
        if self._thread.ident is not None:
            await asyncio.shield(self._ended)
            self._thread.join()

    def __repr__(self) -> str:
        state = "open" if self._accepting else "ended" if self._ended.done() else "closed"
        return f"<Writer {state} waiting={self._waiting}>"

    # -- on the loop -----------------------------------------------------------------------

    def _settle(self, items: list[_Item], outcomes: list[Outcome]) -> None:
        telling = bool(self._untold)
        self._untold.extend(zip(items, outcomes, strict=True))
        if not telling:
            self._tell_slice()

    def _tell_slice(self) -> None:
        """Tell some, and the others in the turns that follow."""
        count = size = 0
        while self._untold:
            count += 1
            size += self._untold[0][0].size
            if count > 1 and (count > SLICE or size > SLICE_BYTES):
                break
            item, (result, error) = self._untold.popleft()
            self._waiting -= 1
            self._waiting_bytes -= item.size
            try:
                item.done(result, error)
            except Exception:
                logger.exception("who was told of a work of the store raised")
        if self._untold:
            self._loop.call_soon(self._tell_slice)
        elif self._over:
            self._ended.set_result(None)

    def _begun(self, state: State | None, error: BaseException | None) -> None:
        if self._started.done():
            return
        if error is not None:
            self._started.set_exception(error)
        elif state is not None:
            self._started.set_result(state)

    def _finished(self) -> None:
        """The thread is over. Normally nothing waits; if it died, everyone is told."""
        self._accepting = False
        left = []
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is not None:
                left.append(item)
        self._over = True
        self._settle(left, _lost(left))

    # -- on the thread ---------------------------------------------------------------------

    def _main(self) -> None:
        try:
            database, state = self._begin()
        except BaseException as error:
            self._post(self._begun, None, error)
            self._post(self._finished)
            return
        self._post(self._begun, state, None)
        del state
        try:
            while items := self._take():
                outcomes = _lost(items)
                try:
                    outcomes = database.run([item.work for item in items])
                finally:
                    self._post(self._settle, items, outcomes)
                database.checkpoint()
        finally:
            self._end(database)
            self._post(self._finished)

    def _take(self) -> list[_Item]:
        """Wait for one item, then take all that is there; nothing once it is the end."""
        items: list[_Item] = []
        item = self._queue.get()
        while item is not None:
            items.append(item)
            if len(items) == GROUP:
                return items
            try:
                item = self._queue.get_nowait()
            except Empty:
                return items
        if items:
            self._queue.put(None)  # found behind the last group; nothing comes after it
        return items

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _lost(items: list[_Item]) -> list[Outcome]:
    return [Outcome(error=StoreError("the store's thread is over")) for _ in items]
