"""The feedback log in SQLite: works that add to it, read it and cut it, piece by piece.

Each function but the class is a Work once its other arguments are bound.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from .base import Appended, Entry, Logged, Person
from .checks import check_uid
from .log_rows import ENTRY_COLUMNS, damaged, decode_entries, encode_entries, one
from .spent import read_spent
from .states import read_own, read_states

# So many rows, and bodies of about so many characters, are read in one work, so that
# reading holds neither the writer nor the interpreter for long.
PAGE = 1_000
PAGE_TEXT = 4_000_000

PIECE = 5_000  # rows counted or deleted in one work
MOVE_PIECE = 500  # numbers of entries that one work drops but for the keys
FORGET_PIECE = 10_000  # numbers of entries that one work looks for a user in

_INSERT = """
INSERT INTO feedback (seq, application, key, uid, at, body, sum)
SELECT ?2 + key, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
  json_extract(value, '$[2]'), json_extract(value, '$[3]') / 4194304.0,
  json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM json_each(?1) WHERE NOT EXISTS (
  SELECT 1 FROM spent WHERE spent.application = json_extract(value, '$[0]')
  AND spent.key = json_extract(value, '$[1]')
)
ON CONFLICT (application, key) WHERE key IS NOT NULL DO NOTHING
"""

# For each given entry that was not taken, the one that was there before it.
_EARLIER = f"""
SELECT
  CAST(json_group_array(place) AS BLOB),
  CAST(json_group_array(json_array({ENTRY_COLUMNS})) AS BLOB)
