from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipper.errors import DiskFull, InvalidInput, StoreError
from clipper.store.directory import UNFINISHED, DataDirectory, write_file


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path / "some" / "data")
    directory.acquire()
    yield directory
    directory.release()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


class Failing:
    """os with one call that fails at its n-th use from now on, as a bad disk would."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, call: str, code: int, nth: int
    ) -> None:
        self.left = nth
        real = getattr(os, call)

        def fail(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, fail)


class TestOwning:
    def test_only_the_user_may_look_inside(self, directory: DataDirectory) -> None:
        digest = directory.put_blob(b"function")
        directory.secret("admin-token")
        assert mode(directory.path) == mode(directory.blobs) == 0o700
        for name in ("clipper.lock", "admin-token", f"blobs/{digest}"):
            assert mode(directory.path / name) == 0o600

    def test_is_owned_once(self, directory: DataDirectory) -> None:
        directory.mark_running()
        with pytest.raises(StoreError) as caught:
            DataDirectory(directory.path).acquire()
        assert str(directory.path) in caught.value.cause
        assert f"in use by another server (process {os.getpid()})" in caught.value.cause
        assert "--data-dir" in caught.value.cause

    def test_says_so_without_a_process_when_none_is_known(
        self, directory: DataDirectory
    ) -> None:
        with pytest.raises(StoreError, match="by another server; stop"):
            DataDirectory(directory.path).acquire()

    def test_can_be_owned_again_after_release(self, directory: DataDirectory) -> None:
        directory.release()
        directory.release()
        other = DataDirectory(directory.path)
        other.acquire()
        other.release()

    def test_a_refused_owner_leaves_no_descriptor(self, directory: DataDirectory) -> None:
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            with pytest.raises(StoreError):
                DataDirectory(directory.path).acquire()
        assert len(os.listdir("/dev/fd")) == before

    def test_removes_what_was_left_unfinished_and_nothing_else(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "blobs").mkdir()
        for folder in (tmp_path, tmp_path / "blobs"):
            (folder / f"{UNFINISHED}1234").write_text("half")
            (folder / "notes.tmp").write_text("mine")
        directory = DataDirectory(tmp_path)
        directory.acquire()
        directory.release()
        assert names(tmp_path) == ["blobs", "clipper.lock", "notes.tmp"]
        assert names(tmp_path / "blobs") == ["notes.tmp"]

    @pytest.mark.parametrize("path", ["file", "file/below", "x" * 300])
    def test_refuses_what_is_no_directory(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=r"as data directory.*--data-dir"):
            DataDirectory(tmp_path / path).acquire()

    def test_refuses_a_file_in_place_of_the_blobs(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").write_text("")
        with pytest.raises(StoreError, match="as data directory"):
            DataDirectory(tmp_path).acquire()
        (tmp_path / "blobs").unlink()
        directory = DataDirectory(tmp_path)
        directory.acquire()
        directory.release()

    @pytest.mark.fault("D4")
    @pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
    def test_refuses_a_directory_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        Failing(monkeypatch, "open", code, 1)
        with pytest.raises(StoreError, match=os.strerror(code)):
            DataDirectory(tmp_path).acquire()

    def test_remembers_how_the_last_server_ended(self, tmp_path: Path) -> None:
        found = []
        for end in ("mark_running", "mark_closed", "release"):
            directory = DataDirectory(tmp_path)
            directory.acquire()
            found.append((directory.used, directory.killed))
            getattr(directory, end)()
            directory.release()
        assert found == [(False, False), (True, True), (True, False)]

    def test_blobs_tell_that_a_store_was_here(self, tmp_path: Path) -> None:
        directory = DataDirectory(tmp_path)
        directory.acquire()
        directory.put_blob(b"function")
        directory.release()
        (tmp_path / "clipper.lock").unlink()
        directory.acquire()
        assert directory.used
        directory.release()


class TestBlobs:
    @pytest.mark.parametrize("damage", [b"", b"functioN", b"function2"])
    def test_a_damaged_blob_is_told_and_can_be_put_again(
        self, directory: DataDirectory, damage: bytes
    ) -> None:
        digest = directory.put_blob(b"function")
        (directory.blobs / digest).write_bytes(damage)
        with pytest.raises(StoreError, match=f"{digest} is damaged"):
            directory.get_blob(digest)
        assert directory.put_blob(b"function") == digest
        assert directory.get_blob(digest) == b"function"

    def test_a_lost_blob_is_told(self, directory: DataDirectory) -> None:
        digest = directory.put_blob(b"function")
        (directory.blobs / digest).unlink()
        with pytest.raises(StoreError, match="is not in the store"):
            directory.get_blob(digest)
        (directory.blobs / digest).mkdir()
        with pytest.raises(StoreError, match="cannot read"):
            directory.get_blob(digest)

    def test_deletes_nothing_but_blobs(self, directory: DataDirectory) -> None:
        directory.put_blob(b"function")
        (directory.blobs / "notes").write_text("")
        directory.delete_blobs(set())
        assert names(directory.blobs) == ["notes"]

    @pytest.mark.parametrize("nth", range(1, 4))
    @pytest.mark.parametrize("call", ["open", "fsync", "replace"])
    @pytest.mark.parametrize(
        ("code", "expected"),
        [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StoreError)],
    )
    def test_a_failing_disk_leaves_the_blob_whole_or_absent(
        self,
        directory: DataDirectory,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        nth: int,
        code: int,
        expected: type[Exception],
    ) -> None:
        data = b"function"
        with monkeypatch.context() as patch:
            failing = Failing(patch, call, code, nth)
            try:
                digest = directory.put_blob(data)
                assert failing.left > 0
            except expected:
                assert failing.left == 0
                assert names(directory.blobs) == []
                digest = hashlib.sha256(data).hexdigest()
        assert directory.put_blob(data) == digest
        assert directory.get_blob(digest) == data
        assert names(directory.blobs) == [digest]

    def test_a_write_that_fails_halfway_leaves_nothing(self, tmp_path: Path) -> None:
        not_bytes: Any = "text"
        with pytest.raises(TypeError):
            write_file(tmp_path / "file", not_bytes)
        assert names(tmp_path) == []


class TestSecrets:
    def test_is_hexadecimal_text_on_disk(self, directory: DataDirectory) -> None:
        token = directory.secret("admin-token")
        assert (directory.path / "admin-token").read_text() == token.hex() + "\n"
        assert directory.secret("admin-token") == token

    def test_may_be_written_by_hand_without_the_newline(
        self, directory: DataDirectory
    ) -> None:
        (directory.path / "admin-token").write_text("ab" * 32)
        assert directory.secret("admin-token") == b"\xab" * 32

    @pytest.mark.parametrize(
        "text",
        [b"", b"ab" * 31, b"ab" * 33, b"xy" * 32, b"ab" * 32 + b"\n\n", b"\xff" * 64],
    )
    def test_a_garbled_secret_is_refused_and_kept(
        self, directory: DataDirectory, text: bytes
    ) -> None:
        path = directory.path / "query-key"
        path.write_bytes(text)
        with pytest.raises(StoreError, match="query-key should hold 64 hexadecimal digits"):
            directory.secret("query-key")
        assert path.read_bytes() == text

    def test_a_directory_in_its_place_is_refused(self, directory: DataDirectory) -> None:
        with pytest.raises(StoreError, match="cannot use the secret blobs"):
            directory.secret("blobs")


def test_a_patient_one_waits_until_the_directory_is_free(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path, patience=30.0)
    first.acquire()
    looked = threading.Event()
    outcome: list[object] = []

    def acquire() -> None:
        looked.set()
        try:
            second.acquire()
        except StoreError as error:
            outcome.append(error)
        else:
            outcome.append("acquired")

    thread = threading.Thread(target=acquire)
    thread.start()
    looked.wait(10)
    assert not outcome
    first.release()
    thread.join(20)
    assert outcome == ["acquired"]
    with pytest.raises(StoreError, match="in use by another server"):
        DataDirectory(tmp_path, patience=0.02).acquire()
    second.release()


class TestWords:
    """What an operator reads says what to do."""

    def test_of_a_secret_that_is_none(self, directory: DataDirectory) -> None:
        path = directory.path / "query-key"
        path.write_text("short")
        with pytest.raises(StoreError) as refused:
            directory.secret("query-key")
        assert refused.value.cause == (
            f"{path} should hold 64 hexadecimal digits and does not; restore it, or remove "
            "it to have a new one made"
        )
        with pytest.raises(InvalidInput) as refused_name:
            directory.secret("../other")
        assert refused_name.value.cause == (
            "a secret's name must match [a-z][a-z0-9-]*, got '../other'"
        )

    def test_of_a_directory_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError) as refused:
            DataDirectory(tmp_path / "file").acquire()
        assert refused.value.cause.endswith(
            "; make it a directory this user can write to, or choose another with "
            "--data-dir"
        )

    def test_of_blobs_that_stay(
        self, directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory.put_blob(b"function")
        with monkeypatch.context() as patch:
            Failing(patch, "fsync", errno.EIO, 1)
            with pytest.raises(StoreError, match=r"^cannot delete blobs: "):
                directory.delete_blobs(set())
