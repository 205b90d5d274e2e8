"""Databases that have lost or bent single rows: what of them is taken over, what is told of
the rest, and where the old files are then. Pages that cannot be read are in
test_salvage.py."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clipper.store import salvage as module
from clipper.store.base import Chunk, Entry, PutApplication, PutModel, SetCurrent, Snapshot
from clipper.store.salvage import LEAP, salvage
from clipper.store.sqlite import SQLiteStore

from .contract import application, model
from .log_contract import append

pytestmark = pytest.mark.fault("D3")

WHOLE = [
    "applications: 3 kept",
    "versions: 2 kept",
    "choices of a current version: 1 kept",
    "entries of feedback: 20 kept",
    "states of applications and users: 3 kept",
    "chunks of decisions: 4 kept",
    "keys of feedback that was dropped: 2 kept",
]
LOST_COUNTER = (
    "the numbers of applications and versions were lost, and begin anew far behind"
)
PAGE = 4096
TABLES = (
    "application", "model", "current", "counter", "feedback", "person", "decision",
    "spent", "sqlite_sequence", "feedback_size",
)  # fmt: skip


async def fill(directory: Path) -> None:
    store = SQLiteStore(directory)
    await store.open()
    await store.commit(
        *(PutApplication(application(f"a{n}", n)) for n in (1, 2, 3)),
        *(PutModel(model("m", f"{n}", 3 + n)) for n in (1, 2)),
        SetCurrent("m", "2", ["1"]),
    )
    await store.put_blob(b"a function")
    keys = [None, *(f"k{n}" for n in range(1, 20))]
    await append(store, *(Entry(1, key, "u", 1.7e9, b"%d" % 7) for key in keys))
    await store.save(Snapshot(1, 20, {None: b"own", "u": b"u's", "v": b"v's"}), 1_000)
    for n in range(4):
        await store.put_chunk(Chunk(10 * n, 10 * n + 9, 1.7e9, b"%d" % n * 40))
    await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    asyncio.run(fill(tmp_path / "data"))
    path = tmp_path / "data" / "clipper.db"
    spoil(path, "INSERT INTO spent VALUES (1, 1, 'old', 1.6e9), (2, 1, 'older', 1.5e9)")
    return path


def spoil(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def rows(path: Path, table: str) -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return {*connection.execute(f"SELECT * FROM {table}")}


def sequences(path: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT name, seq FROM sqlite_sequence"))


def last_number(path: Path) -> int:
    [(body,)] = {(row[1],) for row in rows(path, "counter")}
    return int(body)


# -- what is taken ------------------------------------------------------------------------


def test_all_that_is_whole_is_taken_as_it_is(path: Path) -> None:
    before = {table: rows(path, table) for table in TABLES}
    found = salvage(path)
    assert found.lines == WHOLE
    assert {table: rows(path, table) for table in TABLES} == before


@pytest.mark.parametrize(
    ("statement", "line", "told"),
    [
        (
            "UPDATE feedback SET sum = sum + 1 WHERE seq IN (3, 4, 9)",
            3,
            "entries of feedback: 17 kept; 3 make no sense and are left out",
        ),
        (
            "UPDATE feedback SET at = 'yesterday' WHERE seq = 20",
            3,
            "entries of feedback: 19 kept; 1 make no sense and are left out",
        ),
        (
            "UPDATE person SET body = x'00' WHERE who != ''",
            4,
            "states of applications and users: 1 kept; 2 make no sense and are left out",
        ),
        (
            "UPDATE decision SET bytes = bytes + 1 WHERE id = 2",
            5,
            "chunks of decisions: 3 kept; 1 make no sense and are left out",
        ),
        (
            "UPDATE decision SET body = 'text' WHERE id IN (1, 2)",
            5,
            "chunks of decisions: 2 kept; 2 make no sense and are left out",
        ),
        (
            "UPDATE spent SET at = 'never' WHERE seq = 1",
            6,
            "keys of feedback that was dropped: 1 kept; 1 make no sense and are left out",
        ),
        (
            "UPDATE spent SET application = 'none' WHERE seq = 2",
            6,
            "keys of feedback that was dropped: 1 kept; 1 make no sense and are left out",
        ),
        (
            "UPDATE application SET sum = sum + 1 WHERE key != 'a3'",
            0,
            "applications: 3 kept, of which 2 cannot be read",
        ),
        (  # a key that is no text, before the others and behind them
            "UPDATE application SET key = CAST(x'3080' AS TEXT) WHERE key = 'a2'",
            0,
            "applications: 2 kept; others are lost",
        ),
        (
            "UPDATE model SET key = CAST(x'ff' AS TEXT) "
            "WHERE key = (SELECT max(key) FROM model)",
            1,
            "versions: 1 kept; others are lost",
        ),
        (
            "UPDATE current SET sum = 'none'",
            2,
            "choices of a current version: 0 kept; others are lost",
        ),
    ],
)
def test_a_row_that_makes_no_sense_is_told_and_the_others_taken(
    path: Path, statement: str, line: int, told: str
) -> None:
    spoil(path, statement)
    assert salvage(path).lines == [*WHOLE[:line], told, *WHOLE[line + 1 :]]


# -- numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "feedback", "decision"),
    [
        ((), 20, 4),
        (("DELETE FROM feedback", "DELETE FROM decision"), 20, 4),
        (("DELETE FROM feedback WHERE seq > 5", "DELETE FROM decision"), 20, 4),
        (("DELETE FROM sqlite_sequence",), 20, 4),
        (("UPDATE sqlite_sequence SET seq = 2",), 20, 4),
        (("UPDATE sqlite_sequence SET seq = 70 + (name = 'decision')",), 70, 71),
        (("UPDATE sqlite_sequence SET seq = x'00'",), 20, 4),
        (
            (
                "DELETE FROM feedback", "DELETE FROM decision",
                "DELETE FROM sqlite_sequence",
            ),
            0,
            0,
        ),
    ],
)  # fmt: skip
def test_no_number_of_a_log_is_given_twice(
    path: Path, statements: tuple[str, ...], feedback: int, decision: int
) -> None:
    spoil(path, *statements)
    salvage(path)
    assert sequences(path) == [("decision", decision), ("feedback", feedback)]


@pytest.mark.parametrize(
    ("statement", "known"),
    [
        ("SELECT 1", 5),  # the generation of a version
        ("DELETE FROM model", 3),  # the number of an application
        ("INSERT INTO spent VALUES (9, 90, 'k', 1.0)", 90),
    ],
)
def test_a_lost_counter_begins_anew_behind_what_is_known(
    path: Path, statement: str, known: int
) -> None:
    spoil(path, statement, "DELETE FROM counter")
    assert salvage(path).lines[-1] == LOST_COUNTER
    assert last_number(path) == known + LEAP


@pytest.mark.parametrize(
    ("table", "saved"),
    [
        ("feedback", lambda store: append(store, Entry(80, "k", None, 1.7e9, b"1"))),
        ("person", lambda store: store.save(Snapshot(80, 0, {None: b"own"}), 0)),
    ],
)
async def test_what_a_deleted_application_left_counts(
    path: Path, table: str, saved: Any
) -> None:
    store = SQLiteStore(path.parent)
    await store.open()
    await saved(store)
    await store.close()
    assert any(80 in row for row in rows(path, table))
    spoil(path, "UPDATE counter SET sum = sum + 1")
    assert salvage(path).lines[-1] == LOST_COUNTER
    assert last_number(path) == 80 + LEAP


async def test_a_counter_of_nothing_begins_at_its_leap(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.close()
    salvage(tmp_path / "clipper.db")
    assert last_number(tmp_path / "clipper.db") == LEAP


# -- where the old files are --------------------------------------------------------------


def mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


def test_the_old_files_are_kept_as_they_were(path: Path) -> None:
    log = path.with_name("clipper.db-wal")
    log.write_bytes(b"not a log")
    before = path.read_bytes()
    [blob] = path.with_name("blobs").iterdir()
    aside, lines = salvage(path)
    assert aside.parent == path.parent
    assert re.fullmatch(r"damaged-20\d{6}-\d{6}", aside.name)
    assert (aside / "clipper.db").read_bytes() == before
    assert (aside / "clipper.db-wal").read_bytes() == b"not a log"
    assert (aside / "blobs" / blob.name).samefile(blob)
    assert (aside / "report.txt").read_text().splitlines() == lines
    assert mode(aside) == mode(aside / "blobs") == 0o700
    assert {each.name for each in path.parent.iterdir()} == {
        "blobs", "clipper.db", "clipper.lock", aside.name
    }  # fmt: skip


def test_where_no_function_was_ever_kept_there_are_none(path: Path) -> None:
    for blob in path.with_name("blobs").iterdir():
        blob.unlink()
    path.with_name("blobs").rmdir()
    assert [*(salvage(path).aside / "blobs").iterdir()] == []


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "strftime", lambda *_: "20261123-010203")
        yield


@pytest.mark.usefixtures("one_second")
def test_each_recovery_of_one_second_has_a_folder_of_its_own(path: Path) -> None:
    names = [salvage(path).aside.name for _ in range(4)]
    first = "damaged-20261123-010203"
    assert names == [first, f"{first}+1", f"{first}+2", f"{first}+3"]


def test_a_file_of_nothing_is_an_empty_database(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    (tmp_path / "clipper.db").write_bytes(b"")
    found = salvage(tmp_path / "clipper.db")
    assert found.lines[0].startswith("the first page of the file was damaged")
    told = "entries of feedback: 0 kept; those from number 1 on are lost"
    assert found.lines[4] == told


def test_around_a_gap_records_are_read_from_both_ends(tmp_path: Path) -> None:
    asyncio.run(many(tmp_path))
    path = tmp_path / "clipper.db"
    content = bytearray(path.read_bytes())
    page = content.index(b"30" * 250) // PAGE * PAGE
    content[page : page + PAGE] = bytes(PAGE)
    path.write_bytes(content)
    [line, *_] = salvage(path).lines
    names = {name for name, _, _ in rows(path, "application")}
    assert names >= {f"a{n}" for n in (*range(10, 20), *range(50, 60))}
    assert "a30" not in names
    assert line == f"applications: {len(names)} kept; others are lost"


async def many(directory: Path) -> None:
    """Applications on many pages."""
    store = SQLiteStore(directory)
    await store.open()
    records = [application(f"a{n}", n, default_output=f"{n}" * 250) for n in range(10, 60)]
    await store.commit(*map(PutApplication, records))
    await store.close()
