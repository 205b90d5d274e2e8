"""The file of a SQLite database: made whole, opened, and what lies beside it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from .directory import UNFINISHED, sync
from .faults import unusable
from .migrations import migrate

APPLICATION_ID = 0x436C7072  # "Clpr", so that another program's file is not taken for ours


def create(path: Path) -> None:
    """Make an empty database at `path`, whole or not at all, so that a file found there
    later is never one that was interrupted while it was made."""
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(connect(unfinished)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(connection, 0)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, error) from error


def log_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def connect(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?mode=rw"
    return sqlite3.connect(address, uri=True, isolation_level=None, timeout=1.0)


def identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
