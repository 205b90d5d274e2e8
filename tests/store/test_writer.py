from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from clipper.errors import Overloaded, StoreError
from clipper.records import State
from clipper.store.database import Database
from clipper.store.file import create
from clipper.store.writer import GROUP, SLICE, SLICE_BYTES, WAITING_BYTES, Writer


class Gate:
    """A work that keeps the thread busy until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> str:
        self.entered.set()
        assert self.opened.wait(30)
        return "through"


class Bench:
    """A writer on a database that counts its groups."""

    def __init__(self, path: Path, waiting: int = 100) -> None:
        self.path = path
        self.groups: list[int] = []
        self.ended = False
        self.writer = Writer(self._begin, self._end, waiting=waiting)

    def _begin(self) -> tuple[Database, State]:
        database = Database(self.path, "process")
        run = database.run

        def counted(group: list) -> list:  # type: ignore[type-arg]
            self.groups.append(len(group))
            return run(group)

        database.run = counted  # type: ignore[method-assign,assignment]
        return database, database.read()

    def _end(self, database: Database) -> None:
        database.close()
        self.ended = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "clipper.db")
    return tmp_path / "clipper.db"


@pytest.fixture
async def bench(path: Path) -> AsyncIterator[Bench]:
    bench = Bench(path, waiting=2 * GROUP)
    await bench.writer.start()
    yield bench
    await bench.writer.stop()


def nothing(connection: sqlite3.Connection) -> None:
    pass


async def hold(writer: Writer) -> tuple[Gate, asyncio.Future[str]]:
    """Let the thread wait at a gate, alone in its group."""
    gate = Gate()
    future = writer.submit(gate)
    await asyncio.to_thread(gate.entered.wait)
    return gate, future


async def test_start_gives_what_was_read_and_a_thread_of_its_own(path: Path) -> None:
    writer = Bench(path).writer
    assert await writer.start() == State()
    [thread] = [each for each in threading.enumerate() if each.name == "clipper-store"]
    assert thread.daemon
    await writer.stop()
    assert not thread.is_alive()


async def test_nothing_is_taken_before_the_start(path: Path) -> None:
    bench = Bench(path)
    with pytest.raises(StoreError, match=r"^the store is closed$"):
        bench.writer.submit(nothing)
    await bench.writer.stop()


async def test_what_waits_goes_in_one_group(bench: Bench) -> None:
    assert repr(bench.writer) == "<Writer open waiting=0>"
    gate, first = await hold(bench.writer)
    rest = [bench.writer.submit(nothing) for _ in range(GROUP + 5)]
    gate.opened.set()
    assert await first == "through"
    await asyncio.gather(*rest)
    assert bench.groups == [1, GROUP, 5]


async def test_a_full_queue_is_told_at_once_and_empties(path: Path) -> None:
    writer = Bench(path, waiting=3).writer
    await writer.start()
    gate, first = await hold(writer)
    rest = [writer.submit(nothing) for _ in range(2)]
    for _ in range(2):
        with pytest.raises(Overloaded, match="3 changes wait"):
            writer.submit(nothing)
    assert "waiting=3" in repr(writer)
    gate.opened.set()
    await asyncio.gather(first, *rest)
    await writer.submit(nothing)
    assert "waiting=0" in repr(writer)
    await writer.stop()


async def test_works_that_say_their_size_are_bounded_by_it(bench: Bench) -> None:
    gate, first = await hold(bench.writer)
    told = asyncio.get_running_loop().create_future()
    bench.writer.tell(nothing, lambda *outcome: None, WAITING_BYTES - 1)
    bench.writer.tell(nothing, lambda *outcome: told.set_result(outcome), 1)
    with pytest.raises(Overloaded):
        bench.writer.tell(nothing, lambda *outcome: None, 1)
    gate.opened.set()
    await first
    assert await told == (None, None)
    await bench.writer.submit(nothing)


async def test_everyone_is_told_in_order_whoever_raises(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    gate, first = await hold(bench.writer)
    told: list[int] = []

    def done(n: int, result: object, error: Exception | None) -> None:
        told.append(n)
        if n == 3:
            raise ZeroDivisionError

    for n in range(2 * GROUP - 10):
        bench.writer.tell(nothing, partial(done, n))
    last = bench.writer.submit(nothing)
    gate.opened.set()
    await last
    assert told == list(range(2 * GROUP - 10))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert await first == "through"


async def test_others_have_their_turn_while_many_are_told(bench: Bench) -> None:
    """Works are told in slices, small ones by number and large ones by size."""
    gate, first = await hold(bench.writer)
    loop = asyncio.get_running_loop()
    large = [SLICE_BYTES // 2] * 20 + [SLICE_BYTES + 1] * 3
    sizes = [0] * 4 * SLICE + large
    told: list[int] = []
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(told))
        if len(told) < len(sizes):
            loop.call_soon(turn)

    for n, size in enumerate(sizes):
        bench.writer.tell(nothing, lambda *outcome, n=n: told.append(n), size)
    last = bench.writer.submit(nothing)
    gate.opened.set()
    await first
    turn()
    await last
    assert told == list(range(len(sizes)))
    begun = turns.index(SLICE)
    slices = [SLICE] * 4 + [2] * 10 + [1] * 3
    assert turns[begun : begun + len(slices)] == list(itertools.accumulate(slices))


async def test_stop_ends_after_everyone_was_told(bench: Bench) -> None:
    gate, first = await hold(bench.writer)
    told: list[int] = []
    for n in range(10 * SLICE):
        bench.writer.tell(nothing, lambda *outcome, n=n: told.append(n))
    gate.opened.set()
    await bench.writer.stop()
    assert told == list(range(10 * SLICE))
    assert await first == "through"


async def test_stop_finishes_the_queue_and_takes_nothing_more(bench: Bench) -> None:
    gate, first = await hold(bench.writer)
    rest = [bench.writer.submit(nothing) for _ in range(GROUP + 5)]
    stops = [asyncio.ensure_future(bench.writer.stop()) for _ in range(2)]
    await asyncio.sleep(0)  # let them begin
    with pytest.raises(StoreError, match="closed"):
        bench.writer.submit(nothing)
    assert repr(bench.writer) == f"<Writer closed waiting={GROUP + 6}>"
    gate.opened.set()
    await asyncio.gather(first, *rest, *stops)
    assert bench.ended
    assert repr(bench.writer) == "<Writer ended waiting=0>"


async def test_a_failing_begin_is_raised_and_ends_the_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "nothing.db")
    with pytest.raises(StoreError):
        await bench.writer.start()
    with pytest.raises(StoreError, match="closed"):
        bench.writer.submit(nothing)
    await bench.writer.stop()
    assert not bench.ended


async def test_stop_before_start_ends_nothing(path: Path) -> None:
    bench = Bench(path)
    await bench.writer.stop()
    assert not bench.ended


async def test_a_start_that_is_given_up_ends_at_stop(path: Path) -> None:
    bench = Bench(path)
    start = asyncio.ensure_future(bench.writer.start())
    await asyncio.sleep(0)  # let it begin
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await bench.writer.stop()
    assert bench.ended


async def test_a_stop_that_is_given_up_goes_on(bench: Bench) -> None:
    gate, first = await hold(bench.writer)
    stop = asyncio.ensure_future(bench.writer.stop())
    await asyncio.sleep(0)  # let it begin
    stop.cancel()
    gate.opened.set()
    assert await first == "through"
    await bench.writer.stop()
    assert bench.ended


async def test_nobody_waits_for_a_thread_that_died(path: Path) -> None:
    bench = Bench(path)
    await bench.writer.start()
    died: list[object] = []
    hook, threading.excepthook = threading.excepthook, died.append
    try:
        gate = Gate()

        # Database.run answers every error; only what is no Exception gets past it.
        class Fatal(BaseException):
            pass

        def fatal(connection: sqlite3.Connection) -> None:
            gate(connection)
            raise Fatal

        first = bench.writer.submit(fatal)
        await asyncio.to_thread(gate.entered.wait)
        second = bench.writer.submit(nothing)
        gate.opened.set()
        results = await asyncio.gather(first, second, return_exceptions=True)
        await bench.writer.stop()
    finally:
        threading.excepthook = hook
    for result in results:
        assert isinstance(result, StoreError)
        assert result.cause == "the store's thread is over"
    assert len(died) == 1
    assert bench.ended


def test_a_loop_that_is_gone_does_not_trouble_the_thread(path: Path) -> None:
    # An error in the thread would be a warning, and warnings are errors here.
    gate = Gate()

    async def leave() -> Bench:
        bench = Bench(path)
        await bench.writer.start()
        bench.writer.submit(gate)
        await asyncio.to_thread(gate.entered.wait)
        return bench

    bench = asyncio.run(leave())
    gate.opened.set()
    bench.writer._queue.put(None)
    bench.writer._thread.join(30)
    assert bench.ended
