"""The SQLite file: opening it with every check, groups of work, and what may fail.

Rules, each because something can be lost without it:
- Exactly one connection, which holds the file alone (locking_mode EXCLUSIVE): before
  3.51.3 two connections can spoil a write-ahead log.
- Checkpoints are ours: SQLite's automatic ones swallow their errors.
- A full disk takes nothing back: the group is rolled back and the next one tries again.
- After any other failed write nothing more is written until the file is opened again.
  The kernel forgets pages it could not write, so a second try may "succeed" without them.
- Every row carries a checksum; SQLite itself does not notice a changed byte in a value.
- The logs are looked over by `Verify` once the server is up: that takes half a second for
  a million entries, and as long again for each further million.

A Database belongs to the thread that made it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from clipper.errors import DiskFull, StoreError
from clipper.records import State

from .faults import (
    FOUND_DAMAGED,
    damaged,
    is_damage,
    is_full,
    is_refusal,
    refused,
    unusable,
)
from .file import APPLICATION_ID, connect, free_bytes, identity, log_path
from .migrations import SCHEMA_VERSION, has_own_pages, has_schema, migrate
from .rows import APPLICATION, COUNTER, CURRENT, MODEL, TABLES, decode
from .tables import checksum

logger = logging.getLogger(__name__)

Durability: TypeAlias = Literal["full", "process"]
Work: TypeAlias = Callable[[sqlite3.Connection], Any]

# At this size the log is folded into the file; a start reads at most this much of it.
LOG_BYTES = 4 * 1024 * 1024

# Up to this size, what takes half a second to look at, indexes are compared with their
# tables; in larger files each is looked at by itself, which takes a quarter of the time.
COMPARED_BYTES = 64 * 1024 * 1024

_NO_MATCH = "does not match its sum"

_FAILED = (
    "an earlier write to the disk failed, so changes are refused until the server is "
    "started again"
)


class Read:
    """A work that only reads. It is done after a failed write, too."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, connection: sqlite3.Connection) -> Any:
        return self.work(connection)


class Verify(Read):
    """Looks at every page of the file. Damage ends all writing."""

    def __init__(self) -> None:
        super().__init__(self._look)
        self.damage: str | None = None  # all state: what was found

    def _look(self, connection: sqlite3.Connection) -> None:
        try:
            found = _first_fault(connection, "1", _is_small(connection))
        except sqlite3.Error as error:
            if is_damage(error):
                self.damage = str(error)
            raise
        if found != "ok":
            self.damage = found
            fault = sqlite3.DatabaseError(found)
            fault.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise fault


class Outcome(NamedTuple):
    """What came of one work: its result, or the error it gets."""

    result: Any = None
    error: Exception | None = None


