"""What SQLite's errors mean to the store, and in what words they are told."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from clipper.errors import StoreError

# The work itself was wrong; the database is as it was before it.
_REFUSED = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}

FOUND_DAMAGED = (
    "the database was found damaged, so changes are refused; restore it from a backup "
    "before the server is started again"
)


class DamagedFile(StoreError):
    """The file is not what was written. What can be read of it can be salvaged."""


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_full(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL


def is_damage(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _code(error) in _DAMAGED


def is_refusal(error: Exception) -> bool:
    return not isinstance(error, sqlite3.Error) or _code(error) in _REFUSED


def refused(error: Exception) -> Exception:
    if is_damage(error):
        return StoreError(FOUND_DAMAGED)
    if isinstance(error, sqlite3.Error):
        return StoreError(f"the database refused the change: {error}")
    return error


def damaged(path: Path, reason: str) -> DamagedFile:
    return DamagedFile(
        f"{path} is damaged ({reason}); restore it from a backup, or start with --recover "
        f"to go on with what can be read of it, or move the directory {path.parent} away "
        "to start with an empty one"
    )


def unusable(path: Path, error: Exception) -> StoreError:
    if isinstance(error, OSError):
        return StoreError(f"cannot open {path}: {error.strerror}")
    if _code(error) in _DAMAGED | {sqlite3.SQLITE_ERROR}:
        return damaged(path, str(error))
    if _code(error) == sqlite3.SQLITE_BUSY:
        return StoreError(f"another program has {path} open; close it and start again")
    return StoreError(f"cannot open {path}: {error}; check the disk and the permissions")
