"""Entries and states as rows of SQLite, in groups.

Other threads run whenever SQLite is called, and to get the interpreter back from a busy
one costs up to its switch interval, 5 ms, for each call. So rows go in and come out many
at a time, as one JSON text that SQLite itself takes apart or puts together.

What JSON or SQLite would bend is kept in another form:
- a text with U+0000, at which SQLite's JSON ends a text: see `kept`
- a time, whose decimals SQLite may round: as a whole number of 2**-22 s
- a state, which is bytes: hexadecimal, or cut from one long blob
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from clipper.errors import InvalidInput, StoreError

from .base import Entry, Logged
from .checks import STEPS_PER_SECOND, from_steps, to_steps

# The columns of an entry in the order of an _EntryRow. Casts, so that a damaged value
# fails at its sum and not in the middle of a statement.
ENTRY_COLUMNS = (
    f"seq, application, CAST(key AS TEXT), CAST(uid AS TEXT), "
    f"CAST(at * {STEPS_PER_SECOND} AS INTEGER), CAST(body AS TEXT), CAST(sum AS INTEGER)"
)

_EntryRow = tuple[int, int, str | None, str | None, int, str, int]

_encode = msgspec.json.Encoder().encode
_decode_entries = msgspec.json.Decoder(list[_EntryRow]).decode


def kept(text: str) -> str:
    """`text` without U+0000, so that different texts stay different and in order."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def unkept(text: str) -> str:
    return text.replace("\1\1", "\0").replace("\1\2", "\1")


def who(uid: str | None) -> str:
    """The key of a person within an application; a uid may be empty, too."""
    return "" if uid is None else f"={kept(uid)}"


def uid_of(who: str) -> str | None:
    return unkept(who[1:]) if who else None


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The rows of `entries` as a JSON list without its brackets, so that lists are joined
    by commas. Raises InvalidInput for what could not be read back as it was."""
    try:
        return _encode([_entry_row(entry) for entry in entries])[1:-1]
    except (UnicodeError, ValueError) as error:
        raise InvalidInput(f"feedback cannot be stored: {error}") from None


def decode_entries(text: bytes) -> list[Logged]:
    """Entries from a JSON list of ENTRY_COLUMNS, each checked against its sum."""
    try:
        return [_logged(row) for row in _decode_entries(text)]
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise damaged(f"an entry of the feedback log makes no sense: {error}") from error


def person_sum(application: int, who: str, seq: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"person\0{application}\0{who}\0{seq}\0".encode()))


def one(connection: sqlite3.Connection, statement: str, *values: Any) -> Any:
    """The only row that a statement gives, or None."""
    return connection.execute(statement, values).fetchone()


def damaged(reason: str) -> StoreError:
    return StoreError(f"the database is damaged ({reason}); restore it from a backup")


def _entry_row(entry: Entry) -> tuple[int, str | None, str | None, int, str, int]:
    application, key, uid, at, body = entry
    if b"\0" in body:
        raise ValueError("JSON holds no zero byte")
    steps = to_steps(at)
    return (
        application,
        None if key is None else kept(key),
        None if uid is None else kept(uid),
        steps,
        body.decode(),
        entry_sum(application, key, steps, body),
    )


def entry_sum(application: int, key: str | None, steps: int, body: bytes) -> int:
    """Not of the uid, which `forget` takes out of every entry of a user."""
    name = "" if key is None else f"={key}"
    return zlib.crc32(
        body, zlib.crc32(f"feedback\0{application}\0{name}\0{steps}".encode())
    )


def _logged(row: _EntryRow) -> Logged:
    seq, application, kept_key, uid, steps, text, total = row
    key = None if kept_key is None else unkept(kept_key)
    body = text.encode()
    if total != entry_sum(application, key, steps, body):
        raise damaged(f"entry {seq} of the feedback log does not match its sum")
    at = from_steps(steps)
    return Logged(
        seq, Entry(application, key, None if uid is None else unkept(uid), at, body)
    )
