from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeLoop, ManualClock

from clipper.choosing import Choice
from clipper.errors import ClipperError, DiskFull, Overloaded, StoreError
from clipper.learning import decisions as module
from clipper.learning.chunks import Decision, encode_context
from clipper.learning.decisions import CHUNK, CHUNK_SECONDS, Decisions, Made
from clipper.query_id import QueryIds
from clipper.store.base import Chunk
from clipper.store.memory import MemoryStore
from clipper.values import RowError

ARMS = ("a:1#1", "b:1#2")


class Desk:
    def __init__(self, clock: ManualClock, loop: FakeLoop) -> None:
        self.clock = clock
        self.loop = loop
        self.log = MemoryStore()
        self.log._open = True
        self.ids = QueryIds(bytes(32), clock)
        self.choice = self.new_choice()
        self.decisions = self.another_life()

    def another_life(self) -> Decisions:
        """The memory of a process that has just begun."""
        self.decisions = Decisions(
            self.log, self.clock, self.loop.call_later, self.loop.spawned.append
        )
        return self.decisions

    def new_choice(self, features: bytes | None = None) -> Choice:
        stamp = self.ids.stamp(1, 1, 1, 0.5)
        return Choice(ARMS, (None, None), [0.5, 0.5], 0, 0.5, 1, stamp, features)  # type: ignore[arg-type]

    def keep(
        self, nonce: int, outputs: Any = b"1", durable: bool = True, **more: Any
    ) -> None:
        choice = more.get("choice", self.choice)
        made = Made(1, choice, more.get("uid"), more.get("context"), outputs)
        self.decisions.keep(nonce, made, durable)

    def find(self, nonce: int, row: int = 0, durable: bool = True) -> Any:
        """What was told, or nothing yet."""
        told: list[tuple[Any, ClipperError | None]] = []
        self.decisions.find(nonce, row, durable, lambda *what: told.append(what))
        return told

    async def found(self, nonce: int, row: int = 0) -> Decision | None:
        told = self.find(nonce, row)
        await self.loop.work()
        ((decision, error),) = told
        assert error is None
        return decision  # type: ignore[no-any-return]


@pytest.fixture
def desk(clock: ManualClock, fake_loop: FakeLoop) -> Iterator[Desk]:
    yield Desk(clock, fake_loop)
    for work in fake_loop.spawned:
        work.close()


# -- memory -----------------------------------------------------------------------------


def test_a_decision_is_found_at_once(desk: Desk) -> None:
    desk.keep(5)
    ((decision, error),) = desk.find(5)
    assert error is None and decision.chosen == (ARMS[0],) and decision.answer == b"1"
    assert desk.find(6, durable=False) == [(None, None)]
    assert desk.find(5, row=1) == [(None, None)]  # a single query has one row


def test_an_output_alone_is_found_as_well(desk: Desk) -> None:
    desk.decisions.keep_output(1, b"x")
    error = RowError("no_model", "none")
    desk.decisions.keep_output(2, error)
    assert desk.find(1) == [(b"x", None)] and desk.find(2) == [(error, None)]
    assert desk.find(1, row=1) == [(None, None)]


