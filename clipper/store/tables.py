"""The rows of records in SQLite, each with a checksum."""

from __future__ import annotations

import sqlite3
import zlib

from .rows import COUNTER, LAST_NUMBER, Row, Write, number_body


def checksum(table: str, key: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{table}\0{key}\0".encode()))


def apply(write: Write, connection: sqlite3.Connection) -> None:
    """Do one commit's rows; a Work once `write` is bound."""
    for row in write.rows:
        if row.body is None:
            connection.execute(f"DELETE FROM {row.table} WHERE key = ?", (row.key,))
        else:
            connection.execute(
                f"INSERT OR REPLACE INTO {row.table} VALUES (?, ?, ?)", _values(row)
            )
    if write.number:
        connection.execute(
            f"INSERT INTO {COUNTER} VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET body = excluded.body, sum = excluded.sum "
            "WHERE CAST(body AS INTEGER) < CAST(excluded.body AS INTEGER)",
            _values(Row(COUNTER, LAST_NUMBER, number_body(write.number))),
        )


def _values(row: Row) -> tuple[str, bytes, int]:
    assert row.body is not None
    return row.key, row.body, checksum(row.table, row.key, row.body)
