"""What can still be read of a damaged database, taken over into a new one.

Rows are copied one by one as far as they can be read. Those of the logs are taken only
where they match their sums; a record is taken as it is, since damage of one record is its
own. The damaged files are not written to: a copy is read, and they are put aside with what
belongs to them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from clipper.errors import StoreError

from .directory import UNFINISHED, sync
from .file import connect, create, log_path
from .remains import (
    LOGS,
    Log,
    has_tables,
    keyed_rows,
    last_numbers,
    make_first_page,
    numbered_rows,
    open_remains,
)
from .rows import COUNTER, LAST_NUMBER, TABLES, decode, number_body
from .tables import checksum

# Numbers that may have been given out and are not remembered are passed by, with some room.
LEAP = 1_000_000

_PLACES = 5  # gaps that are told one by one

_WORDS = {
    "application": "applications",
    "model": "versions",
    "current": "choices of a current version",
    "feedback": "entries of feedback",
    "person": "states of applications and users",
    "decision": "chunks of decisions",
    "spent": "keys of feedback that was dropped",
}


class Salvaged(NamedTuple):
    """Where the damaged files are now, and what became of what they held, in sentences."""

    aside: Path
    lines: list[str]


def salvage(path: Path) -> Salvaged:
    """Replace the database at `path`, which nobody has open, by one with all that can be
    read of it. Raises StoreError if there is no room or the disk fails; until the new one
    is complete nothing is changed, and what is put aside is all that there was."""
    copy = path.with_name(f"{UNFINISHED}old.db")
    new = path.with_name(f"{UNFINISHED}new.db")
    try:
        for stale in (copy, log_path(copy), new, log_path(new)):
            stale.unlink(missing_ok=True)
        create(new)
        lines = _take_over(_copy(path, copy), new)
        aside = _put_aside(path, lines)
        _replace(path, new, aside)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} cannot be recovered: {error}") from error
    finally:
        for mine in (copy, log_path(copy), new, log_path(new)):
            with suppress(OSError):
                mine.unlink(missing_ok=True)
    return Salvaged(aside, lines)


def _replace(path: Path, new: Path, aside: Path) -> None:
    try:
        log_path(path).unlink(missing_ok=True)  # or it would be taken for the new one's
        os.replace(new, path)
        sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be replaced: {error.strerror}; all that it held is in {aside}"
        ) from error


def _copy(path: Path, copy: Path) -> Path:
    shutil.copyfile(path, copy)
    with suppress(FileNotFoundError):
        shutil.copyfile(log_path(path), log_path(copy))
    return copy


def _take_over(copy: Path, new: Path) -> list[str]:
    lines = []
    if not has_tables(copy):
        make_first_page(copy, new)
        lines.append("the first page of the file was damaged, and is that of an empty one")
    with closing(open_remains(copy)) as old, closing(connect(new)) as fresh:
        fresh.execute("PRAGMA synchronous = FULL")
        fresh.execute("BEGIN IMMEDIATE")
        lines += _copy_records(old, fresh)
        lines += [_copy_log(old, fresh, log) for log in LOGS]
        _copy_sequences(old, fresh)
        line = _mend_counter(fresh)
        lines += [line] if line else []
        fresh.execute("COMMIT")
        fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync(new)
    return lines


def _put_aside(path: Path, lines: list[str]) -> Path:
    """Keep the files as they are, and the packaged functions that their records name."""
    folder = path.with_name(f"damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    count = 0
    while folder.exists():
        count += 1
        folder = folder.with_name(f"{folder.name.partition('+')[0]}+{count}")
    blobs = path.with_name("blobs")
    folder.mkdir(0o700)
    (folder / "blobs").mkdir(0o700)
    for file in (path, log_path(path)):
        if file.exists():
            os.link(file, folder / file.name)
    for file in blobs.iterdir() if blobs.exists() else ():
        os.link(file, folder / "blobs" / file.name)
    (folder / "report.txt").write_text("".join(f"{line}\n" for line in lines))
    for place in (folder / "report.txt", folder / "blobs", folder, path.parent):
        sync(place)
    return folder


# -- writing the new one -----------------------------------------------------------------


def _copy_records(old: sqlite3.Connection, fresh: sqlite3.Connection) -> Iterator[str]:
    for table in TABLES:
        rows, whole = keyed_rows(old, table)
        kept = damaged = 0
        for key, body, total in rows.values():
            try:
                values = (key.decode(), body, int(total))
                fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?)", values)
            except (AttributeError, TypeError, ValueError, sqlite3.IntegrityError):
                whole = False
                continue
            kept += 1
            damaged += not _matches(table, *values)
        if table != COUNTER:
            told = f", of which {damaged} cannot be read" if damaged else ""
            lost = "" if whole else "; others are lost"
            yield f"{_WORDS[table]}: {kept} kept{told}{lost}"


def _copy_log(old: sqlite3.Connection, fresh: sqlite3.Connection, log: Log) -> str:
    gaps: list[tuple[int, int | None]] = []
    kept = wrong = 0
    marks = ", ".join("?" * len(log.columns))
    statement = (
        f"INSERT OR IGNORE INTO {log.table} ({', '.join(log.columns)}) VALUES ({marks})"
    )
    for row in numbered_rows(old, log, gaps):
        values = log.check(row)
        if values is not None and fresh.execute(statement, values).rowcount:
            kept += 1
        else:
            wrong += 1
    told = f"; {wrong} make no sense and are left out" if wrong else ""
    return f"{_WORDS[log.table]}: {kept} kept{told}{_places(gaps)}"


def _places(gaps: list[tuple[int, int | None]]) -> str:
    if not gaps:
        return ""
    told = [
        f"from number {first} on" if last is None else f"of numbers {first} to {last}"
        for first, last in gaps[:_PLACES]
    ]
    more = len(gaps) - _PLACES
    rest = f" and in {more} more {'place' if more == 1 else 'places'}" if more > 0 else ""
    return f"; those {', '.join(told)}{rest} are lost"


def _copy_sequences(old: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    """No number is given twice."""
    for table, number in (("feedback", "seq"), ("decision", "id")):
        last = max(last_numbers(old, table, number), default=0)
        taken = fresh.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (last, table)
        )
        if not taken.rowcount:
            fresh.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last))


def _mend_counter(fresh: sqlite3.Connection) -> str | None:
    """A lost counter begins anew behind every number that is known."""
    tables = {
        table: {
            key: body
            for key, body, total in fresh.execute(f"SELECT key, body, sum FROM {table}")
            if _matches(table, key, body, total)
        }
        for table in TABLES
    }
    if LAST_NUMBER in tables[COUNTER]:
        return None
    state = decode(tables)
    numbers = [record.number for record in state.applications.values()]
    numbers += [record.generation for record in state.models.values()]
    for table in ("feedback", "person", "spent"):
        found = fresh.execute(f"SELECT max(application) FROM {table}").fetchone()[0]
        numbers.append(found or 0)
    body = number_body(max(numbers) + LEAP)
    fresh.execute(f"DELETE FROM {COUNTER}")
    fresh.execute(
        f"INSERT INTO {COUNTER} VALUES (?, ?, ?)",
        (LAST_NUMBER, body, checksum(COUNTER, LAST_NUMBER, body)),
    )
    return "the numbers of applications and versions were lost, and begin anew far behind"


def _matches(table: str, key: str, body: Any, total: int) -> bool:
    return isinstance(body, bytes) and total == checksum(table, key, body)