OUTPUTS = {  # and how many of them are kept
    "small": (lambda n: b"%d" % n, 160_000),
    "string": (lambda n: f"{n:>10000}", 6_400),
    "bytes": (lambda n: b"%10000d" % n, 6_400),
    "failed": (lambda n: RowError("no_model", ""), 160_000),
    "batch": (lambda n: [b"%d" % n] * 1000, 640),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_memory_is_bounded_by_bytes(
    desk: Desk, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, kept = OUTPUTS[kind]
    monkeypatch.setattr(module, "MOST_BYTES", module.MOST_BYTES // 16)
    monkeypatch.setattr(module, "_PART", module._PART // 16)
    kept //= 16
    most = freed = 0
    for nonce in range(3 * kept):
        before = len(desk.decisions)
        desk.keep(nonce, output(nonce), durable=False)
        most = max(most, len(desk.decisions))
        freed = max(freed, before - len(desk.decisions))
    assert 0.9 * kept <= most <= 1.1 * kept
    assert 0 < freed <= 0.1 * kept  # little at once
    for ago in (1, kept // 2, int(0.85 * kept)):
        assert desk.find(3 * kept - ago, durable=False)[0][0] is not None
    assert desk.find(0, durable=False) == [(None, None)]


def test_what_a_query_brings_and_a_choice_of_its_own_weigh_too(desk: Desk) -> None:
    def weight(**more: Any) -> int:
        before = desk.decisions._bytes
        desk.keep(1, durable=False, **more)
        return desk.decisions._bytes - before

    first, again = weight(), weight()
    assert first >= again + 500  # the choice counts once
    assert weight(context=encode_context([0.5] * 400)) > again + 400 * 9
    choice = desk.new_choice(encode_context([0.5] * 400))
    assert weight(choice=choice) > again + 400 * 9
    desk.decisions._turn()
    assert weight() == first


def test_an_output_as_large_as_the_memory_is_kept_until_the_next(desk: Desk) -> None:
    desk.keep(1, b"x" * module.MOST_BYTES, durable=False)
    assert desk.find(1, durable=False)[0][0] is not None
    desk.keep(2, b"x" * module.MOST_BYTES, durable=False)
    assert desk.find(1, durable=False) == [(None, None)]
    assert desk.find(2, durable=False)[0][0] is not None


# -- disk -------------------------------------------------------------------------------


async def test_decisions_are_written_when_there_are_enough_or_soon(desk: Desk) -> None:
    for nonce in range(CHUNK - 1):
        desk.keep(nonce)
    assert not desk.loop.spawned
    desk.keep(CHUNK - 1)
    await desk.loop.work()
    assert desk.decisions.written == CHUNK
    desk.keep(CHUNK)
    desk.loop.advance(CHUNK_SECONDS)
    await desk.loop.work()
    assert desk.decisions.written == CHUNK + 1
    assert len(await desk.log.chunks(0, 10)) == 2
    desk.loop.advance(CHUNK_SECONDS)
    assert not desk.loop.spawned and not desk.loop.armed  # nothing, no timer


async def test_a_chunk_is_no_larger_than_a_turn_of_the_loop_can_bear(desk: Desk) -> None:
    for nonce in range(6):
        desk.keep(nonce, [b"12345678"] * 10_000)
    assert len(desk.loop.spawned) == 6  # each is a chunk of its own
    await desk.loop.work()
    assert (await desk.found(3, 9999)).answer == b"12345678"  # type: ignore[union-attr]


async def test_a_large_batch_is_kept_in_parts(desk: Desk) -> None:
    """Each is written, and later read, in a turn of its own."""
    outputs = [b"%d" % n + b"x" * 3000 for n in range(2000)]
    desk.keep(7)
    desk.keep(8, outputs)
    await desk.loop.work()
    desk.another_life()
    for row in (0, 1, 340, 999, 1999):
        assert (await desk.found(8, row)).answer == outputs[row]  # type: ignore[union-attr]
    assert await desk.found(8, 2000) is None and await desk.found(7) is not None
    chunks = await desk.log.chunks(0, 100)
    assert len(chunks) > 4
    assert all(len(chunk.body) < 1.1 * module.CHUNK_BYTES for _, chunk in chunks)


@pytest.mark.parametrize("context", [{"a": 10**30}, [1.0, 10**30], object()])
@pytest.mark.parametrize("whose", ["query", "policy"])
async def test_a_context_that_cannot_be_written_costs_nothing_else(
    desk: Desk, context: Any, whose: str
) -> None:
    desk.keep(1)
    if whose == "query":
        desk.keep(2, context=encode_context(context))
    else:
        desk.keep(2, choice=desk.new_choice(encode_context(context)))
    desk.decisions.flush()
    await desk.loop.work()
    assert (desk.decisions.written, desk.decisions.lost) == (2, 0)
    desk.another_life()
    assert await desk.found(1) is not None and await desk.found(2) is not None


async def test_a_chunk_that_cannot_be_made_takes_no_place(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for nonce in range(module._UNWRITTEN + 1):
        desk.keep(nonce, uid="\ud800")
        desk.decisions.flush()
        await desk.loop.work()
    assert desk.decisions.lost == module._UNWRITTEN + 1
    assert "cannot be encoded" in caplog.text
    desk.keep(99)
    desk.decisions.flush()
    await desk.loop.work()
    assert desk.decisions.written == 1


async def test_an_earlier_life_is_remembered(desk: Desk) -> None:
    for nonce in (10, 11, 14):
        desk.keep(nonce, uid=f"user{nonce}")
    desk.keep(12, durable=False)
    desk.decisions.flush()
    await desk.loop.work()
    desk.another_life()
    decision = await desk.found(14)
    assert decision is not None and decision.uid == "user14"
    assert decision.odds == (0.5, 0.5) and decision.propensity == 0.5
    for nonce in (9, 12, 13, 15):
        assert await desk.found(nonce) is None
    assert await desk.found(10, 1) is None


async def test_lives_whose_nonces_overlap_do_not_mix(desk: Desk) -> None:
    for nonce in (10, 20):
        desk.keep(nonce, b"old")
    desk.decisions.flush()
    await desk.loop.work()
    desk.another_life()
    for nonce in (15, 20, 25):
        desk.keep(nonce, b"new")
    desk.decisions.flush()
    await desk.loop.work()
    desk.another_life()
    assert (await desk.found(20)).answer == b"new"  # type: ignore[union-attr]
    assert (await desk.found(10)).answer == b"old"  # type: ignore[union-attr]
    assert await desk.found(16) is None


async def test_a_full_disk_costs_decisions_and_nothing_else(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(self: Any, chunk: Chunk) -> None:
        raise DiskFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "put_chunk", full)
        for nonce in range(3):
            desk.keep(nonce)
            desk.decisions.flush()
        await desk.loop.work()
    assert desk.decisions.lost == 3 and caplog.text.count("not written") == 1
    assert (await desk.found(1)) is not None  # memory has it
    desk.another_life()
    assert await desk.found(1) is None
    desk.keep(9)
    desk.decisions.flush()
    await desk.loop.work()
    assert desk.decisions.written == 1


async def test_a_slow_disk_is_not_waited_for(desk: Desk) -> None:
    for nonce in range(20):
        desk.keep(nonce)
        desk.decisions.flush()
    assert len(desk.loop.spawned) == module._UNWRITTEN
    assert desk.decisions.lost == 20 - module._UNWRITTEN
    await desk.loop.work()
    assert desk.decisions.written == module._UNWRITTEN
    desk.keep(30)
    desk.decisions.flush()
    await desk.loop.work()
    assert desk.decisions.written == module._UNWRITTEN + 1


# -- lookups ----------------------------------------------------------------------------


async def test_lookups_in_one_chunk_read_it_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nonce in range(50):
        desk.keep(nonce)
    desk.decisions.flush()
    await desk.loop.work()
    desk.another_life()
    asked: list[int] = []
    chunk_of = desk.log.chunk_of

    async def counted(self: Any, nonce: int) -> Chunk | None:
        asked.append(nonce)
        return await chunk_of(nonce)

    monkeypatch.setattr(MemoryStore, "chunk_of", counted)
    told = [desk.find(nonce) for nonce in range(50)]
    assert len(desk.loop.spawned) == 1
    await desk.loop.work()
    assert all(decision is not None for ((decision, _),) in told) and asked == [0]


async def test_decoded_chunks_have_a_bound(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DECODED", 3)
    for nonce in range(8):
        desk.keep(nonce)
        desk.decisions.flush()
        await desk.loop.work()
    desk.another_life()
    for nonce in (0, 1, 2, 3, 4, 5, 6, 7, 0):
        assert await desk.found(nonce) is not None
    assert len(desk.decisions._decoded) == 3


async def test_decoded_chunks_have_a_bound_in_bytes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nonce in range(4):
        desk.keep(nonce, b"x" * 4000)
        desk.decisions.flush()
        await desk.loop.work()
    size = len((await desk.log.chunks(0, 1))[0][1].body)
    monkeypatch.setattr(module, "_DECODED_BYTES", 2 * size)
    desk.another_life()
    for nonce in (0, 1, 2, 3, 0):
        assert await desk.found(nonce) is not None
    assert list(desk.decisions._decoded) == [3, 0]
    monkeypatch.setattr(module, "_DECODED_BYTES", size - 1)
    assert await desk.found(2) is not None  # larger than all that may be kept
    assert not desk.decisions._decoded


async def test_lookups_without_the_disk_let_others_go_between(desk: Desk) -> None:
    for nonce in range(CHUNK):
        desk.keep(nonce)
    await desk.loop.work()
    desk.another_life()
    told = [desk.find(nonce) for nonce in range(CHUNK)]
    reading = asyncio.create_task(desk.loop.spawned.pop())
    turns, before = [0], 0
    while not reading.done():
        await asyncio.sleep(0)
        now = sum(map(bool, told))
        turns.append(now - before)
        before = now
    assert before == CHUNK and max(turns) <= module._AT_ONCE


async def test_too_many_lookups_are_refused_and_the_others_served(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASKED", 2)
    told = [desk.find(1), desk.find(2)]
    with pytest.raises(Overloaded):
        desk.find(3)
    await desk.loop.work()
    assert told == [[(None, None)], [(None, None)]]


async def test_a_disk_that_fails_is_told_and_asked_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any, nonce: int) -> Chunk | None:
        raise StoreError("the database is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "chunk_of", broken)
        told = desk.find(1)
        await desk.loop.work()
        ((decision, error),) = told
        assert decision is None and isinstance(error, StoreError)
    assert await desk.found(1) is None


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\x92\x90\x91\x95\x00\x01\x07\xc0\x91\xc4\x011"]
)
async def test_a_chunk_that_makes_no_sense_stops_no_other(desk: Desk, body: bytes) -> None:
    await desk.log.put_chunk(Chunk(0, 5, 1.0, body))
    desk.keep(7)
    desk.decisions.flush()
    await desk.loop.work()
    desk.another_life()
    told, other = desk.find(0), desk.find(7)
    await desk.loop.work()
    ((decision, error),) = told
    assert decision is None and isinstance(error, StoreError)
    assert other[0][0] is not None


async def test_who_raises_when_told_stops_no_other(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(*what: Any) -> None:
        raise RuntimeError("a bug")

    desk.decisions.find(1, 0, True, bad)
    other = desk.find(2)
    await desk.loop.work()
    assert other == [(None, None)] and "a bug" in caplog.text
