"""The tables of the SQLite file, as a list of steps: version n is what n steps make.

A new file takes all of them, an older one those it lacks, so that both end up the same to
the letter. A step is never changed once it was released; it only adds.
"""

from __future__ import annotations

import sqlite3


def _records(table: str) -> str:
    return (
        f"CREATE TABLE {table} (key TEXT PRIMARY KEY NOT NULL, body BLOB NOT NULL, "
        "sum INTEGER NOT NULL) WITHOUT ROWID"
    )


STEPS: tuple[tuple[str, ...], ...] = (
    # 1: what is deployed.
    tuple(map(_records, ("application", "model", "current", "counter"))),
    # 2: what was learned. A number of feedback or decision is never given twice, whatever
    # was deleted, which is what AUTOINCREMENT is for.
    (
        "CREATE TABLE feedback (seq INTEGER PRIMARY KEY AUTOINCREMENT, "
        "application INTEGER NOT NULL, key TEXT, uid TEXT, at REAL NOT NULL, "
        "body TEXT NOT NULL, sum INTEGER NOT NULL)",
        "CREATE UNIQUE INDEX feedback_key ON feedback (application, key) "
        "WHERE key IS NOT NULL",
        "CREATE INDEX feedback_application ON feedback (application)",
        "CREATE TABLE person (id INTEGER PRIMARY KEY, application INTEGER NOT NULL, "
        "who TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, "
        "sum INTEGER NOT NULL)",
        "CREATE UNIQUE INDEX person_who ON person (application, who)",
        "CREATE INDEX person_seq ON person (application, seq)",
        "CREATE INDEX person_own ON person (application) WHERE who = ''",
        "CREATE TABLE decision (id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "first INTEGER NOT NULL, last INTEGER NOT NULL, at REAL NOT NULL, "
        "bytes INTEGER NOT NULL, body BLOB NOT NULL, sum INTEGER NOT NULL)",
        "CREATE INDEX decision_last ON decision (last, first)",
        "CREATE INDEX decision_at ON decision (at, bytes)",
    ),
    # 3: how large the feedback log is, and which keys it does not take again though their
    # entries were dropped.
    (
        "CREATE TABLE feedback_size (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL)",
        "INSERT INTO feedback_size SELECT 1, "
        "coalesce(sum(length(CAST(body AS BLOB))), 0) FROM feedback",
        "CREATE TRIGGER feedback_added AFTER INSERT ON feedback BEGIN "
        "UPDATE feedback_size SET bytes = bytes + length(CAST(new.body AS BLOB)); END",
        "CREATE TRIGGER feedback_dropped AFTER DELETE ON feedback BEGIN "
        "UPDATE feedback_size SET bytes = bytes - length(CAST(old.body AS BLOB)); END",
        "CREATE TABLE spent (seq INTEGER PRIMARY KEY, application INTEGER NOT NULL, "
        "key TEXT NOT NULL, at REAL NOT NULL)",
        "CREATE UNIQUE INDEX spent_key ON spent (application, key)",
    ),
)
SCHEMA_VERSION = len(STEPS)

# AUTOINCREMENT keeps its numbers in a table that SQLite makes itself.
_OWN_TABLE = "sqlite_sequence"


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the file from `version` (0: empty) to the newest, all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def has_schema(connection: sqlite3.Connection, version: int) -> bool:
    """Whether the tables and indexes are those of `version` and there is nothing else."""
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE name <> ? ORDER BY rowid", (_OWN_TABLE,)
    ).fetchall()
    made = [(s,) for step in STEPS[:version] for s in step if s.startswith("CREATE")]
    return found == made


def has_own_pages(connection: sqlite3.Connection) -> bool:
    """Whether each table and each index begins at a page of its own: a look at one table
    alone does not notice that it is another's."""
    statement = (
        "SELECT count(rootpage) = count(DISTINCT rootpage) "
        "FROM sqlite_master WHERE rootpage > 0"
    )
    return bool(connection.execute(statement).fetchone()[0])