class Database:
    """An open database file. Raises StoreError, with what to do, if it cannot be used."""

    def __init__(self, path: Path, durability: Durability = "full") -> None:
        self.path = path
        self._log = log_path(path)
        # All state: the connection, which file it is, what is told of changes that are not
        # written any more (None while all is well), and whether the last write met a full
        # disk.
        self._broken: str | None = None
        self._full = False
        try:
            self._file = identity(path)
            self._connection = connect(path)
        except (OSError, sqlite3.Error) as error:
            raise unusable(path, error) from error
        try:
            self._configure(durability)
            self._check()
        except (sqlite3.Error, UnicodeError) as error:
            self._connection.close()
            raise unusable(path, error) from error
        except BaseException:
            self._connection.close()
            raise

    def read(self) -> State:
        """All records, each row checked against its sum. Damage of one is its own, but for
        the counter's."""
        spoiled: dict[str, set[str]] = {table: set() for table in TABLES}
        try:
            state = decode(
                {table: self._read_table(table, spoiled[table]) for table in TABLES}
            )
        except msgspec.DecodeError as error:
            raise damaged(self.path, f"a record makes no sense: {error}") from error
        except (sqlite3.Error, UnicodeError) as error:
            raise unusable(self.path, error) from error
        if spoiled[COUNTER]:
            raise damaged(self.path, f"a row of table {COUNTER} {_NO_MATCH}")
        for kept, table in (
            (state.damaged.applications, APPLICATION),
            (state.damaged.models, MODEL),
            (state.damaged.current, CURRENT),
        ):
            kept.update((key, f"its record {_NO_MATCH}") for key in sorted(spoiled[table]))
        return state

    def check_all(self) -> None:
        """Look at every page. Raises StoreError for damage."""
        self.look(Verify())

    def look(self, work: Work) -> Any:
        """What a work that only reads gives."""
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error

    def run(self, group: Sequence[Work]) -> list[Outcome]:
        """Do each work in the group and make all of it durable with one flush. A work
        that raises is undone alone. Never raises. A work may be called again after all of
        the group was rolled back. Neighbours that have the same function `merge` are done
        by one call of it: merge(connection, works) gives the list of their results."""
        if self._broken is not None:
            return [self._look(work) for work in group]
        try:
            outcomes = self._transaction(group)
        except Exception as error:
            return self._failed(group, error)
        if self._full:
            self._full = False
            logger.info("there is room on the disk again, changes are taken")
        return outcomes

    def checkpoint(self, at: int = LOG_BYTES) -> bool:
        """Fold the log into the file if it has grown to `at` bytes, or is as large as half
        of what is free: the file grows by as much before the log is given up. Whether the
        log is empty now. Never raises; a full disk leaves it for the next time."""
        if self._broken is not None:
            return False
        try:
            if self._log.stat().st_size < min(at, free_bytes(self.path) // 2):
                return False
            busy, _, _ = self._connection.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            ).fetchone()
        except (OSError, sqlite3.Error) as error:
            if not is_full(error):
                self._break(error)
            return False
        return not busy

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    # -- opening -------------------------------------------------------------------------

    def _configure(self, durability: Durability) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA mmap_size = 0")
        run("PRAGMA trusted_schema = OFF")
        self._check_version()
        if run("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{self.path} lies on a file system SQLite cannot log on")
        run(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        run(f"PRAGMA fullfsync = {int(durability == 'full')}")
        run("PRAGMA wal_autocheckpoint = 0")

    def _check_version(self) -> None:
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        version = self._version()
        if application != APPLICATION_ID or version < 1:
            raise damaged(self.path, "it is not a database of Clipper")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer version of Clipper (its schema is "
                f"{version}, this one reads {SCHEMA_VERSION}); upgrade, or choose another "
                "directory with --data-dir"
            )

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _check(self) -> None:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")  # the file is ours alone and can be written
        run("COMMIT")
        version = self._version()
        if not has_schema(self._connection, version):
            raise damaged(self.path, "its tables are not those of this version")
        if not has_own_pages(self._connection):
            raise damaged(self.path, "two of its tables are in one place")
        if version == SCHEMA_VERSION:
            for table in TABLES:
                self._check_pages(table)
            return
        self._check_pages("1")  # all of them: they are written anew
        migrate(self._connection, version)
        logger.info("%s now has schema %d", self.path, SCHEMA_VERSION)

    def _check_pages(self, what: str) -> None:
        found = _first_fault(self._connection, what)
        if found != "ok":
            raise damaged(self.path, found)

    def _read_table(self, table: str, spoiled: set[str]) -> dict[str, bytes]:
        """The rows that match their sums; the keys of the others go to `spoiled`."""
        rows = {}
        for key, body, total in self._connection.execute(
            f"SELECT key, body, sum FROM {table}"
        ):
            if not isinstance(key, str):
                raise damaged(self.path, f"a row of table {table} {_NO_MATCH}")
            if isinstance(body, bytes) and total == checksum(table, key, body):
                rows[key] = body
            elif _is_of_another(table, key, body, total):
                raise damaged(self.path, f"table {table} has rows of another")
            else:
                spoiled.add(key)
        return rows

    # -- writing -------------------------------------------------------------------------

    def _transaction(self, group: Sequence[Work]) -> list[Outcome]:
        self._connection.execute("BEGIN IMMEDIATE")
        outcomes: list[Outcome] = []
        for merge, works in groupby(group, _merge_of):
            if merge is None:
                outcomes += map(self._attempt, works)
            else:
                outcomes += self._attempt_together(merge, list(works))
        self._connection.execute("COMMIT")
        # A file that was removed or replaced takes writes as before, for nobody.
        if identity(self.path) != self._file:
            raise StoreError("the database file was replaced")
        return outcomes

    def _attempt_together(self, merge: Any, works: list[Work]) -> list[Outcome]:
        result, error = self._attempt(lambda connection: merge(connection, works))
        if error is None:
            return [Outcome(one) for one in result]
        if len(works) == 1:
            return [Outcome(error=error)]
        return [self._attempt(work) for work in works]  # one of them was wrong

    def _attempt(self, work: Work) -> Outcome:
        run = self._connection.execute
        run("SAVEPOINT work")
        try:
            outcome = Outcome(work(self._connection))
        except Exception as error:
            if not is_refusal(error) or not self._connection.in_transaction:
                raise
            run("ROLLBACK TO work")
            outcome = Outcome(error=refused(error))
        run("RELEASE work")
        return outcome

    def _look(self, work: Work) -> Outcome:
        """What can still be done after a failed write."""
        if not isinstance(work, Read):
            return Outcome(error=self._refusal())
        try:
            return Outcome(work(self._connection))
        except Exception as error:
            return Outcome(error=refused(error))

    def _failed(self, group: Sequence[Work], error: Exception) -> list[Outcome]:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            error = second
        if not is_full(error):
            self._break(error)
            return [Outcome(error=self._refusal()) for _ in group]
        if len(group) > 1:  # what is small may still fit where its neighbour does not
            return [self.run([work])[0] for work in group]
        if not self._full:
            self._full = True
            logger.error("the disk is full, changes are refused until there is room")
        return [Outcome(error=DiskFull("the disk is full; nothing was changed"))]

    def _break(self, error: Exception) -> None:
        self._broken = FOUND_DAMAGED if is_damage(error) else _FAILED
        logger.error("%s takes no more changes: %s", self.path, error, exc_info=error)

    def _refusal(self) -> StoreError:
        return StoreError(self._broken or _FAILED)

    def __repr__(self) -> str:
        state = "broken" if self._broken else "full" if self._full else "ok"
        return f"<Database {self.path} {state}>"


def _first_fault(connection: sqlite3.Connection, what: str, compare: bool = False) -> str:
    """Of one table, or, with "1", of all; "ok" if there is none."""
    check = "integrity_check" if compare else "quick_check"
    found = connection.execute(f"PRAGMA {check}({what})").fetchone()[0]
    return str(found).replace("\n", " ")


def _is_small(connection: sqlite3.Connection) -> bool:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    return bool(pages * size <= COMPARED_BYTES)


def _is_of_another(table: str, key: str, body: Any, total: int) -> bool:
    """Whether a row matches its sum in another table: then the table itself is damaged."""
    others = (other for other in TABLES if other != table)
    return isinstance(body, bytes) and any(
        total == checksum(other, key, body) for other in others
    )


def _merge_of(work: Work) -> Any:
    return getattr(work, "merge", None)
