"""Files that are really damaged: what can be read of them is there again, and nothing that
was not; the damaged ones stay as they were."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipper.errors import StoreError
from clipper.records import State
from clipper.store import salvage as salvage_module
from clipper.store.base import (
    Chunk,
    Entry,
    Logged,
    Person,
    PutApplication,
    PutModel,
    SetCurrent,
    Snapshot,
)
from clipper.store.sqlite import SQLiteStore

from .contract import application, model
from .log_contract import append

pytestmark = pytest.mark.fault("D3")

PAGE = 4096
ENTRIES = 2_000
USERS = 300


async def fill(directory: Path) -> None:
    store = SQLiteStore(directory)
    await store.open()
    records = [PutApplication(application(f"a{n}", n)) for n in range(1, 41)]
    versions = [PutModel(model("m", f"{n}", 40 + n)) for n in range(1, 31)]
    await store.commit(*records, *versions, SetCurrent("m", "2", ["1"]))
    await store.put_blob(b"a function")
    for start in range(0, ENTRIES, 500):
        numbers = range(start, start + 500)
        await append(store, *(Entry(1, f"k{n}", f"u{n}", 1.7e9, body(n)) for n in numbers))
    states: dict[str | None, bytes] = {f"u{n}": b"%d" % n * 40 for n in range(USERS)}
    await store.save(Snapshot(1, ENTRIES, {None: b"own", **states}), 1_000)
    for n in range(40):
        await store.put_chunk(Chunk(10 * n, 10 * n + 9, 1.7e9, b"%d" % n * 400))
    await store.close()


def body(n: int) -> bytes:
    return b'"%d, %030d"' % (n, n)


class Found:
    """All that a store holds."""

    state: State
    log: list[Logged]
    own: bytes | None
    users: dict[str, bytes]
    chunks: list[Chunk]


async def read(directory: Path, recover: bool = False) -> Found:
    found = Found()
    store = SQLiteStore(directory, recover=recover)
    try:
        found.state = await store.open()
        await store.verify()
        found.log = await store.entries(1, 0, 10 * ENTRIES)
        found.own = (await store.learned(1, 0)).state
        found.users = {}
        for uid in await store.uids(1, None, 10 * USERS):
            found.users[uid] = await store.state_of(Person(1, uid)) or b""
        found.chunks = [chunk for _, chunk in await store.chunks(0, 1_000)]
        # and it takes what comes, with numbers that nothing had before
        told = await append(store, Entry(1, "new", None, 1.7e9, b"1"))
        assert isinstance(told.entries[0], int) and told.entries[0] > ENTRIES
        await store.commit(PutApplication(application("new", 10**9)))
    finally:
        await store.close()
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    directory = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(directory / "good"))
    shutil.copytree(directory / "good", directory / "read")
    return directory / "good", asyncio.run(read(directory / "read"))


@pytest.fixture
def data(filled: tuple[Path, Found], tmp_path: Path) -> Path:
    shutil.copytree(filled[0], tmp_path / "data")
    return tmp_path / "data"


Change = Callable[[bytearray], None]


def zero(content: bytearray, page: int) -> None:
    content[(page - 1) * PAGE : page * PAGE] = bytes(PAGE)


def zero_pages_with(content: bytearray, *texts: bytes) -> None:
    for page in {content.index(text) // PAGE + 1 for text in texts}:
        zero(content, page)


def first_page(content: bytearray) -> None:
    zero(content, 1)


def header(content: bytearray) -> None:
    content[:20] = b"not what it was once"


def a_third(content: bytearray) -> None:
    del content[len(content) * 2 // 3 :]


def half_a_page(content: bytearray) -> None:
    del content[len(content) - PAGE // 2 :]


def some_entries(content: bytearray) -> None:
    zero_pages_with(content, body(300), body(900), body(901), body(1_500))


def last_entries(content: bytearray) -> None:
    zero_pages_with(content, body(ENTRIES - 1))


def a_users_state(content: bytearray) -> None:
    zero_pages_with(content, b"123" * 40)


def a_root(table: str) -> Change:
    def change(content: bytearray) -> None:
        zero(content, ROOTS[table])

    change.__name__ = f"root_of_{table}"
    return change


ROOTS: dict[str, int] = {}


@pytest.fixture(autouse=True)
def roots(filled: tuple[Path, Found]) -> None:
    connection = sqlite3.connect(filled[0] / "clipper.db")
    ROOTS.update(connection.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    connection.close()


def damage(data: Path, change: Change) -> bytes:
    content = bytearray((data / "clipper.db").read_bytes())
    change(content)
    (data / "clipper.db").write_bytes(content)
    return bytes(content)


def files(data: Path) -> list[Path]:
    return list(data.iterdir())


def aside(data: Path) -> Path:
    [found] = data.glob("damaged-*")
    return found


def check_nothing_is_new(found: Found, whole: Found) -> None:
    assert {*found.log} <= {*whole.log}
    assert found.users.items() <= whole.users.items()
    assert found.own in (None, whole.own)
    assert {*found.chunks} <= {*whole.chunks}
    state = found.state
    assert state.applications.items() <= whole.state.applications.items()
    assert state.models.items() <= whole.state.models.items()
    assert state.current.items() <= whole.state.current.items()
    assert state.last_number >= whole.state.last_number


# What is there again at least: applications, versions, entries, users, chunks.
@pytest.mark.parametrize(
    ("change", "least"),
    [
        (first_page, (40, 30, ENTRIES, USERS, 40)),
        (header, (40, 30, ENTRIES, USERS, 40)),
        (half_a_page, (40, 30, ENTRIES, USERS, 37)),
        (a_third, (40, 30, 1_000, 0, 0)),
        (some_entries, (40, 30, ENTRIES - 4 * 60, USERS, 40)),
        (last_entries, (40, 30, ENTRIES - 60, USERS, 40)),
        (a_users_state, (40, 30, ENTRIES, USERS - 40, 40)),
        (a_root("application"), (0, 30, ENTRIES, USERS, 40)),
        (a_root("model"), (40, 0, ENTRIES, USERS, 40)),
        (a_root("counter"), (40, 30, ENTRIES, USERS, 40)),
        (a_root("feedback"), (40, 30, 0, USERS, 40)),
        (a_root("feedback_key"), (40, 30, ENTRIES, USERS, 40)),
        (a_root("person"), (40, 30, ENTRIES, 0, 40)),
        (a_root("sqlite_sequence"), (40, 30, ENTRIES, USERS, 40)),
        (a_root("feedback_size"), (40, 30, ENTRIES, USERS, 40)),
    ],
)
async def test_what_can_be_read_is_there_again(
    data: Path,
    filled: tuple[Path, Found],
    change: Change,
    least: tuple[int, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = filled[1]
    spoiled = damage(data, change)
    with pytest.raises(StoreError, match=r"start with --recover|clipper.db-wal is missing"):
        await read(data)
    before = (data / "clipper.db").read_bytes()
    found = await read(data, recover=True)
    check_nothing_is_new(found, whole)
    counts = (
        len(found.state.applications), len(found.state.models), len(found.log),
        len(found.users), len(found.chunks),
    )  # fmt: skip
    assert all(n >= most for n, most in zip(counts, least, strict=True)), counts
    kept = aside(data)
    assert (kept / "clipper.db").read_bytes() in (spoiled, before)
    assert [*(kept / "blobs").iterdir()]
    told = (kept / "report.txt").read_text()
    assert f"entries of feedback: {len(found.log)} kept" in told
    assert ("are lost" in told.partition("feedback: ")[2].partition("\n")[0]) is (
        len(found.log) < ENTRIES
    )
    assert all(f"recovered: {line}" in caplog.text for line in told.splitlines())
    await read_again(data, found)
    assert {path.name for path in files(data)} == {
        "blobs", "clipper.db", "clipper.lock", kept.name
    }  # fmt: skip


async def read_again(data: Path, found: Found) -> None:
    """With nothing left to recover nothing is done, and all is as it was."""
    again = await read_only(data)
    assert again.state.applications.keys() == found.state.applications.keys() | {"new"}
    assert again.log[:-1] == found.log
    aside(data)  # one


async def read_only(data: Path) -> Found:
    found = Found()
    store = SQLiteStore(data, recover=True)
    found.state = await store.open()
    found.log = await store.entries(1, 0, 10 * ENTRIES)
    await store.close()
    return found


async def test_what_is_whole_is_left_as_it_is(data: Path, filled: Any) -> None:
    found = await read(data, recover=True)
    assert (found.log, found.state.applications) == (
        filled[1].log,
        filled[1].state.applications,
    )
    assert not [path for path in files(data) if path.name.startswith("damaged")]


async def test_what_lies_in_the_log_of_a_killed_server_is_read_too(data: Path) -> None:
    store = SQLiteStore(data)
    await store.open()
    await append(store, Entry(1, "late", None, 1.7e9, b'"late"'))
    killed = data.with_name("killed")
    shutil.copytree(data, killed)
    await store.close()
    damage(killed, some_entries)
    found = await read(killed, recover=True)
    assert found.log[-1].entry.key == "late"
    assert ENTRIES - 240 < len(found.log) < ENTRIES
    assert (aside(killed) / "clipper.db").stat().st_size


async def test_a_lost_log_of_a_killed_server_is_gone_on_without(data: Path) -> None:
    (data / "clipper.lock").write_text("1 running")
    with pytest.raises(StoreError, match="start with --recover to go on without them"):
        await read(data)
    assert len((await read(data, recover=True)).log) == ENTRIES


async def test_gaps_are_told_where_they_are(data: Path) -> None:
    damage(data, some_entries)
    found = await read(data, recover=True)
    there = {seq for seq, _ in found.log}
    [line] = [
        line
        for line in (aside(data) / "report.txt").read_text().splitlines()
        if line.startswith("entries of feedback")
    ]
    gaps = re.findall(r"numbers (\d+) to (\d+)", line)
    lost = {n for first, last in gaps for n in range(int(first), int(last) + 1)}
    assert len(gaps) in (3, 4) and lost == {*range(1, ENTRIES + 1)} - there


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (4, r"(of numbers \d+ to \d+(, )?){4} are lost"),
        (5, r"(of numbers \d+ to \d+(, )?){5} are lost"),
        (6, r"(of numbers \d+ to \d+(, )?){5} and in 1 more place are lost"),
        (8, r"(of numbers \d+ to \d+(, )?){5} and in 3 more places are lost"),
    ],
)
async def test_of_many_gaps_the_first_are_told(data: Path, count: int, told: str) -> None:
    texts = [body(200 + 150 * number) for number in range(count)]
    damage(data, lambda content: zero_pages_with(content, *texts))
    await read(data, recover=True)
    report = (aside(data) / "report.txt").read_text()
    assert re.search(f"entries of feedback: \\d+ kept; those {told}\n", report), report


@pytest.mark.parametrize("step", ["_take_over", "_put_aside", "os.replace"])
async def test_a_recovery_that_fails_has_lost_nothing(
    data: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = damage(data, some_entries)

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    place: Any = salvage_module
    with monkeypatch.context() as patch:
        if step == "os.replace":
            replace = os.replace

            def replacing(old: Path, new: Path) -> None:
                fail() if new.name == "clipper.db" else replace(old, new)

            patch.setattr("os.replace", replacing)
        else:
            patch.setattr(place, step, fail)
        with pytest.raises(StoreError, match=r"cannot be re\w*: .*No space left"):
            await read(data, recover=True)
    assert (data / "clipper.db").read_bytes() == spoiled
    assert not [path for path in files(data) if path.name.startswith(".writing")]
    assert len((await read(data, recover=True)).log) > ENTRIES - 240


async def test_a_row_that_was_changed_is_not_taken(data: Path) -> None:
    """Though all pages are whole, but for one that is not needed."""

    def change(content: bytearray) -> None:
        for text in (body(70), b"77" * 40):
            content[content.index(text) + 2] ^= 1
        zero(content, ROOTS["feedback_key"])

    damage(data, change)
    found = await read(data, recover=True)
    assert {f"k{n}" for n in range(ENTRIES)} - {e.key for _, e in found.log} == {"k70"}
    told = (aside(data) / "report.txt").read_text()
    assert f"entries of feedback: {ENTRIES - 1} kept; 1 make no sense" in told


async def test_numbers_begin_anew_far_behind_those_that_are_known(data: Path) -> None:
    damage(data, a_root("counter"))
    found = await read(data, recover=True)
    assert found.state.last_number == 70 + salvage_module.LEAP


async def test_a_damaged_record_stays_what_it_is(data: Path) -> None:
    connection = sqlite3.connect(data / "clipper.db")
    connection.execute("UPDATE application SET sum = sum + 1 WHERE key = 'a3'")
    connection.commit()
    connection.close()
    damage(data, a_root("feedback_key"))
    found = await read(data, recover=True)
    assert [*found.state.damaged.applications] == ["a3"]
    assert len(found.state.applications) == 39
    assert (
        "applications: 40 kept, of which 1 cannot be read\n"
        in (aside(data) / "report.txt").read_text()
    )
