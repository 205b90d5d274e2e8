"""Chunks of decisions in SQLite. Each function is a Work once its other arguments are
bound."""

from __future__ import annotations

import sqlite3
import zlib
from typing import Any

from .base import Chunk
from .log_rows import damaged, one

PIECE = 64  # chunks deleted in one work; a chunk may be large
READ = 8  # chunks read in one work

_COLUMNS = "id, first, last, at, body, sum"

# Nonces are unsigned, SQLite's numbers are signed: moved down, they keep their order.
_MIDDLE = 2**63

_OF_NONCE = f"""
SELECT {_COLUMNS} FROM decision WHERE id = (
  SELECT max(id) FROM decision INDEXED BY decision_last WHERE last >= ?1 AND first <= ?1
)
"""

_BEYOND = """
SELECT coalesce(max(id), 0) FROM (
  SELECT id, sum(bytes) OVER (ORDER BY id DESC) AS total FROM decision
) WHERE total > ?
"""


def write_chunk(chunk: Chunk, connection: sqlite3.Connection) -> None:
    first, last, at, body = chunk
    connection.execute(
        "INSERT INTO decision (first, last, at, bytes, body, sum) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (first - _MIDDLE, last - _MIDDLE, float(at), len(body), body, _sum(chunk)),
    )


def read_chunk_of(nonce: int, connection: sqlite3.Connection) -> Chunk | None:
    """The newest chunk that may hold a nonce."""
    row = one(connection, _OF_NONCE, nonce - _MIDDLE)
    return None if row is None else check_row(row)[1]


def read_chunks(
    after: int, limit: int, connection: sqlite3.Connection
) -> list[tuple[int, Chunk]]:
    """Some chunks from behind number `after`: none if there are none."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM decision WHERE id > ? ORDER BY id LIMIT ?",
        (after, min(limit, READ)),
    ).fetchall()
    return [check_row(row) for row in rows]


def prune_old(before: float, connection: sqlite3.Connection) -> bool:
    """Drop chunks older than `before`. Whether there may be more."""
    deleted = connection.execute(
        "DELETE FROM decision WHERE id IN "
        "(SELECT id FROM decision WHERE at < ? ORDER BY at LIMIT ?)",
        (before, PIECE),
    ).rowcount
    return deleted == PIECE


def prune_beyond(most_bytes: int, connection: sqlite3.Connection) -> bool:
    """Drop the oldest chunks beyond `most_bytes`. Whether there may be more."""
    last = one(connection, _BEYOND, most_bytes)[0]
    deleted = connection.execute(
        "DELETE FROM decision WHERE id IN "
        "(SELECT id FROM decision WHERE id <= ? ORDER BY id LIMIT ?)",
        (last, PIECE),
    ).rowcount
    return deleted == PIECE


def count_chunks(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many chunks there are, and their bytes."""
    count, size = one(connection, "SELECT count(*), coalesce(sum(bytes), 0) FROM decision")
    return count, size


def check_row(row: Any) -> tuple[int, Chunk]:
    """A row of _COLUMNS as the chunk that it is. Raises StoreError for a damaged one."""
    number, first, last, at, body, total = row
    if isinstance(body, bytes) and isinstance(first, int) and isinstance(last, int):
        chunk = Chunk(first + _MIDDLE, last + _MIDDLE, at, body)
        if total == _sum(chunk):
            return number, chunk
    raise damaged(f"chunk {number} of the decisions does not match its sum")


def _sum(chunk: Chunk) -> int:
    head = f"decision\0{chunk.first}\0{chunk.last}\0{float(chunk.at)!r}\0"
    return zlib.crc32(chunk.body, zlib.crc32(head.encode()))
