"""The remains of a damaged database: the rows that SQLite still reaches, around pages that
cannot be read and without any index, and those of the logs only where they match their
sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from clipper.errors import StoreError

from . import decisions
from .checks import STEPS_PER_SECOND
from .file import connect
from .log_rows import entry_sum, person_sum, unkept
from .migrations import has_own_pages
from .rows import TABLES

Row: TypeAlias = tuple[Any, ...]

# What is skipped at once at most while rows behind a gap are looked for, and how often is
# looked where nobody knows any more how far a table went.
MOST_SKIPPED = 128
MOST_LOOKS = 20_000


class Log(NamedTuple):
    """A table of numbered rows: its columns, the number first, and what makes a row as it
    was read one to write, or None where it is damaged."""

    table: str
    columns: tuple[str, ...]
    check: Callable[[Row], Row | None]


# -- the file ---------------------------------------------------------------------------


def open_remains(copy: Path) -> sqlite3.Connection:
    connection = connect(copy)
    connection.text_factory = bytes  # whatever they are
    run = connection.execute
    run("PRAGMA locking_mode = EXCLUSIVE")
    run("PRAGMA mmap_size = 0")
    run("PRAGMA writable_schema = ON")  # goes on where the file is shorter than it says
    run("PRAGMA trusted_schema = OFF")
    run("PRAGMA cell_size_check = ON")
    return connection


def has_tables(copy: Path) -> bool:
    with closing(open_remains(copy)) as connection:
        try:
            found = connection.execute("SELECT name FROM sqlite_master").fetchall()
            if not has_own_pages(connection):
                return False
        except sqlite3.Error:
            return False
    return {table.encode() for table in TABLES} <= {name for (name,) in found}


def make_first_page(copy: Path, new: Path) -> None:
    """Give the file the first page of an empty database: its tables begin at the same
    places, unless it was made by an earlier version."""
    page = bytearray(new.read_bytes()[:4096])
    pages = max(1, copy.stat().st_size // len(page))
    page[28:32] = pages.to_bytes(4, "big")
    page[32:40] = bytes(8)  # no free pages
    page[92:96] = page[24:28]  # the number of pages is valid
    with copy.open("r+b") as file:
        file.write(page)


# -- its rows ---------------------------------------------------------------------------


def keyed_rows(old: sqlite3.Connection, table: str) -> tuple[dict[bytes, Row], bool]:
    """The rows of a table of records by key, from both its ends if there is a gap in the
    middle; whether there is none."""
    rows: dict[bytes, Row] = {}
    for direction in ("ASC", "DESC"):
        statement = f"SELECT key, body, sum FROM {table} ORDER BY key {direction}"
        with suppress(sqlite3.Error):
            for row in old.execute(statement):
                rows.setdefault(row[0], row)
            return rows, direction == "ASC"
    return rows, False


def numbered_rows(
    old: sqlite3.Connection, log: Log, gaps: list[tuple[int, int | None]]
) -> Iterator[Row]:
    """The rows of a log in order; `gaps` is told between which numbers, both included,
    none can be read (None: to the end)."""
    number, start = log.columns[0], 1
    statement = (
        f"SELECT {', '.join(log.columns)} FROM {log.table} NOT INDEXED "
        f"WHERE {number} >= ? ORDER BY {number}"
    )
    while True:
        try:
            for row in old.execute(statement, (start,)):
                start = row[0] + 1
                yield row
            return
        except sqlite3.Error:
            following = _behind_gap(old, log.table, number, start + 1)
            gaps.append((start, None if following is None else following - 1))
            if following is None:
                return
            start = following


def _behind_gap(old: sqlite3.Connection, table: str, number: str, start: int) -> int | None:
    """The next number from `start` on that can be read; None if there is none."""
    step, last = 1, max(last_numbers(old, table, number), default=None)
    for _ in range(MOST_LOOKS):
        if last is not None and start > last:
            return None
        try:
            found = old.execute(
                f"SELECT {number} FROM {table} NOT INDEXED WHERE {number} >= ? "
                f"ORDER BY {number} LIMIT 1",
                (start,),
            ).fetchone()
        except sqlite3.Error:
            start += step
            step = min(2 * step, MOST_SKIPPED)
        else:
            return None if found is None else int(found[0])
    return None


def last_numbers(old: sqlite3.Connection, table: str, number: str) -> Iterator[int]:
    """The last number of a table as its rows know it, and as SQLite counted them: what of
    these can be read."""
    for statement in (
        f"SELECT max({number}) FROM {table} NOT INDEXED",
        f"SELECT max(seq) FROM sqlite_sequence WHERE name = '{table}'",
    ):
        with suppress(sqlite3.Error):
            (found,) = old.execute(statement).fetchone()
            if isinstance(found, int):
                yield found


# -- which rows are what they were ------------------------------------------------------


def _entry(row: Row) -> Row | None:
    seq, application, key, uid, at, body, total = row
    try:
        name = None if key is None else unkept(key.decode())
        steps = round(at * STEPS_PER_SECOND)
        if total != entry_sum(application, name, steps, body):
            return None
        return seq, application, _text(key), _text(uid), at, body.decode(), total
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _person(row: Row) -> Row | None:
    number, application, who, seq, body, total = row
    try:
        if total != person_sum(application, who.decode(), seq, body):
            return None
        return number, application, who.decode(), seq, body, total
    except (AttributeError, TypeError, UnicodeError):
        return None


def _decision(row: Row) -> Row | None:
    number, first, last, at, size, body, total = row
    try:
        decisions.check_row((number, first, last, at, body, total))
    except (StoreError, TypeError, ValueError):
        return None
    return row if size == len(body) else None


def _spent(row: Row) -> Row | None:
    seq, application, key, at = row
    try:
        return (seq, int(application), key.decode(), float(at))
    except (AttributeError, TypeError, ValueError):
        return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


LOGS = (
    Log("feedback", ("seq", "application", "key", "uid", "at", "body", "sum"), _entry),
    Log("person", ("id", "application", "who", "seq", "body", "sum"), _person),
    Log("decision", ("id", "first", "last", "at", "bytes", "body", "sum"), _decision),
    Log("spent", ("seq", "application", "key", "at"), _spent),
)
