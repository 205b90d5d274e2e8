"""The log in SQLite: how few statements it takes, what is found damaged, a full disk."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from clipper.errors import DiskFull, StoreError
from clipper.store.base import Appended, Chunk, Logged, Person, Snapshot
from clipper.store.database import Database, Outcome, Read
from clipper.store.feedback import Append, Numbers, last_number, read_page, read_range
from clipper.store.file import create
from clipper.store.sqlite import SQLiteStore

from .log_contract import BOUNDLESS, NOW, append, bodies, entry, logged, seqs
from .test_database import Broken, break_on, edit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clipper.db"
    create(path)
    return path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path)
    yield store
    await store.close()


class Bench:
    """A database with appends made for it, and what it was asked."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, "process")
        self.numbers = Numbers(self.database.look(last_number))

    def append(self, *entries: Any, persons: tuple[Person, ...] = ()) -> Append:
        return Append(self.numbers, entries, persons)

    def keys(self) -> list[str | None]:
        page = self.database.look(lambda connection: read_page(1, 0, 1_000, connection))
        return [entry.key for _, entry in page]


@pytest.fixture
def bench(path: Path) -> Any:
    bench = Bench(path)
    yield bench
    bench.database.close()


class TestGroups:
    @pytest.mark.parametrize(("persons", "calls"), [((), 5), ((Person(1, "u"),), 6)])
    def test_appends_that_wait_together_are_one_statement(
        self, bench: Bench, persons: tuple[Person, ...], calls: int
    ) -> None:
        break_on(bench.database, {})
        broken: Any = bench.database._connection
        assert isinstance(broken, Broken)
        group = [
            bench.append(*[entry(f"{n} {m}") for m in range(n)], persons=persons)
            for n in range(40)
        ]
        outcomes = bench.database.run(group)
        assert len(broken.statements) == calls
        assert [len(outcome.result.entries) for outcome in outcomes] == list(range(40))
        assert len(bench.keys()) == 40 * 39 // 2

    def test_appends_keep_their_place_among_other_works(self, bench: Bench) -> None:
        def count(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM feedback").fetchone()[0])

        group = [
            bench.append(entry("a")),
            bench.append(entry("b")),
            Read(count),
            bench.append(entry("c"), entry("a")),
            count,
        ]
        results = [outcome.result for outcome in bench.database.run(group)]
        assert results == [
            Appended([1], {}),
            Appended([2], {}),
            2,
            Appended([3, Logged(1, entry("a"))], {}),
            3,
        ]

    def test_an_append_that_is_wrong_fails_alone(self, bench: Bench, path: Path) -> None:
        bench.database.run([bench.append(entry("a"))])
        bench.database.close()
        edit(path, "UPDATE feedback SET body = '[]'")
        bench.database = Database(path, "process")
        group = [bench.append(entry(key)) for key in ("b", "a", "c")]
        outcomes = bench.database.run(group)
        assert [type(outcome.error) for outcome in outcomes] == [
            type(None),
            StoreError,
            type(None),
        ]
        edit_sum = "UPDATE feedback SET body = '{}'"
        bench.database.run([lambda connection: connection.execute(edit_sum) and None])
        assert bench.keys() == ["a", "b", "c"]


class TestFullDisk:
    @staticmethod
    def limit(database: Database, pages: int) -> None:
        database._connection.execute(f"PRAGMA max_page_count = {pages}")

    def test_takes_what_fits_and_heals(self, bench: Bench) -> None:
        database = bench.database
        self.limit(database, 25)
        large = [entry(f"l{n}", body=b'"' + b"x" * 20_000 + b'"') for n in range(10)]
        group = [
            bench.append(entry("a"), entry("b")),
            bench.append(*large),
            bench.append(entry("c")),
        ]
        errors = [type(outcome.error) for outcome in database.run(group)]
        assert errors == [type(None), DiskFull, type(None)]
        assert bench.keys() == ["a", "b", "c"]
        assert database.run([Read(last_number)])[0].error is None
        self.limit(database, 1_000)
        [outcome] = database.run([bench.append(*large)])
        assert all(isinstance(number, int) for number in outcome.result.entries)
        assert len(bench.keys()) == 13

    def test_at_the_commit_nothing_is_kept(self, bench: Bench) -> None:
        repair = break_on(bench.database, {"COMMIT": sqlite3.SQLITE_FULL})
        outcomes = bench.database.run([bench.append(entry(key)) for key in "ab"])
        assert [type(outcome.error) for outcome in outcomes] == [DiskFull, DiskFull]
        repair()
        [outcome] = bench.database.run([bench.append(entry("a"))])
        assert isinstance(outcome.result.entries[0], int)
        assert bench.keys() == ["a"]


class TestBrokenDisk:
    @pytest.mark.parametrize("statement", ["\nINSERT", "COMMIT"])
    def test_takes_no_more_but_can_be_read(self, bench: Bench, statement: str) -> None:
        bench.database.run([bench.append(entry("a"))])
        repair = break_on(bench.database, {statement: sqlite3.SQLITE_IOERR})
        outcomes = bench.database.run([bench.append(entry(key)) for key in "bc"])
        repair()
        outcomes += bench.database.run([bench.append(entry("d"))])
        assert [type(outcome.error) for outcome in outcomes] == [StoreError] * 3
        assert bench.database.run([Read(last_number)]) == [Outcome(1)]
        assert bench.keys() == ["a"]

    def test_a_read_that_fails_then_says_so(self, bench: Bench) -> None:
        repair = break_on(bench.database, {"COMMIT": sqlite3.SQLITE_IOERR})
        bench.database.run([bench.append(entry("a"))])
        repair()
        [outcome] = bench.database.run([Read(lambda connection: 1 / 0)])
        assert isinstance(outcome.error, ZeroDivisionError)

    async def test_an_append_learns_of_it(
        self, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.open()
        await append(store, entry("a"))
        for name in ("clipper.db", "clipper.db-wal"):
            (store._directory.path / name).unlink()
        for _ in range(2):
            with pytest.raises(StoreError, match="earlier write to the disk failed"):
                await append(store, entry("b"))
        assert (await bodies(store))[0] == b"{}"


class TestDamage:
    """A changed row is found when it is read, by whatever reads it."""

    @staticmethod
    async def fill(store: SQLiteStore) -> None:
        await store.open()
        numbers = await seqs(store, entry("k", uid="u"), entry("l"))
        await store.save(Snapshot(1, numbers[0], {None: b"own", "u": b"user"}), 10)
        await store.put_chunk(Chunk(1, 2, NOW, b"chunk"))
        await store.close()

    @pytest.mark.parametrize(
        "change",
        [
            "body = '[]'",
            "body = x'ff'",
            "body = CAST(x'22ff22' AS TEXT)",
            "at = at + 1",
            "at = 'soon'",
            "key = 'm'",
            "key = NULL",
            "sum = sum + 1",
            "sum = 'x'",
        ],
    )
    async def test_of_an_entry(self, store: SQLiteStore, change: str) -> None:
        await self.fill(store)
        path = store._directory.path / "clipper.db"
        edit(path, f"UPDATE feedback SET {change} WHERE key = 'l'")
        await store.open()
        for read in (store.entries(1, 0, 10), store.learned(1)):
            with pytest.raises(StoreError, match="database is damaged"):
                await read
        if not change.startswith("key"):
            with pytest.raises(StoreError, match="database is damaged"):
                await append(store, entry("new"), entry("l"))
        await append(store, entry("next"))
        assert len(await store.entries(1, 0, 1)) == 1
        assert (await store.size(1)).entries == 3

    @pytest.mark.parametrize(
        "change", ["body = x'00'", "body = 'text'", "seq = 0", "sum = 'x'", "body = ''"]
    )
    @pytest.mark.parametrize("who", ["", "=u"])
    async def test_of_a_state(self, store: SQLiteStore, who: str, change: str) -> None:
        await self.fill(store)
        path = store._directory.path / "clipper.db"
        edit(path, f"UPDATE person SET {change} WHERE who = '{who}'")
        await store.open()
        person = Person(1, who[1:] if who else None)
        reads: list[Callable[[], Any]] = [
            lambda: store.state_of(person),
            lambda: append(store, persons=[person]),
        ]
        if not who:
            reads += [
                lambda: store.learned(1),
                lambda: store.prune_entries(NOW, BOUNDLESS, NOW),
            ]
        for read in reads:
            with pytest.raises(StoreError, match="database is damaged"):
                await read()
        assert len(await logged(store)) == 2

    @pytest.mark.parametrize(
        "change", ["body = x'00'", "body = 'chunk'", "at = 1", "last = last + 1"]
    )
    async def test_of_a_chunk(self, store: SQLiteStore, change: str) -> None:
        await self.fill(store)
        edit(store._directory.path / "clipper.db", f"UPDATE decision SET {change}")
        await store.open()
        for read in (store.chunk_of(2), store.chunks(0, 10)):
            with pytest.raises(StoreError, match="database is damaged"):
                await read

    @pytest.mark.parametrize("change", ["at = 'soon'", "seq = 99", "at = 1e12"])
    async def test_of_a_key_that_is_left(self, store: SQLiteStore, change: str) -> None:
        await self.fill(store)
        await store.open()
        await store.prune_entries(0.0, 0, 0.0)
        await store.close()
        edit(store._directory.path / "clipper.db", f"UPDATE spent SET {change}")
        await store.open()
        [found] = (await append(store, entry("k"))).entries
        assert isinstance(found, Logged) and found.entry.key == "k"

    async def test_of_how_large_the_log_is(self, store: SQLiteStore) -> None:
        await self.fill(store)
        edit(store._directory.path / "clipper.db", "DELETE FROM feedback_size")
        await store.open()
        await append(store, entry("m"))
        await store.prune_entries(0.0, 0, 0.0)
        assert len(await logged(store)) == 3

    async def test_of_the_newest_number(self, store: SQLiteStore) -> None:
        await self.fill(store)
        edit(store._directory.path / "clipper.db", "DELETE FROM sqlite_sequence")
        await store.open()
        assert await seqs(store, entry("m")) == [3]


async def test_learned_begins_again_after_a_snapshot_in_the_middle(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.open()
    numbers = await seqs(store, *(entry() for _ in range(2_500)))
    reading = store._read
    reads = 0

    async def read(work: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            await store.save(Snapshot(1, numbers[2_000], {None: b"own"}), 1)
            await store.prune_entries(NOW + 1, BOUNDLESS, NOW)
        return await reading(work)

    monkeypatch.setattr(store, "_read", read)
    learned = await store.learned(1)
    assert (learned.seq, learned.state) == (numbers[2_000], b"own")
    assert [seq for seq, _ in learned.entries] == numbers[2_001:]


def test_who_has_no_entries_has_an_empty_range(tmp_path: Path) -> None:
    create(tmp_path / "clipper.db")
    connection = sqlite3.connect(tmp_path / "clipper.db")
    assert read_range(1, connection) == (0, -1)
    connection.close()
