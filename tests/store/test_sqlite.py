from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from clipper.errors import InvalidInput, StoreError
from clipper.records import State
from clipper.store.base import (
    Change,
    Chunk,
    DeleteApplication,
    DeleteModel,
    Entry,
    Person,
    PutApplication,
    PutModel,
    SetCurrent,
    Snapshot,
    Store,
)
from clipper.store.memory import MemoryStore
from clipper.store.sqlite import SQLiteStore

from .contract import StoreContract, application, model
from .log_contract import append

HELD = {"blobs", "clipper.db", "clipper.db-wal", "clipper.lock"}


@pytest.fixture(params=["full", "process"])
async def store(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "data", durability=request.param)
    yield store
    await store.close()


async def state_of(directory: Path) -> State:
    store = SQLiteStore(directory)
    try:
        return await store.open()
    finally:
        await store.close()


async def refusal(directory: Path) -> str:
    """The sentence of a store that must not open; it must give the lock up again."""
    sentences = set()
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await state_of(directory)
        sentences.add(caught.value.cause)
    assert len(sentences) == 1
    return sentences.pop()


async def filled(directory: Path) -> Path:
    """A directory whose store holds application a and was closed."""
    store = SQLiteStore(directory)
    await store.open()
    await store.commit(PutApplication(application("a")))
    await store.close()
    return directory


def program(body: str) -> list[str]:
    """A command that runs `body` in a coroutine with `store`, open on argument 1."""
    return [
        sys.executable,
        "-c",
        textwrap.dedent("""
            import asyncio, os, resource, sys
            from pathlib import Path
            from clipper.errors import ClipperError
            from clipper.records import ApplicationRecord
            from clipper.store.base import Entry, PutApplication
            from clipper.store.sqlite import SQLiteStore

            def put(name, size=0):
                record = ApplicationRecord(name, 1, "doubles", 1, default_output="x" * size)
                return store.commit(PutApplication(record))

            async def append(body):
                future = asyncio.get_running_loop().create_future()
                def done(appended, error):
                    if error is None:
                        future.set_result(appended)
                    else:
                        future.set_exception(error)
                store.append([Entry(1, None, None, 1.7e9, body)], [], done)
                return await future

            async def outcome(awaitable):
                try:
                    await awaitable
                except ClipperError as error:
                    print(type(error).__name__, flush=True)
                else:
                    print("ok", flush=True)

            async def main():
                await store.open()
            BODY

            store = SQLiteStore(Path(sys.argv[1]))
            asyncio.run(main())
        """).replace("BODY", textwrap.indent(textwrap.dedent(body), "    ")),
    ]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@contextmanager
