from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper.errors import DiskFull, StoreError
from clipper.records import Damaged, State
from clipper.store import database as database_module
from clipper.store.base import (
    Change,
    DeleteApplication,
    PutApplication,
    PutModel,
    SetCurrent,
)
from clipper.store.database import Database, Outcome, Verify, Work
from clipper.store.faults import DamagedFile
from clipper.store.file import create, log_path
from clipper.store.migrations import SCHEMA_VERSION
from clipper.store.rows import COUNTER, LAST_NUMBER, Row, encode, number_body
from clipper.store.tables import apply, checksum

from .contract import FULL_APPLICATION, FULL_MODEL, application, as_good, model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clipper.db"
    create(path)
    return path


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def put(*changes: Change) -> Work:
    return partial(apply, encode(changes))


def put_application(name: str, **fields: Any) -> Work:
    return put(PutApplication(application(name, **fields)))


def read(path: Path) -> State:
    database = Database(path)
    try:
        return database.read()
    finally:
        database.close()


def fill(path: Path) -> State:
    """Several pages of records, some of them deleted again; all in the one file."""
    database = Database(path)
    records = [application(f"a{n}", n, default_output="x" * n) for n in range(60)]
    database.run([put(*map(PutApplication, records))])
    database.run([put(*(PutModel(model("m", f"{n}", n)) for n in range(30)))])
    database.run([put(PutApplication(FULL_APPLICATION), SetCurrent("forest", "2", ["1"]))])
    database.run([put(*(DeleteApplication(f"a{n}") for n in range(20, 40)))])
    state = database.read()
    assert database.checkpoint(at=0)
    database.close()
    return state


def edit(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


class Broken:
    """A connection on which statements fail with a code, by how they begin."""

    def __init__(self, connection: sqlite3.Connection, codes: dict[str, int]) -> None:
        self.connection = connection
        self.codes = codes
        self.statements: list[str] = []

    def execute(self, statement: str, *arguments: Any) -> Any:
        self.statements.append(statement)
        for prefix, code in self.codes.items():
            if statement.startswith(prefix):
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode = code
                raise error
        return self.connection.execute(statement, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def break_on(database: Database, codes: dict[str, int]) -> Callable[[], None]:
    """Let statements fail; the returned function repairs the connection."""
    real: Any = database._connection
    broken: Any = Broken(real, codes)
    database._connection = broken

    def repair() -> None:
        database._connection = real

    return repair


# -- groups of work ----------------------------------------------------------------------


class TestGroups:
    def test_gives_each_work_its_result(self, database: Database) -> None:
        def first(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM application").fetchone()[0])

        assert database.run([first, put_application("a"), first]) == [
            Outcome(0),
            Outcome(None),
            Outcome(1),
        ]

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("INSERT INTO application VALUES (NULL, NULL, NULL)", StoreError),
            ("INSERT INTO nowhere VALUES (1)", StoreError),
            ("nonsense", StoreError),
            (None, ZeroDivisionError),
        ],
    )
    def test_undoes_a_wrong_work_alone(
        self,
        database: Database,
        path: Path,
        statement: str | None,
        expected: type[Exception],
    ) -> None:
        def wrong(connection: sqlite3.Connection) -> None:
            put_application("wrong")(connection)
            if statement is None:
                raise ZeroDivisionError
            connection.execute(statement)

        outcomes = database.run([put_application("a"), wrong, put_application("b")])
        assert outcomes[0] == outcomes[2] == Outcome(None)
        assert isinstance(outcomes[1].error, expected)
        database.close()
        assert sorted(read(path).applications) == ["a", "b"]

    def test_is_one_transaction(self, database: Database) -> None:
        break_on(database, {})
        database.run([put_application(f"a{n}") for n in range(5)])
        statements = database._connection.statements  # type: ignore[attr-defined]
        assert statements[0] == "BEGIN IMMEDIATE"
        assert statements[-1] == "COMMIT"
        assert statements.count("COMMIT") == 1

    @pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("process", 1)])
    def test_flushes_as_it_was_told(
        self, path: Path, durability: Any, synchronous: int
    ) -> None:
        database = Database(path, durability)
        run = database._connection.execute
        found = [
            run(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "fullfsync")
        ]
        database.close()
        assert found == [synchronous, durability == "full"]

    def test_flushes_fully_where_nothing_else_is_said(self, path: Path) -> None:
        database = Database(path)
        found = database._connection.execute("PRAGMA synchronous").fetchone()
        database.close()
        assert found == (2,)


