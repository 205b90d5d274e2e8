"""A disk that outlives servers, and the store of one server on it.

What is committed is in `Disk.kept`; a server that is killed loses what it was not told of,
and may have been about to be told of what is committed. Works are done in order, one at a
time, and told of in order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from clipper.errors import ClipperError, DiskFull, Overloaded, StoreError
from clipper.records import State
from clipper.store.base import (
    EVERY,
    AppendDone,
    Appended,
    Change,
    Chunk,
    Entry,
    Learned,
    Logged,
    LogSize,
    Person,
    Snapshot,
)
from clipper.store.checks import check_entry
from clipper.store.memory import MemoryStore
from clipper.store.rows import decode

if TYPE_CHECKING:
    from .core import Core

IN_DOUBT = "a write failed, and nobody knows whether it was done"
WAITING = 200  # works


@dataclass(frozen=True)
class DiskFaults:
    """Chances are per work, times seconds."""

    seconds: tuple[float, float] = (0.0002, 0.003)
    stall: float = 0.0  # that a work takes up to `stall_seconds`
    stall_seconds: float = 0.5
    doubt: float = 0.0  # that a write fails, done or not; after it nothing is written
    busy: float = 0.0  # that too much waits
    crash: float = 0.0  # that the server is killed between a write and the news of it
    lost_blob: float = 0.0  # that a blob cannot be read this time


class Disk:
    """What is committed."""

    def __init__(self) -> None:
        # All state: rows, logs, blobs; the changes of each commit; and whether it is full.
        self.kept = MemoryStore()
        self.kept._open = True
        self.commits: list[tuple[Change, ...]] = []
        self.full = False

    def state(self) -> State:
        return decode(self.kept._tables)

    def entries(self, application: int) -> list[Logged]:
        found = self.kept._applications.get(application)
        return [] if found is None else found.log


class DiskStore:
    """The Store of one server."""

    # State: whether it was opened, the server was killed, and a write failed in doubt;
    # works that were not told of; when the last one will be done, and told of; how often
    # each blob could not be read in a row.

    def __init__(self, world: Core, faults: DiskFaults, rng: Random) -> None:
        self.world = world
        self.disk = world.disk
        self.faults = faults
        self.rng = rng
        self.opened = self.over = self.broken = False
        self.waiting = 0
        self._done_at = self._told_at = world.clock.now()
        self._lost = Counter[str]()

    # -- works ---------------------------------------------------------------------------

    def _begin(
        self,
        write: bool,
        action: Callable[[], Any],
        done: Callable[[Any, Exception | None], None],
        sure: bool = False,
    ) -> None:
        if not self.opened:
            raise StoreError("the store is closed")
        faults, rng = self.faults, self.rng
        busy = self.world.life.up and not self._calm and rng.random() < faults.busy
        if not sure and (self.waiting >= WAITING or busy):
            raise Overloaded("too much waits for the disk")
        self.waiting += 1
        took = rng.uniform(*faults.seconds)
        if not self._calm and rng.random() < faults.stall:
            took += rng.random() * faults.stall_seconds
        self._done_at = max(self.world.clock.now(), self._done_at) + took
        self.world.loop.at(self._done_at, self._do, write, action, done)

    @property
    def _calm(self) -> bool:
        return self.world.healed

    def _do(self, write: bool, action: Callable[[], Any], done: Any) -> None:
        if self.over:
            return
        result, error = None, None
        faults, rng, now = self.faults, self.rng, self.world.clock.now()
        doubt = write and not self._calm and rng.random() < faults.doubt
        if write and self.broken:
            error = StoreError("an earlier write to the disk failed")
        elif write and self.disk.full:
            error = DiskFull("the disk is full; nothing was changed")
        elif doubt:
            self.broken = True
            if rng.random() < 0.5:
                action()
            error = StoreError(IN_DOUBT)
        else:
            try:
                result = action()
            except ClipperError as refused:
                error = refused
        self._told_at = max(self._told_at, now + rng.uniform(*faults.seconds))
        if write and not self._calm and rng.random() < faults.crash:
            self.world.loop.at(
                (now + self._told_at) / 2, self.world.crash_life, self.world.life
            )
        self.world.loop.at(self._told_at, self._tell, done, result, error)

    def _tell(self, done: Any, result: Any, error: Exception | None) -> None:
        if not self.over:
            self.waiting -= 1
            done(result, error)

    async def _work(
        self, write: bool, action: Callable[[], Any], sure: bool = False
    ) -> Any:
        future = self.world.loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._begin(write, action, done, sure)
        return await future

    def _kept(self, write: bool, name: str, *arguments: Any) -> Any:
        """What the disk itself gives for this call; nothing in it waits."""
        return self._work(write, partial(run, getattr(self.disk.kept, name), *arguments))

    # -- records -------------------------------------------------------------------------

    async def open(self) -> State:
        self.opened = True
        state: State = await self._work(False, self.disk.state, sure=True)
        return state

    async def commit(self, *changes: Change) -> None:
        ledger = self.world.ledger

        def write() -> None:
            run(self.disk.kept.commit, *changes)
            self.disk.commits.append(changes)
            ledger.committed(changes)

        try:
            await self._work(True, write)
        except ClipperError:
            raise
        else:
            ledger.told(changes)

    async def verify(self) -> None:
        await self._work(True, lambda: None, sure=True)

    async def put_blob(self, data: bytes) -> str:
        await self._kept(True, "put_blob", data)
        return hashlib.sha256(data).hexdigest()

    async def get_blob(self, digest: str) -> bytes:
        sure = self._calm or not self.world.blobs[digest].faulty

        def read() -> bytes:
            # three times would be damage, for which a version is rightly taken out
            lost = self._lost[digest] < 2 and self.rng.random() < self.faults.lost_blob
            if lost and not sure:
                self._lost[digest] += 1
                raise StoreError(f"cannot read blob {digest}")
            self._lost[digest] = 0
            data: bytes = run(self.disk.kept.get_blob, digest)
            return data

        data: bytes = await self._work(False, read, sure)
        return data

    async def delete_blobs(self, keep: set[str]) -> None:
        await self._kept(True, "delete_blobs", keep)

    async def secret(self, name: str) -> bytes:
        return hashlib.sha256(name.encode()).digest()

    async def close(self) -> None:
        """Finish what was begun."""
        if self.opened:
            await self._work(False, lambda: None, sure=True)
            self.opened = False

    # -- what was learned ----------------------------------------------------------------

    def append(
        self, entries: Sequence[Entry], persons: Sequence[Person], done: AppendDone
    ) -> None:
        checked = [check_entry(entry) for entry in entries]

        def write() -> Appended:
            told: list[Any] = []
            self.disk.kept.append(checked, persons, lambda *what: told.append(what[0]))
            appended: Appended = told[0]
            self.world.ledger.logged(checked, appended)
            return appended

        self._begin(True, write, done)

    async def learned(self, application: int, limit: int = EVERY) -> Learned:
        found: Learned = await self._kept(False, "learned", application, limit)
        return found

    async def state_of(self, person: Person) -> bytes | None:
        found: bytes | None = await self._kept(False, "state_of", person)
        return found

    async def uids(self, application: int, after: str | None, limit: int) -> list[str]:
        found: list[str] = await self._kept(False, "uids", application, after, limit)
        return found

    async def save(self, snapshot: Snapshot, most_persons: int) -> None:
        await self._kept(True, "save", snapshot, most_persons)

    async def forget(self, person: Person) -> None:
        self.world.ledger.forgotten.add(person)  # whether or not it will be done
        await self._kept(True, "forget", person)

    async def entries(self, application: int, after: int, limit: int) -> list[Logged]:
        found: list[Logged] = await self._kept(False, "entries", application, after, limit)
        return found

    async def entry_of(self, application: int, key: str) -> Logged | None:
        found: Logged | None = await self._kept(False, "entry_of", application, key)
        return found

    async def put_chunk(self, chunk: Chunk) -> None:
        await self._kept(True, "put_chunk", chunk)

    async def chunk_of(self, nonce: int) -> Chunk | None:
        found: Chunk | None = await self._kept(False, "chunk_of", nonce)
        return found

    async def chunks(self, after: int, limit: int) -> list[tuple[int, Chunk]]:
        found: list[tuple[int, Chunk]] = await self._kept(False, "chunks", after, limit)
        return found

    async def prune_decisions(self, before: float, most_bytes: int) -> None:
        await self._kept(True, "prune_decisions", before, most_bytes)

    async def prune_entries(
        self, before: float, most_bytes: int, keys_before: float
    ) -> None:
        await self._kept(True, "prune_entries", before, most_bytes, keys_before)

    async def applications(self) -> list[int]:
        found: list[int] = await self._kept(False, "applications")
        return found

    async def drop(self, application: int) -> None:
        self.world.ledger.dropped.add(application)
        await self._kept(True, "drop", application)

    async def size(self, application: int) -> LogSize:
        found: LogSize = await self._kept(False, "size", application)
        return found


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a coroutine function that never waits."""
    coroutine = function(*arguments)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError(f"{function} waits")