def other_server(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A second process that holds the store with application a in it, until killed."""
    command = program("""
        await put("a")
        print("open", flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [*command, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"open\n"
            yield process
        finally:
            process.kill()


class TestSQLiteStore(StoreContract):
    @pytest.mark.parametrize("recover", [False, True])
    @pytest.mark.parametrize(
        ("durability", "synchronous"),
        [({}, 2), ({"durability": "full"}, 2), ({"durability": "process"}, 1)],
    )
    async def test_flushes_as_it_was_told(
        self, tmp_path: Path, durability: Any, synchronous: int, recover: bool
    ) -> None:
        data = await filled(tmp_path / "data")
        if recover:  # the way of a file that is made anew
            (data / "clipper.db").write_bytes(b"nothing")
        store = SQLiteStore(data, recover=recover, **durability)
        await store.open()
        told = store._open_writer().submit(
            lambda connection: connection.execute("PRAGMA synchronous").fetchone()
        )
        assert await told == (synchronous,)
        await store.close()

    async def test_leaves_one_file_when_it_is_closed(
        self, store: SQLiteStore, tmp_path: Path
    ) -> None:
        await store.open()
        assert set(os.listdir(tmp_path / "data")) == HELD
        await store.commit(PutApplication(application("a")))
        await store.close()
        assert set(os.listdir(tmp_path / "data")) == HELD - {"clipper.db-wal"}


@pytest.mark.fault("D4")
class TestOneProcess:
    async def test_a_second_process_is_refused(self, tmp_path: Path) -> None:
        with other_server(tmp_path) as process:
            sentence = await refusal(tmp_path)
        assert f"{tmp_path} is in use by another server (process {process.pid})" in sentence

    async def test_the_lock_dies_with_its_process(self, tmp_path: Path) -> None:
        with other_server(tmp_path) as process:
            process.kill()
            process.wait()
            assert list((await state_of(tmp_path)).applications) == ["a"]

    async def test_without_its_lock_file_it_is_still_refused(self, tmp_path: Path) -> None:
        with other_server(tmp_path):
            (tmp_path / "clipper.lock").unlink()
            assert "another program has" in await refusal(tmp_path)

    async def test_two_in_one_process(self, store: SQLiteStore, tmp_path: Path) -> None:
        await store.open()
        assert f"(process {os.getpid()})" in await refusal(tmp_path / "data")

    async def test_a_store_that_was_never_closed_does_not_keep_the_process(
        self, tmp_path: Path
    ) -> None:
        command = program("""
            await put("a")
            asyncio.ensure_future(put("b"))
            await asyncio.sleep(0)
        """)
        done = run(*command, str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert "a" in (await state_of(tmp_path)).applications


@pytest.mark.fault("D3")
class TestNeverSilentlyEmpty:
    @pytest.mark.parametrize(
        "files", [["clipper.db"], ["clipper.db", "blobs", "clipper.lock"]]
    )
    async def test_a_missing_database(self, tmp_path: Path, files: list[str]) -> None:
        with other_server(tmp_path):
            pass
        for name in files:
            path = tmp_path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert f"{tmp_path / 'clipper.db'} is missing" in await refusal(tmp_path)

    async def test_a_missing_database_after_a_clean_end(self, tmp_path: Path) -> None:
        await filled(tmp_path)
        (tmp_path / "clipper.db").unlink()
        assert "restore it from a backup" in await refusal(tmp_path)

    async def test_a_missing_log_after_a_kill(self, tmp_path: Path) -> None:
        with other_server(tmp_path):
            pass
        (tmp_path / "clipper.db-wal").unlink()
        assert "clipper.db-wal is missing" in await refusal(tmp_path)
        (tmp_path / "clipper.lock").unlink()  # as the sentence says
        assert await state_of(tmp_path) == State()

    @pytest.mark.parametrize("content", [b"", bytes(100_000), b"x" * 5_000])
    async def test_a_damaged_database(self, tmp_path: Path, content: bytes) -> None:
        await filled(tmp_path)
        (tmp_path / "clipper.db").write_bytes(content)
        assert "clipper.db is damaged" in await refusal(tmp_path)
        assert (tmp_path / "clipper.db").read_bytes() == content

    async def test_a_damaged_log_gives_a_state_that_once_was(self, tmp_path: Path) -> None:
        with other_server(tmp_path):
            pass
        log = (tmp_path / "clipper.db-wal").read_bytes()
        for place in range(0, len(log), len(log) // 20):
            damaged = tmp_path.with_name(f"{tmp_path.name}-{place}")
            shutil.copytree(tmp_path, damaged)
            changed = bytes([log[place] ^ 1])
            (damaged / "clipper.db-wal").write_bytes(
                log[:place] + changed + log[place + 1 :]
            )
            assert set((await state_of(damaged)).applications) <= {"a"}

    async def test_a_moved_directory_opens(self, tmp_path: Path) -> None:
        await filled(tmp_path / "old")
        (tmp_path / "old").rename(tmp_path / "new")
        assert list((await state_of(tmp_path / "new")).applications) == ["a"]

    async def test_a_file_in_place_of_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert "as data directory" in await refusal(tmp_path / "file")

    async def test_a_first_start_that_was_killed(self, tmp_path: Path) -> None:
        # Nothing was answered yet: a locked directory, the database half made.
        (tmp_path / "clipper.lock").write_bytes(b"")
        (tmp_path / "blobs").mkdir()
        (tmp_path / ".writing-clipper.db").write_bytes(b"half")
        (tmp_path / ".writing-clipper.db-wal").write_bytes(b"half")
        assert await state_of(tmp_path) == State()
        assert ".writing-clipper.db" not in os.listdir(tmp_path)


class TestFailingDisk:
    @pytest.mark.fault("D4")
    async def test_a_directory_that_is_gone_takes_no_commit(
        self, store: SQLiteStore, tmp_path: Path
    ) -> None:
        await store.open()
        shutil.rmtree(tmp_path / "data")
        for _ in range(2):
            with pytest.raises(StoreError, match="earlier write to the disk failed"):
                await store.commit(PutApplication(application("a")))
        with pytest.raises(StoreError, match="cannot write a blob"):
            await store.put_blob(b"function")

    @pytest.mark.fault("D2")
    async def test_a_write_error_stops_all_later_ones(self, tmp_path: Path) -> None:
        # A limit on the size of files is an error of write() that no room can heal.
        command = program("""
            blob = await store.put_blob(b"function")
            await outcome(put("a"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
            await outcome(append(b"1" * 500_000))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            await outcome(put("b"))
            await outcome(append(b"1"))
            await outcome(store.get_blob(blob))
            await outcome(store.entries(1, 0, 1))
            await store.close()
            print(*(await store.open()).applications)
            await outcome(put("b"))
            await store.close()
        """)
        done = run(*command, str(tmp_path))
        lines = done.stdout.split("\n")
        assert lines[:3] == ["ok", "StoreError", "StoreError"], done.stderr
        assert lines[3:6] == ["StoreError", "ok", "ok"], done.stderr
        assert lines[6:] == ["a", "ok", ""], done.stderr
        assert sorted((await state_of(tmp_path)).applications) == ["a", "b"]

    @pytest.mark.fault("D1")
    async def test_a_full_disk_heals(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        command = program("""
            await outcome(put("a"))
            with open(f"{sys.argv[1]}/ballast", "wb", buffering=0) as ballast:
                try:
                    while ballast.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            await outcome(put("b", 100_000))
            await outcome(store.put_blob(bytes(100_000)))
            await outcome(append(b"1" * 100_000))
            print(len(await store.entries(1, 0, 10)), flush=True)
            os.unlink(f"{sys.argv[1]}/ballast")
            await outcome(put("b", 100_000))
            await outcome(store.put_blob(bytes(100_000)))
            await outcome(append(b"1" * 100_000))
            await store.close()
            print(*(await store.open()).applications)
            print(len(await store.entries(1, 0, 10)), flush=True)
            await store.close()
        """)
        mount = f"mount -t tmpfs -o size=2m none {small}"
        if run("unshare", "-rm", "sh", "-c", mount).returncode:
            return  # nobody may mount here; test_database.py fills a file of few pages
        script = f'{mount} && exec "$@"'
        done = run("unshare", "-rm", "sh", "-c", script, "sh", *command, str(small))
        lines = done.stdout.split("\n")
        assert lines[:5] == ["ok", "DiskFull", "DiskFull", "DiskFull", "0"], done.stderr
        assert lines[5:] == ["ok", "ok", "ok", "a b", "1", ""], done.stderr

    async def test_a_full_disk_keeps_no_store_from_ending(
        self, store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        await store.open()
        await store.commit(PutApplication(application("a")))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            await store.close()
        assert list((await state_of(tmp_path / "data")).applications) == ["a"]

    @pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync"])
    async def test_a_start_that_fails_leaves_all_in_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        await filled(tmp_path)
        real, left = getattr(os, call), [1]

        def fail_once(*args: object) -> object:
            if left:
                left.pop()
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail_once)
            with pytest.raises(StoreError, match=f"cannot write to {tmp_path}: Input"):
                await state_of(tmp_path)
        assert list((await state_of(tmp_path)).applications) == ["a"]

    async def test_a_start_that_is_given_up_gives_the_lock_up(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path)
        opening = asyncio.ensure_future(store.open())
        await asyncio.sleep(0)  # let it begin
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await store.open() == State()
        await store.close()


# -- both stores hold the same -----------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c:1", "ü", "\0"])
VERSIONS = st.sampled_from(["1", "2", "2024.1"])
NUMBERS = st.integers(0, 2**40)
VALUES = st.none() | st.text() | st.floats() | st.lists(st.floats())

CHANGES = st.one_of(
    st.builds(PutApplication, st.builds(application, NAMES, NUMBERS, loss=st.text())),
    st.builds(DeleteApplication, NAMES),
    st.builds(PutModel, st.builds(model, NAMES, VERSIONS, NUMBERS, example=VALUES)),
    st.builds(DeleteModel, NAMES, VERSIONS),
    st.builds(SetCurrent, NAMES, st.none() | VERSIONS, st.lists(VERSIONS, max_size=3)),
)
UIDS = st.none() | st.sampled_from(["", "u", "\0", "\1", "ü"])
ENTRIES = st.builds(
    Entry,
    st.integers(1, 2),
    st.none() | st.sampled_from(["", "k", "l", "\0"]),
    UIDS,
    st.integers(0, 2**30).map(lambda second: 1.7e9 + second / 1024),
    st.text(max_size=3).map(msgspec.json.encode),
)
PERSONS = st.builds(Person, st.integers(1, 2), UIDS)
STATES = st.dictionaries(UIDS, st.binary(max_size=3), max_size=4)
NONCES = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63 - 1, 2**63])
CHUNKS = st.builds(
    lambda ends, at, body: Chunk(min(ends), max(ends), at, body),
    st.tuples(NONCES, NONCES),
    st.integers(0, 100).map(lambda second: 1.7e9 + second),
    st.binary(max_size=8),
)
COMMITS = st.lists(st.lists(CHANGES, max_size=4), min_size=1, max_size=6)


class Twins(RuleBasedStateMachine):
    """The same calls on both stores; what they answer and read back is compared."""

    blobs = Bundle("blobs")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.memory = MemoryStore()
        self.sqlite = SQLiteStore(Path(self.directory), durability="process")
        self.runner = asyncio.Runner()
        self.last = 0  # a number that the log has reached
        self.both(lambda store: store.open())

    def teardown(self) -> None:
        self.both(lambda store: store.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    def both(self, call: Callable[[Store], Awaitable[Any]]) -> Any:
        async def answers() -> list[Any]:
            calls = (call(self.memory), call(self.sqlite))
            return await asyncio.gather(*calls, return_exceptions=True)

        ours, theirs = self.runner.run(answers())
        if isinstance(ours, Exception):
            assert (type(ours), str(ours)) == (type(theirs), str(theirs))
        else:
            assert ours == theirs
        return ours

    @rule(commits=COMMITS)
    def commit_at_once(self, commits: list[list[Change]]) -> None:
        async def commit_all(store: Store) -> list[str]:
            calls = (store.commit(*changes) for changes in commits)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(outcome, InvalidInput | None) for outcome in outcomes)
            return list(map(repr, outcomes))

        self.both(commit_all)

    @rule()
    def open_again(self) -> None:
        self.both(lambda store: store.close())
        assert isinstance(self.both(lambda store: store.open()), State)

    @rule(target=blobs, data=st.binary(max_size=8))
    def put_blob(self, data: bytes) -> Any:
        return self.both(lambda store: store.put_blob(data))

    @rule(digest=blobs)
    def get_blob(self, digest: str) -> None:
        self.both(lambda store: store.get_blob(digest))

    @rule(keep=st.sets(blobs))
    def delete_blobs(self, keep: set[str]) -> None:
        self.both(lambda store: store.delete_blobs(keep))

    @rule(appends=st.lists(st.lists(ENTRIES, max_size=4), min_size=1, max_size=4),
          persons=st.lists(PERSONS, max_size=2))  # fmt: skip
    def append_at_once(self, appends: list[list[Entry]], persons: list[Person]) -> None:
        async def append_all(store: Store) -> list[Any]:
            calls = (append(store, *entries, persons=persons) for entries in appends)
            return list(await asyncio.gather(*calls))

        self.last = max(
            (n for appended in self.both(append_all) for n in appended.entries
             if isinstance(n, int)), default=self.last)  # fmt: skip

    @rule(data=st.data(), number=st.integers(1, 2), states=STATES, most=st.integers(0, 3))
    def save(self, data: Any, number: int, states: Any, most: int) -> None:
        seq = data.draw(st.integers(max(self.last - 5, 0), self.last))
        self.both(lambda store: store.save(Snapshot(number, seq, states), most))
        self.compare_learned(number)

    @rule(number=st.integers(1, 2))
    def compare_learned(self, number: int) -> None:
        self.both(lambda store: store.learned(number))
        self.both(lambda store: store.size(number))
        self.both(lambda store: store.uids(number, None, 10))

    @rule(person=PERSONS)
    def state_of(self, person: Person) -> None:
        self.both(lambda store: store.state_of(person))

    @rule(person=PERSONS)
    def forget(self, person: Person) -> None:
        self.both(lambda store: store.forget(person))
        self.compare_learned(person.application)

    @rule(number=st.integers(1, 2), after=st.integers(0, 20), limit=st.integers(-1, 5))
    def entries(self, number: int, after: int, limit: int) -> None:
        self.both(lambda store: store.entries(number, after, limit))

    @rule(chunk=CHUNKS)
    def put_chunk(self, chunk: Chunk) -> None:
        self.both(lambda store: store.put_chunk(chunk))
        self.both(lambda store: store.chunk_of(chunk.last))

    @rule(nonce=NONCES)
    def chunk_of(self, nonce: int) -> None:
        self.both(lambda store: store.chunk_of(nonce))

    @rule(second=st.integers(0, 2**20), most=st.integers(0, 40), more=st.integers(0, 9))
    def prune(self, second: int, most: int, more: int) -> None:
        self.both(lambda store: store.prune_decisions(1.7e9 + second, most))
        self.both(
            lambda store: store.prune_entries(1.7e9 + second, most, 1.7e9 + second + more)
        )
        self.both(lambda store: store.chunks(0, 99))
        self.compare_learned(1)

    @rule(number=st.integers(1, 2))
    def drop(self, number: int) -> None:
        self.both(lambda store: store.drop(number))
        self.both(lambda store: store.learned(number))


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


async def test_a_blob_can_be_read_while_another_has_the_directory(tmp_path: Path) -> None:
    first, second = SQLiteStore(tmp_path), SQLiteStore(tmp_path)
    await first.open()
    digest = await first.put_blob(b"weights")
    assert await second.get_blob(digest) == b"weights"
    (tmp_path / "blobs" / digest).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        await second.get_blob(digest)
    with pytest.raises(StoreError, match="in use"):
        await second.open()
    with pytest.raises(StoreError, match="closed"):
        await second.get_blob(digest)
    await first.close()
