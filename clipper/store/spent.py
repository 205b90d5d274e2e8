"""Keys of entries that were dropped from the feedback log before the time in which the same
feedback may come again was over.

Without a checksum, which no statement could make: a damaged key is not found, whatever else
its row says. Each function is a Work once its other arguments are bound.
"""

from __future__ import annotations

import sqlite3

import msgspec

from .base import Entry, Logged
from .checks import STEPS_PER_SECOND, from_steps
from .log_rows import damaged, one, unkept

PIECE = 5_000  # rows deleted in one work

_AMONG = f"""
SELECT CAST(json_group_array(json_array(
  given.key, seq, application, CAST(spent.key AS TEXT),
  CAST(at * {STEPS_PER_SECOND} AS INTEGER)
)) AS BLOB)
FROM json_each(?1) AS given CROSS JOIN spent
ON spent.application = json_extract(given.value, '$[0]')
AND spent.key = json_extract(given.value, '$[1]')
"""

_decode = msgspec.json.Decoder(list[tuple[int, int, int, str, int]]).decode


def read_spent(rows: bytes, connection: sqlite3.Connection) -> list[tuple[int, Logged]]:
    """What is left of entries with the keys of `rows`, a JSON list of entries: each with
    its place there."""
    try:
        found = _decode(one(connection, _AMONG, rows)[0])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise damaged(f"a key of the feedback log makes no sense: {error}") from error
    return [
        (place, Logged(seq, Entry(application, unkept(key), None, from_steps(at), b"")))
        for place, seq, application, key, at in found
    ]


def prune_keys(before: float, connection: sqlite3.Connection) -> bool:
    """Drop keys of entries older than `before`. Whether there may be more."""
    deleted = connection.execute(
        "DELETE FROM spent WHERE seq IN (SELECT seq FROM spent ORDER BY seq LIMIT ?) "
        "AND at < ?",
        (PIECE, before),
    ).rowcount
    return deleted == PIECE


def drop_keys(application: int, connection: sqlite3.Connection) -> bool:
    """Drop keys of an application. Whether there may be more."""
    deleted = connection.execute(
        "DELETE FROM spent WHERE seq IN "
        "(SELECT seq FROM spent WHERE application = ? LIMIT ?)",
        (application, PIECE),
    ).rowcount
    return deleted == PIECE