FROM (
  SELECT given.key AS place, feedback.*
  FROM json_each(?1) AS given CROSS JOIN feedback
  ON feedback.application = json_extract(given.value, '$[0]')
  AND feedback.key = json_extract(given.value, '$[1]')
  WHERE feedback.seq <> ?2 + given.key
)
"""

_PAGE = f"""
SELECT CAST(json_group_array(json_array({ENTRY_COLUMNS})) AS BLOB) FROM (
  SELECT *, sum(length(body)) OVER (ORDER BY seq) - length(body) AS text FROM (
    SELECT * FROM feedback WHERE application = ? AND seq > ? ORDER BY seq LIMIT ?
  )
) WHERE text < ?
"""

_BY_KEY = f"""
SELECT CAST(json_group_array(json_array({ENTRY_COLUMNS})) AS BLOB) FROM feedback
WHERE application = ? AND key = ?
"""

# The newest number of the log as far as anything still remembers it.
_LAST = """
SELECT max(
  coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'feedback'), 0),
  coalesce((SELECT max(seq) FROM feedback), 0),
  coalesce((SELECT max(seq) FROM spent), 0),
  coalesce((SELECT max(seq) FROM person), 0)
)
"""

# The oldest entry that is in the snapshot of its application. Entries of one that keeps
# no snapshots are not looked at, however many.
_OLDEST = """
SELECT min(oldest) FROM (
  SELECT seq, (
    SELECT min(seq) FROM feedback WHERE feedback.application = person.application
  ) AS oldest
  FROM person INDEXED BY person_own WHERE who = ''
) WHERE oldest <= seq
"""

_IN_SNAPSHOT = """
FROM feedback CROSS JOIN person
ON person.application = feedback.application AND person.who = ''
AND feedback.seq <= person.seq
WHERE feedback.seq >= ?1 AND feedback.seq <= ?2
"""

# How far to go to drop so many bytes.
_ENOUGH = f"""
SELECT max(seq) FROM (
  SELECT seq, sum(size) OVER (ORDER BY seq) - size AS dropped FROM (
    SELECT feedback.seq AS seq, length(CAST(feedback.body AS BLOB)) AS size
    {_IN_SNAPSHOT}
  )
) WHERE dropped < ?3
"""

_SPEND = f"""
INSERT INTO spent SELECT feedback.seq, feedback.application, feedback.key, feedback.at
{_IN_SNAPSHOT} AND feedback.key IS NOT NULL AND feedback.at >= ?3
"""

_DROP = f"DELETE FROM feedback WHERE seq IN (SELECT feedback.seq {_IN_SNAPSHOT})"

_decode_places = msgspec.json.Decoder(list[int]).decode


class Numbers:
    """The numbers of entries. They are given out here and not by SQLite, so that one
    call tells them all; those of an append that came to nothing are left out."""

    def __init__(self, last: int) -> None:
        self.last = last  # all state, touched by the writer's thread alone

    def take(self, count: int) -> int:
        first = self.last + 1
        self.last += count
        return first


class Append:
    """A Work that adds entries. Those that wait together are done as one statement."""

    def __init__(
        self, numbers: Numbers, entries: Sequence[Entry], persons: Sequence[Person]
    ) -> None:
        self._numbers = numbers
        self._count = len(entries)
        self._persons = tuple(persons)
        for person in persons:
            check_uid(person.uid)
        self._rows = encode_entries(entries)
        self.size = len(self._rows)  # bytes, about

    def __call__(self, connection: sqlite3.Connection) -> Appended:
        return self.merge(connection, [self])[0]

    @staticmethod
    def merge(connection: sqlite3.Connection, appends: Sequence[Append]) -> list[Appended]:
        """What became of each."""
        entries = _insert(connection, appends)
        persons = {person for append in appends for person in append._persons}
        states = read_states(sorted(persons, key=str), connection) if persons else {}
        appended, start = [], 0
        for append in appends:
            end = start + append._count
            theirs = {person: states.get(person) for person in append._persons}
            appended.append(Appended(entries[start:end], theirs))
            start = end
        return appended


def _insert(
    connection: sqlite3.Connection, appends: Sequence[Append]
) -> list[int | Logged]:
    count = sum(append._count for append in appends)
    if not count:
        return []
    text = b"[%b]" % b",".join(append._rows for append in appends if append._count)
    first = appends[0]._numbers.take(count)
    taken = connection.execute(_INSERT, (text, first)).rowcount
    numbers: list[int | Logged] = list(range(first, first + count))
    if taken < count:
        places, rows = one(connection, _EARLIER, text, first)
        for place, logged in zip(_decode_places(places), decode_entries(rows), strict=True):
            numbers[place] = logged
            taken += 1
    if taken < count:
        for place, logged in read_spent(text, connection):
            numbers[place] = logged
            taken += 1
    if taken != count:
        raise damaged("an index of the feedback log lacks an entry")
    return numbers


def last_number(connection: sqlite3.Connection) -> int:
    return int(one(connection, _LAST)[0])


def read_page(
    application: int, after: int, limit: int, connection: sqlite3.Connection
) -> list[Logged]:
    """Some entries from behind `after`: none if there are none, at most `limit`."""
    values = (application, after, min(limit, PAGE), PAGE_TEXT)
    return decode_entries(one(connection, _PAGE, *values)[0])


def read_by_key(
    application: int, key: str, connection: sqlite3.Connection
) -> Logged | None:
    found = decode_entries(one(connection, _BY_KEY, application, key)[0])
    return found[0] if found else None


class Range(NamedTuple):
    """The oldest and the newest number an application has in the log; 0, -1: none."""

    oldest: int
    newest: int


def read_range(application: int, connection: sqlite3.Connection) -> Range:
    newest = one(
        connection, "SELECT max(seq) FROM feedback WHERE application = ?", application
    )[0]
    if newest is None:
        return Range(0, -1)
    oldest = one(
        connection, "SELECT min(seq) FROM feedback WHERE application = ?", application
    )[0]
    return Range(oldest, newest)


def forget_uid(
    application: int, uid: str, start: int, stop: int, connection: sqlite3.Connection
) -> None:
    """Take a kept uid out of the entries from `start` to before `stop`. There is no index
    over the uids: it would be written with every entry and be read for this alone."""
    connection.execute(
        "UPDATE feedback SET uid = NULL "
        "WHERE application = ? AND seq >= ? AND seq < ? AND uid = ?",
        (application, start, stop, uid),
    )


def prune_piece(application: int, before: float, connection: sqlite3.Connection) -> bool:
    """Drop the oldest entries that are in the snapshot, up to the first that is not older
    than `before`. Whether there may be more to drop."""
    count, last, stop = one(
        connection,
        "SELECT count(*), max(seq), min(CASE WHEN at >= ?2 THEN seq END) FROM ("
        "SELECT seq, at FROM feedback WHERE application = ?1 AND seq <= "
        "?3 ORDER BY seq LIMIT ?4)",
        application,
        before,
        read_own(application, connection).seq,
        PIECE,
    )
    if not count:
        return False
    connection.execute(
        "DELETE FROM feedback WHERE application = ? AND seq <= ?",
        (application, last if stop is None else stop - 1),
    )
    return stop is None and count == PIECE


def prune_beyond(
    most_bytes: int, keys_before: float, connection: sqlite3.Connection
) -> bool:
    """Drop the oldest entries that are in snapshots, of all applications, while there are
    more than `most_bytes`. Whether there may be more to drop."""
    excess = (
        one(connection, "SELECT coalesce(sum(bytes), 0) FROM feedback_size")[0] - most_bytes
    )
    if excess <= 0:
        return False
    first = one(connection, _OLDEST)[0]
    if first is None:
        return False
    last = one(connection, _ENOUGH, first, first + MOVE_PIECE - 1, excess)[0]
    connection.execute(_SPEND, (first, last, keys_before))
    connection.execute(_DROP, (first, last))
    return True


def drop_piece(application: int, connection: sqlite3.Connection) -> bool:
    """Drop entries of an application. Whether there may be more."""
    deleted = connection.execute(
        "DELETE FROM feedback WHERE seq IN "
        "(SELECT seq FROM feedback WHERE application = ? ORDER BY seq LIMIT ?)",
        (application, PIECE),
    ).rowcount
    return deleted == PIECE


def count_piece(
    application: int, after: int, connection: sqlite3.Connection
) -> tuple[int, int, int]:
    """How many of the next entries there are, how many bytes, the number of the last."""
    entries, size, last = one(
        connection,
        "SELECT count(*), coalesce(sum(length(CAST(body AS BLOB))), 0), max(seq) FROM ("
        "SELECT seq, body FROM feedback WHERE application = ? AND seq > ? "
        "ORDER BY seq LIMIT ?)",
        application,
        after,
        PIECE,
    )
    return entries, size, after if last is None else last
