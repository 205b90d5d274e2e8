"""Kept states and snapshots in SQLite. Each function is a Work once its other arguments
are bound."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from clipper.errors import StoreError

from .base import Person, Snapshot
from .checks import check_order
from .log_rows import damaged, one, person_sum, uid_of, who

# States of about so many bytes go into one statement.
BATCH_BYTES = 1_000_000

_READ = """
SELECT CAST(json_group_array(json_array(
  given.key, person.seq, hex(person.body), CAST(person.sum AS INTEGER)
)) AS BLOB)
FROM json_each(?) AS given CROSS JOIN person
ON person.application = json_extract(given.value, '$[0]')
AND person.who = json_extract(given.value, '$[1]')
"""

_WRITE = """
INSERT INTO person (application, who, seq, body, sum)
SELECT ?1, json_extract(value, '$[0]'), ?2,
  substr(?4, json_extract(value, '$[1]'), json_extract(value, '$[2]')),
  json_extract(value, '$[3]')
FROM json_each(?3) WHERE true
ON CONFLICT (application, who) DO UPDATE
SET seq = excluded.seq, body = excluded.body, sum = excluded.sum
"""

_DROP_OLDEST = """
DELETE FROM person WHERE id IN (
  SELECT id FROM person WHERE application = ? AND who <> '' ORDER BY seq, who LIMIT ?
)
"""

_UIDS = """
SELECT CAST(json_group_array(who) AS BLOB) FROM (
  SELECT who FROM person WHERE application = ? AND who > ? ORDER BY who LIMIT ?
)
"""

# From one number to the next by the index: there are few of them over many rows.
_APPLICATIONS = """
WITH RECURSIVE number (n) AS (
  SELECT min(application) FROM {table}
  UNION ALL
  SELECT (SELECT min(application) FROM {table} WHERE application > n)
  FROM number WHERE n IS NOT NULL
)
SELECT n FROM number WHERE n IS NOT NULL
"""

_encode = msgspec.json.Encoder().encode
_decode_states = msgspec.json.Decoder(list[tuple[int, int, str, int]]).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode


class Own(NamedTuple):
    """An application's own state, as of its last snapshot, which is after entry `seq`."""

    seq: int
    state: bytes | None


def read_states(
    persons: Sequence[Person], connection: sqlite3.Connection
) -> dict[Person, bytes]:
    """The states of those persons that have one."""
    keys = [(application, who(uid)) for application, uid in persons]
    states = {}
    try:
        for place, seq, text, total in _decode_states(
            one(connection, _READ, _encode(keys))[0]
        ):
            body = bytes.fromhex(text)
            if total != person_sum(*keys[place], seq, body):
                raise _no_match(keys[place][0])
            states[persons[place]] = body
    except msgspec.MsgspecError as error:
        raise damaged(f"a kept state makes no sense: {error}") from error
    return states


def read_own(application: int, connection: sqlite3.Connection) -> Own:
    found = one(
        connection,
        "SELECT seq, body, sum FROM person WHERE application = ? AND who = ''",
        application,
    )
    if found is None:
        return Own(0, None)
    seq, body, total = found
    if not isinstance(body, bytes) or total != person_sum(application, "", seq, body):
        raise _no_match(application)
    return Own(seq, body)


def own_seq(application: int, connection: sqlite3.Connection) -> int:
    """The number of the last snapshot, without a look at the state."""
    found = one(
        connection, "SELECT seq FROM person WHERE application = ? AND who = ''", application
    )
    return 0 if found is None else int(found[0])


def read_uids(
    application: int, after: str, limit: int, connection: sqlite3.Connection
) -> list[str]:
    """The users behind `after`, which is a `who`."""
    try:
        found = _decode_texts(one(connection, _UIDS, application, after, limit)[0])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise damaged(f"a user makes no sense: {error}") from error
    return [uid for text in found if (uid := uid_of(text)) is not None]


def read_applications(connection: sqlite3.Connection) -> list[int]:
    """The applications that have a state of their own."""
    found = connection.execute(
        "SELECT application FROM person INDEXED BY person_own WHERE who = ''"
    ).fetchall()
    return [application for (application,) in found]


def read_all_applications(connection: sqlite3.Connection) -> list[int]:
    """The applications that have entries or states."""
    found = set()
    for table in ("feedback", "person"):
        found.update(connection.execute(_APPLICATIONS.format(table=table)).fetchall())
    return sorted(application for (application,) in found)


def write_snapshot(
    snapshot: Snapshot, most_persons: int, last: int, connection: sqlite3.Connection
) -> None:
    """Keep a snapshot. `last` is the newest number of the log."""
    application, seq, states = snapshot
    check_order(snapshot, read_own(application, connection).seq, last)
    for rows, blob in _batches(application, seq, states):
        connection.execute(_WRITE, (application, seq, rows, blob))
    excess = count_persons(application, connection) - most_persons
    if excess > 0:
        connection.execute(_DROP_OLDEST, (application, excess))


def count_persons(application: int, connection: sqlite3.Connection) -> int:
    """How many users have a kept state."""
    count = one(
        connection, "SELECT count(*) FROM person WHERE application = ?", application
    )[0]
    own = one(
        connection,
        "SELECT count(*) FROM person WHERE application = ? AND who = ''",
        application,
    )[0]
    return int(count - own)


def forget_state(person: Person, connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM person WHERE application = ? AND who = ?",
        (person.application, who(person.uid)),
    )


def drop_states(application: int, limit: int, connection: sqlite3.Connection) -> bool:
    """Drop states of an application. Whether there may be more."""
    deleted = connection.execute(
        "DELETE FROM person WHERE id IN "
        "(SELECT id FROM person WHERE application = ? LIMIT ?)",
        (application, limit),
    ).rowcount
    return deleted == limit


def _batches(
    application: int, seq: int, states: Mapping[str | None, bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """The states as pairs of a JSON list of rows and the blob their bodies lie in."""
    rows: list[tuple[str, int, int, int]] = []
    blob = bytearray(1)  # never empty: of an empty blob SQLite cuts NULL
    for uid, body in states.items():
        key = who(uid)
        rows.append(
            (key, len(blob) + 1, len(body), person_sum(application, key, seq, body))
        )
        blob += body
        if len(blob) > BATCH_BYTES:
            yield _encode(rows), bytes(blob)
            rows.clear()
            del blob[1:]
    if rows:
        yield _encode(rows), bytes(blob)


def _no_match(application: int) -> StoreError:
    return damaged(f"a kept state of application {application} does not match its sum")
