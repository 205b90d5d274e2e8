"""A program that changes a store in every way, on a disk that is watched or fails.

    storer.py record ROOT      once; what was answered goes to the file ROOT/answers
    storer.py fail ROOT MOST   again and again, each time with another change of the disk
                               failing, until none was left to fail; a line for each fault

`MOST` bounds the faults, spread over all changes; 0 is no bound.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from clipper.errors import ClipperError, DiskFull, StoreError
from clipper.records import ApplicationRecord
from clipper.store.base import (
    Appended,
    Chunk,
    DeleteApplication,
    Entry,
    PutApplication,
    Snapshot,
)
from clipper.store.database import Database
from clipper.store.sqlite import SQLiteStore

ROUNDS = 8
ENTRIES = 3  # of one append

Answer = Callable[[str], None]


def body_of(key: str) -> bytes:
    return b'"%s"' % (key.encode() * 40)


async def append(store: SQLiteStore, keys: list[str]) -> Appended:
    told: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

    def done(appended: Appended | None, error: Exception | None) -> None:
        if appended is not None:
            told.set_result(appended)
        else:
            told.set_exception(error or StoreError("nothing"))

    store.append([Entry(1, key, None, 1.7e9, body_of(key)) for key in keys], [], done)
    return await told


class Life:
    """What one server does; each answer is told after it came. An operation that fails is
    counted, and the next one tried."""

    def __init__(self, store: SQLiteStore, answer: Answer) -> None:
        self.store = store
        self.answer = answer
        self.failures: list[ClipperError] = []

    async def try_to(self, work: Awaitable[object], *answers: str) -> None:
        try:
            await work
        except ClipperError as error:
            self.failures.append(error)
        else:
            for answer in answers:
                self.answer(answer)

    async def run(self, life: int) -> None:
        await self.store.open()
        try:
            await self.store.verify()
            await self.try_to(self.store.secret("key"), "secret")
            for n in range(life * ROUNDS, (life + 1) * ROUNDS):
                await asyncio.gather(*self.round(n))
                await self.try_to(self.save(n), f"saved {n}")
        finally:
            await self.store.close()

    def round(self, n: int) -> list[Awaitable[None]]:
        name, blob = f"a{n}", b"blob %d" % n * 500
        record = ApplicationRecord(name, n + 1, "doubles", 1, default_output="x" * 2_000)
        keys = [f"k{n}.{index}" for index in range(ENTRIES)]
        works = [
            self.try_to(self.store.commit(PutApplication(record)), f"put {name}"),
            self.try_to(append(self.store, keys), *(f"entry {key}" for key in keys)),
            self.try_to(
                self.store.put_blob(blob), f"blob {hashlib.sha256(blob).hexdigest()}"
            ),
            self.try_to(self.store.put_chunk(Chunk(n, n, 1.7e9, blob)), f"chunk {n}"),
        ]
        if n >= 3:
            gone = f"a{n - 3}"
            self.answer(f"deleting {gone}")
            works.append(
                self.try_to(self.store.commit(DeleteApplication(gone)), f"gone {gone}")
            )
        return works

    async def save(self, n: int) -> None:
        entries = await self.store.entries(1, 0, 10_000)
        if not entries:  # all were refused
            raise StoreError("there is nothing to save")
        seq = entries[-1][0]
        await self.store.save(Snapshot(1, seq, {None: b"%d " % seq * 100}), 10)


async def check(directory: Path, answers: list[str]) -> None:
    """Everything that was answered is there, once, and whole."""
    store = SQLiteStore(directory)
    try:
        state = await store.open()
        await store.verify()
        said = [answer.split() for answer in answers]
        told = {kind: {what[-1] for what in said if what[0] == kind} for kind, *_ in said}
        there = set(state.applications)
        assert told.get("put", set()) - told.get("deleting", set()) <= there
        assert not told.get("gone", set()) & there
        for record in state.applications.values():
            assert record.default_output == "x" * 2_000
        entries = await store.entries(1, 0, 10_000)
        keys = [entry.key for _, entry in entries]
        assert told.get("entry", set()) <= set(keys) and len(set(keys)) == len(keys)
        assert all(entry.body == body_of(str(entry.key)) for _, entry in entries)
        appends = {str(key).partition(".")[0] for key in keys}
        assert len(keys) == ENTRIES * len(appends), "an append is there in part"
        for digest in told.get("blob", set()):
            await store.get_blob(digest)
        kept = {chunk.first for _, chunk in await store.chunks(0, 10_000)}
        assert {int(n) for n in told.get("chunk", set())} <= kept
        learned = await store.learned(1)
        assert learned.state is not None or not told.get("saved")
        assert learned.state in (None, b"%d " % learned.seq * 100)
    finally:
        await store.close()


def record(root: Path) -> None:
    """Two lives, of which the second ends without closing the store."""
    answers = os.open(root / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def answer(text: str) -> None:
        os.write(answers, text.encode() + b"\n")

    async def live() -> None:
        for number in range(2):
            life = Life(SQLiteStore(root / "data"), answer)
            await life.run(number)
            assert not life.failures
        store = SQLiteStore(root / "data")
        await store.open()
        await Life(store, answer).try_to(append(store, ["last.0", "last.1", "last.2"]))
        answer("entry last.0")
        os._exit(0)

    asyncio.run(live())


# -- a disk that fails -------------------------------------------------------------------

FAULTS = (errno.EIO, errno.ENOSPC, 0)  # 0 is a short write

disk = ctypes.CDLL(None)


async def live_with_fault(directory: Path, number: int, fault: int) -> str:
    """A life in which one change of the disk fails, and a look at what it left."""
    answers: list[str] = []
    life = Life(SQLiteStore(directory), answers.append)
    disk.disk_fail(ctypes.c_long(number), fault)
    outcome = "ok"
    try:
        await life.run(0)
    except ClipperError as error:
        outcome = f"no start: {type(error).__name__}"
        assert not answers
    met = disk.disk_changes() >= number
    disk.disk_fail(ctypes.c_long(0), 0)
    if not met:
        assert outcome == "ok" and not life.failures
        return "end"
    if life.failures:
        kinds = {type(error).__name__ for error in life.failures}
        outcome = "refused: " + " ".join(sorted(kinds))
        assert kinds <= {StoreError.__name__, DiskFull.__name__}, life.failures
    await check(directory, answers)
    await Life(SQLiteStore(directory), answers.append).run(1)  # and it goes on
    await check(directory, answers)
    return outcome


def fail(root: Path, most: int) -> None:
    async def try_all() -> None:
        disk.disk_fail(ctypes.c_long(0), 0)
        await Life(SQLiteStore(root / "whole"), lambda answer: None).run(0)
        changes = int(disk.disk_changes())
        faults = [(n, fault) for n in range(1, changes + 1) for fault in FAULTS]
        step = max(1, len(faults) // most) if most else 1
        step += step > 1 and step % len(FAULTS) == 0  # so that every kind has its turn
        for number, fault in faults[::step]:
            directory = root / f"{number}-{fault}"
            outcome = await live_with_fault(directory, number, fault)
            name = errno.errorcode.get(fault, "short")
            sys.stdout.write(f"{number} {name} {outcome}\n")
            shutil.rmtree(directory)

    asyncio.run(try_all())


def main() -> None:
    logging.disable()
    # fold the log into the file often, as in a long life
    Database.checkpoint.__defaults__ = (60_000,)
    what, root, *rest = sys.argv[1:]
    if what == "record":
        record(Path(root))
    else:
        fail(Path(root), int(rest[0]))


if __name__ == "__main__":
    main()
