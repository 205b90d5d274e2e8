from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from clipper.errors import StoreError
from clipper.records import State
from clipper.store import migrations
from clipper.store.base import PutApplication, PutModel, SetCurrent
from clipper.store.database import Database
from clipper.store.file import create
from clipper.store.log_rows import encode_entries
from clipper.store.migrations import SCHEMA_VERSION
from clipper.store.rows import encode
from clipper.store.sqlite import SQLiteStore
from clipper.store.tables import apply

from .contract import FULL_APPLICATION, FULL_MODEL
from .log_contract import entry, logged, seqs

STATE = State(
    applications={"digits": FULL_APPLICATION},
    models={"forest:2": FULL_MODEL},
    current={"forest": "2"},
    previous={"forest": ["1"]},
    last_number=9,
)

# What version 1 wrote, to the letter.
VERSION_1 = [
    "PRAGMA journal_mode = WAL",
    "BEGIN IMMEDIATE",
    *(
        f"CREATE TABLE {table} (key TEXT PRIMARY KEY NOT NULL, body BLOB NOT NULL, "
        "sum INTEGER NOT NULL) WITHOUT ROWID"
        for table in ("application", "model", "current", "counter")
    ),
    "PRAGMA application_id = 1131180146",
    "PRAGMA user_version = 1",
    "COMMIT",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of version 1 with records in it."""
    path = tmp_path / "clipper.db"
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in VERSION_1:
        connection.execute(statement)
    changes = [
        PutApplication(FULL_APPLICATION),
        PutModel(FULL_MODEL),
        SetCurrent("forest", "2", ["1"]),
    ]
    apply(encode(changes), connection)
    connection.close()
    return path


def ask(path: Path, question: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


def schema(path: Path) -> list[tuple[object, ...]]:
    return ask(path, "SELECT type, name, sql FROM sqlite_master ORDER BY rowid")


def test_an_older_file_becomes_what_a_new_one_is(path: Path) -> None:
    database = Database(path)
    assert database.read() == STATE
    database.close()
    new = path.with_name("new.db")
    create(new)
    assert schema(path) == schema(new)
    assert ask(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    database = Database(path)
    assert database.read() == STATE
    database.close()


async def test_an_older_directory_is_used_at_once(path: Path) -> None:
    store = SQLiteStore(path.parent)
    assert await store.open() == STATE
    numbers = await seqs(store, entry("k"))
    await store.close()
    assert await store.open() == STATE
    assert [seq for seq, _ in await logged(store)] == numbers
    await store.close()


async def test_the_size_of_an_older_log_is_known(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", migrations.STEPS[:2])
        patch.setattr(migrations, "SCHEMA_VERSION", 2)
        migrations.migrate(connection, 1)
    rows = encode_entries([entry("a", body="ü".encode()), entry("b", body=b"123")])
    connection.execute(
        "INSERT INTO feedback (application, key, at, body, sum) SELECT "
        "value ->> 0, value ->> 1, (value ->> 3) / 4194304.0, value ->> 4, value ->> 5 "
        "FROM json_each(?)",
        (b"[%b]" % rows,),
    )
    connection.close()
    store = SQLiteStore(path.parent)
    await store.open()
    assert [logged.entry.key for logged in await logged(store)] == ["a", "b"]
    await store.close()
    assert ask(path, "SELECT bytes FROM feedback_size") == [(5,)]


@pytest.mark.parametrize("wrong", ["nonsense", "CREATE TABLE model (x)"])
def test_a_step_is_done_all_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    before = schema(path)
    with monkeypatch.context() as patch:
        first, second, *others = migrations.STEPS
        patch.setattr(migrations, "STEPS", (first, (*second, wrong), *others))
        with pytest.raises(StoreError):
            Database(path)
    assert schema(path) == before
    assert ask(path, "PRAGMA user_version") == [(1,)]
    database = Database(path)
    assert database.read() == STATE
    database.close()


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE counter", "CREATE TABLE feedback (x)", "CREATE TABLE other (x)"],
)
def test_an_older_file_of_another_program_is_left_as_it_is(
    path: Path, statement: str
) -> None:
    ask(path, statement)
    before = schema(path)
    with pytest.raises(StoreError, match="its tables are not those"):
        Database(path)
    assert schema(path) == before


def test_a_file_that_says_a_wrong_version_is_refused(path: Path) -> None:
    ask(path, "PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="its tables are not those"):
        Database(path)