class TestFullDisk:
    @staticmethod
    def limit(database: Database, pages: int) -> None:
        database._connection.execute(f"PRAGMA max_page_count = {pages}")

    def test_takes_what_fits_and_heals(self, database: Database, path: Path) -> None:
        self.limit(database, 10)
        large = put_application("large", default_output="x" * 100_000)
        outcomes = database.run([put_application("a"), large, put_application("b")])
        assert [type(outcome.error) for outcome in outcomes] == [
            type(None),
            DiskFull,
            type(None),
        ]
        assert repr(database) == f"<Database {path} ok>"
        error = database.run([large])[0].error
        assert isinstance(error, DiskFull)
        assert error.cause == "the disk is full; nothing was changed"
        assert repr(database) == f"<Database {path} full>"
        self.limit(database, 1_000)
        assert database.run([large]) == [Outcome(None)]
        assert "ok" in repr(database)
        database.close()
        assert sorted(read(path).applications) == ["a", "b", "large"]

    def test_says_it_once(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.limit(database, 10)
        for _ in range(3):
            database.run([put_application("large", default_output="x" * 100_000)])
        assert [record.message for record in caplog.records] == [
            "the disk is full, changes are refused until there is room"
        ]

    def test_at_the_commit_nothing_is_kept(self, database: Database, path: Path) -> None:
        repair = break_on(database, {"COMMIT": sqlite3.SQLITE_FULL})
        outcomes = database.run([put_application("a"), put_application("b")])
        assert [type(outcome.error) for outcome in outcomes] == [DiskFull, DiskFull]
        repair()
        assert database.run([put_application("c")]) == [Outcome(None)]
        database.close()
        assert list(read(path).applications) == ["c"]

    def test_a_checkpoint_waits_for_room(self, database: Database) -> None:
        database.run([put_application("a")])
        repair = break_on(database, {"PRAGMA wal_checkpoint": sqlite3.SQLITE_FULL})
        assert not database.checkpoint(at=0)
        assert database.run([put_application("b")]) == [Outcome(None)]
        repair()
        assert database.checkpoint(at=0)


class TestBrokenDisk:
    @pytest.mark.parametrize(
        "statement", ["BEGIN", "INSERT", "SAVEPOINT", "RELEASE", "COMMIT"]
    )
    @pytest.mark.parametrize(
        "code",
        [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY],
    )
    def test_writes_no_more_until_it_is_opened_again(
        self, database: Database, path: Path, statement: str, code: int
    ) -> None:
        assert database.run([put_application("before")]) == [Outcome(None)]
        repair = break_on(database, {statement: code})
        outcomes = database.run([put_application("a"), put_application("b")])
        repair()
        outcomes += database.run([put_application("c")])
        for outcome in outcomes:
            assert isinstance(outcome.error, StoreError)
            assert "started again" in str(outcome.error)
            damaged = code == sqlite3.SQLITE_CORRUPT
            assert ("was found damaged" in str(outcome.error)) is damaged
            assert str(path) not in str(outcome.error)
        assert not database.checkpoint(at=0)
        assert list(database.read().applications) == ["before"]
        assert repr(database) == f"<Database {path} broken>"
        database.close()
        assert list(read(path).applications) == ["before"]

    def test_a_rollback_that_fails_is_no_better(self, database: Database) -> None:
        codes = {"COMMIT": sqlite3.SQLITE_FULL, "ROLLBACK": sqlite3.SQLITE_IOERR}
        break_on(database, codes)
        [outcome] = database.run([put_application("a")])
        assert type(outcome.error) is StoreError
        assert "broken" in repr(database)

    def test_a_checkpoint_that_fails_counts_too(self, database: Database) -> None:
        database.run([put_application("a")])
        repair = break_on(database, {"PRAGMA wal_checkpoint": sqlite3.SQLITE_IOERR_FSYNC})
        assert not database.checkpoint(at=0)
        repair()
        [outcome] = database.run([put_application("b")])
        assert isinstance(outcome.error, StoreError)

    @pytest.mark.parametrize("put_another", [False, True])
    def test_a_file_that_was_taken_away_takes_no_commit(
        self, database: Database, path: Path, put_another: bool
    ) -> None:
        path.rename(path.with_name("elsewhere"))
        if put_another:
            create(path)
        [outcome] = database.run([put_application("a")])
        assert isinstance(outcome.error, StoreError)
        assert "broken" in repr(database)

    def test_the_log_stays_small(self, database: Database) -> None:
        log = log_path(database.path)
        for n in range(20):
            database.run([put_application(f"a{n}", default_output="x" * 50_000)])
            database.checkpoint(at=200_000)
            assert log.stat().st_size < 500_000


# -- opening -----------------------------------------------------------------------------


class TestOpening:
    def test_a_new_one_is_empty_and_private(self, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(path.parent.iterdir()) == [path]
        assert read(path) == State()

    def test_a_new_one_replaces_its_unfinished_predecessor_only_when_swept(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / ".writing-clipper.db").write_text("half")
        with pytest.raises(StoreError, match="cannot open"):
            create(tmp_path / "clipper.db")

    def test_is_opened_by_one(self, database: Database, path: Path) -> None:
        with pytest.raises(StoreError, match=r"another program has .*clipper\.db open"):
            Database(path)

    @pytest.mark.parametrize("strange", ["a b", "100%", "what?", "#1", "ü"])
    def test_lies_in_any_directory(self, tmp_path: Path, strange: str) -> None:
        (tmp_path / strange).mkdir()
        create(tmp_path / strange / "clipper.db")
        assert read(tmp_path / strange / "clipper.db") == State()

    def test_a_directory_or_nothing_in_its_place(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "nothing"):
            with pytest.raises(StoreError, match=f"cannot open {path}"):
                Database(path)

    @pytest.mark.fault("D3")
    def test_of_a_newer_version(self, path: Path) -> None:
        edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(StoreError, match=r"newer version of Clipper .*upgrade"):
            Database(path)

    @pytest.mark.parametrize(
        "statement",
        [
            "PRAGMA user_version = 0",
            "PRAGMA user_version = -1",
            "PRAGMA application_id = 1",
            "DROP TABLE counter",
            "CREATE TABLE other (x)",
            "CREATE TRIGGER t AFTER INSERT ON model BEGIN DELETE FROM model; END",
        ],
    )
    def test_of_another_program(self, path: Path, statement: str) -> None:
        edit(path, statement)
        with pytest.raises(StoreError, match=r"is damaged \(.*restore it from a backup"):
            Database(path)

    @pytest.mark.parametrize(
        "values",
        [
            "('a', x'7b7d', 0)",  # not its sum
            "('a', '{}', 0)",  # text, not bytes
        ],
    )
    def test_with_a_row_that_does_not_match_its_sum(self, path: Path, values: str) -> None:
        for table in ("application", "model", "current"):
            edit(path, f"INSERT INTO {table} VALUES {values}")
        lost = {"a": "its record does not match its sum"}
        assert read(path) == State(damaged=Damaged(lost, lost, lost))

    @pytest.mark.parametrize(
        ("table", "values"),
        [("application", "(x'ff', x'00', 0)"), ("counter", "('a', x'30', 0)")],
    )
    def test_with_a_row_of_nobody(self, path: Path, table: str, values: str) -> None:
        edit(path, f"INSERT INTO {table} VALUES {values}")
        with pytest.raises(StoreError, match=f"a row of table {table} does not match its"):
            read(path)

    @pytest.mark.parametrize("other", ["model", "feedback_key", "current"])
    def test_with_a_table_that_is_where_another_is(self, path: Path, other: str) -> None:
        fill(path)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
            "WHERE name = ?) WHERE name = 'application'",
            (other,),
        )
        connection.commit()
        connection.close()
        with pytest.raises(DamagedFile, match="two of its tables are in one place"):
            read(path)

    def test_with_rows_of_another_table(self, database: Database) -> None:
        [row] = encode([PutModel(FULL_MODEL)]).rows
        values = (row.key, row.body, checksum("model", row.key, row.body or b""))
        database._connection.execute("INSERT INTO application VALUES (?, ?, ?)", values)
        with pytest.raises(DamagedFile, match="table application has rows of another"):
            database.read()

    def test_with_a_record_that_makes_no_sense(self, database: Database) -> None:
        write = encode([PutModel(FULL_MODEL)])
        write.rows[0] = write.rows[0]._replace(body=b'{"name": 1}')
        assert database.run([partial(apply, write)]) == [Outcome(None)]
        state = database.read()
        assert not state.models and list(state.damaged.models) == [FULL_MODEL.key]

    def test_with_a_counter_that_makes_no_sense(self, database: Database) -> None:
        write = encode([PutModel(FULL_MODEL)])
        number = number_body(0)
        row = Row(COUNTER, LAST_NUMBER, b"x" + number)
        assert database.run([partial(apply, write._replace(rows=[row], number=0))])
        with pytest.raises(StoreError, match="a record makes no sense"):
            database.read()


@pytest.mark.fault("D3")
class TestVerify:
    """Looking at every page; those of the records are looked at when it is opened."""

    @staticmethod
    def log_of(path: Path) -> Database:
        """With damage in the middle of the log, which no opening looks at."""
        connection = sqlite3.connect(path)
        connection.executemany(
            "INSERT INTO feedback (application, at, body, sum) VALUES (1, 1.0, ?, 0)",
            [("x" * 1_000,)] * 50,
        )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        content = bytearray(path.read_bytes())
        content[content.rindex(b"x" * 1_000) // 4096 * 4096] = 0x63
        path.write_bytes(content)
        log_path(path).unlink(missing_ok=True)
        return Database(path)

    def test_finds_nothing_where_nothing_is(self, database: Database) -> None:
        verify = Verify()
        assert database.run([verify]) == [Outcome(None)]
        assert verify.damage is None
        database.check_all()

    @pytest.mark.parametrize("compared", [0, 2**40])
    def test_finds_damage_and_ends_all_writing(
        self, path: Path, compared: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "COMPARED_BYTES", compared)
        database = self.log_of(path)
        verify = Verify()
        [told] = database.run([verify])
        assert isinstance(told.error, StoreError) and verify.damage
        assert "was found damaged" in told.error.cause
        assert "was found damaged" in str(database.run([put_application("a")])[0].error)
        with pytest.raises(DamagedFile, match=r"is damaged \(.*start with --recover"):
            database.check_all()
        database.close()

    def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(
        self, database: Database
    ) -> None:
        verify = Verify()
        break_on(database, {"PRAGMA": sqlite3.SQLITE_IOERR})
        assert isinstance(database.run([verify])[0].error, StoreError)
        assert verify.damage is None

    def test_what_sqlite_itself_says_is_told(self, database: Database) -> None:
        verify = Verify()
        break_on(database, {"PRAGMA": sqlite3.SQLITE_CORRUPT})
        assert "was found damaged" in str(database.run([verify])[0].error)
        assert verify.damage == "injected"

    def test_an_index_that_lacks_a_row_is_found_in_a_small_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        edit(path, "INSERT INTO spent VALUES (1, 1, 'k', 1.0)")
        connection = sqlite3.connect(path)
        run = connection.execute
        [(root,)] = run("SELECT rootpage FROM sqlite_master WHERE name = 'spent_key'")
        size = run("PRAGMA page_count").fetchone()[0] * 4096
        run("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        content = bytearray(path.read_bytes())
        start = (root - 1) * 4096
        content[start + 3 : start + 8] = b"\0\0\x10\0\0"  # no cells, and all of it free
        path.write_bytes(content)
        for compared, found in ((size - 1, False), (size, True)):
            monkeypatch.setattr(database_module, "COMPARED_BYTES", compared)
            database = Database(path)
            verify = Verify()
            database.run([verify])
            assert (verify.damage is not None) is found
            database.close()


@pytest.mark.fault("D3")
class TestDamage:
    """Whatever happens to the file: the state as it was, or a sentence, or as many records
    that are damaged as are missing. Never another error, never another state."""

    @staticmethod
    def outcome(path: Path) -> State | None:
        try:
            return read(path)
        except StoreError as error:
            assert str(path) in error.cause
            return None
        finally:
            log_path(path).unlink(missing_ok=True)

    @settings(
        max_examples=150,
        deadline=None,
        # one run of mutants calls it of several instances
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(data=st.data())
    def test_flipped_bits(self, path: Path, data: st.DataObject) -> None:
        good = path.with_name("good")
        if not good.exists():
            self.state = fill(path)
            good.write_bytes(path.read_bytes())
        content = bytearray(good.read_bytes())
        # The header and the tables' definitions are small and matter most.
        place = data.draw(st.integers(0, 400) | st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        found = self.outcome(path)
        assert found is None or as_good(found, self.state)

    def test_truncation(self, path: Path) -> None:
        state = fill(path)
        content = path.read_bytes()
        dice = random.Random(0)
        page = 4096
        cuts = [*range(0, len(content), page), 1, 99, 100, page - 1, len(content) - 1]
        for cut in [*cuts, *(dice.randrange(len(content)) for _ in range(20))]:
            path.write_bytes(content[:cut])
            found = self.outcome(path)
            # of a page that was cut SQLite reads the rest as zeros
            assert found is None or (cut % page and found != state), cut
            assert found is None or as_good(found, state), cut

    def test_a_page_of_zeros(self, path: Path) -> None:
        state = fill(path)
        content = path.read_bytes()
        for start in range(0, len(content), 4096):
            path.write_bytes(content[:start] + bytes(4096) + content[start + 4096 :])
            expected = (None, state) if start else (None,)  # a free page holds nothing
            assert self.outcome(path) in expected, start

    @pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", bytes(8192), b"text\n"])
    def test_something_else(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert self.outcome(path) is None
