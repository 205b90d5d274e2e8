"""Damage in any place of the files: a sentence that says what to do, or everything as it
was. Never a start with less."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipper.errors import StoreError
from clipper.records import State
from clipper.store.base import Chunk, Entry, Logged, PutApplication, Snapshot
from clipper.store.sqlite import SQLiteStore

from .contract import application, as_good
from .log_contract import append

pytestmark = pytest.mark.fault("D3")

PAGE = 4096
ENTRIES = 1_500

Everything = tuple[State, list[Logged], bytes | None, list[tuple[int, Chunk]]]


async def fill(directory: Path) -> None:
    store = SQLiteStore(directory)
    await store.open()
    await store.commit(*(PutApplication(application(f"a{n}", n)) for n in range(40)))
    entries = [
        Entry(1, f"k{n}", f"u{n % 7}", 1.7e9, b'"%d"' % n * 3) for n in range(ENTRIES)
    ]
    await append(store, *entries)
    await store.save(Snapshot(1, ENTRIES, {None: b"own" * 3_000, "u1": b"one"}), 10)
    await store.put_chunk(Chunk(1, 9, 1.7e9, bytes(9_000)))
    await store.close()


async def read(store: SQLiteStore) -> Everything:
    state = await store.open()
    await store.verify()
    log = await store.entries(1, 0, 10 * ENTRIES)
    own = (await store.learned(1)).state
    return state, log, own, await store.chunks(0, 10)


async def outcome(directory: Path) -> Everything | None:
    """Everything, or None for a refusal that says what to do."""
    store = SQLiteStore(directory)
    try:
        return await read(store)
    except StoreError as error:
        assert "restore it from a backup" in error.cause or "restore it, or" in error.cause
        return None
    finally:
        await store.close()


@pytest.fixture
async def good(tmp_path: Path) -> Path:
    await fill(tmp_path / "good")
    return tmp_path / "good"


class Spoiled:
    """Copies of a directory, each with one file changed."""

    def __init__(self, good: Path) -> None:
        self.good = good
        self.path = good.with_name("spoiled")

    def make(self, name: str, change: Callable[[bytes], bytes | None]) -> Path:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.good, self.path)
        changed = change((self.path / name).read_bytes())
        (self.path / name).unlink()
        if changed is not None:
            (self.path / name).write_bytes(changed)
        return self.path


async def test_no_page_of_zeros_goes_unseen(good: Path) -> None:
    whole = await outcome(good)
    assert whole is not None and len(whole[1]) == ENTRIES
    size = (good / "clipper.db").stat().st_size
    refused = 0
    for start in range(0, size, PAGE):

        def zero(content: bytes, start: int = start) -> bytes:
            return content[:start] + bytes(PAGE) + content[start + PAGE :]

        found = await outcome(Spoiled(good).make("clipper.db", zero))
        assert found is None or found == whole, start
        refused += found is None
    assert refused > size // PAGE // 2  # others are pages of indexes that a read passes by


async def test_flipped_bits_change_nothing_that_is_read(good: Path) -> None:
    whole = await outcome(good)
    dice = random.Random(3)
    size = (good / "clipper.db").stat().st_size
    for _ in range(60):
        place, bit = dice.randrange(size), 1 << dice.randrange(8)

        def flip(content: bytes, place: int = place, bit: int = bit) -> bytes:
            changed = bytearray(content)
            changed[place] ^= bit
            return bytes(changed)

        found = await outcome(Spoiled(good).make("clipper.db", flip))
        if found is not None and found != whole:
            # of a uid there is no sum, as it is taken out of entries
            assert as_good(found[0], whole[0])  # type: ignore[index]
            assert found[2:] == whole[2:]  # type: ignore[index]
            assert [e._replace(uid=None) for _, e in found[1]] == [
                e._replace(uid=None)
                for _, e in whole[1]  # type: ignore[index]
            ]


async def test_a_file_that_was_cut_is_refused(good: Path) -> None:
    size = (good / "clipper.db").stat().st_size
    for cut in (0, 1, 99, PAGE - 1, PAGE, size // 2, size - PAGE, size - 1):

        def cut_off(content: bytes, cut: int = cut) -> bytes:
            return content[:cut]

        assert await outcome(Spoiled(good).make("clipper.db", cut_off)) is None, cut


async def test_damage_in_the_log_is_found_once_the_server_is_up(good: Path) -> None:
    """And then nothing is written, though reading goes on."""
    store = SQLiteStore(_with_damage_in_the_log(good))
    state = await store.open()
    assert len(state.applications) == 40
    verified = asyncio.ensure_future(store.verify())
    await asyncio.sleep(0)
    told = asyncio.ensure_future(append(store, Entry(1, "new", None, 1.7e9, b"1")))
    with pytest.raises(StoreError, match=r"is damaged \(.*restore it from a backup"):
        await verified
    with pytest.raises(StoreError, match="changes are refused"):
        await told
    with pytest.raises(StoreError, match="changes are refused"):
        await store.commit(PutApplication(application("b", 99)))
    assert (await store.learned(1)).state == b"own" * 3_000
    await store.close()


def _with_damage_in_the_log(good: Path) -> Path:
    """A page in the middle of the feedback log says that it is of another kind."""

    def change(content: bytes) -> bytes:
        start = content.index(b'"700""700""700"') // PAGE * PAGE
        return content[:start] + b"\x63" + content[start + 1 :]

    return Spoiled(good).make("clipper.db", change)
