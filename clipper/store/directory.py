"""The data directory: who owns it, its blobs and its secrets. Blocking file work.

    clipper.lock     locked while a server runs, and how the last one ended
    clipper.db       records, see database.py
    blobs/<sha256>   packaged functions
    <secret>         64 hexadecimal digits: admin-token, query-key, ...
    .writing-*       unfinished files, removed at the next start

A file appears whole or not at all: it is written under another name, flushed to the
disk, renamed, and then the directory is flushed. Everything is 0600 in a 0700 directory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipper.errors import DiskFull, InvalidInput, StoreError

UNFINISHED = ".writing-"
SECRET_BYTES = 32

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SECRET_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_SECRET = re.compile(rb"[0-9a-f]{64}\n?")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# Seconds between looks whether another process has let go of the lock. No blocking wait:
# that could not be given up.
_LOOK_SECONDS = 0.005

# What the lock file holds after the process id while a server runs. It is written over
# in place and then cut off, so that a full disk keeps no server from starting or ending.
_RUNNING = " running"


def check_digest(digest: str) -> None:
    """Only what looks like a sha256 ever becomes part of a path."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise StoreError(f"a blob is named by 64 hexadecimal digits, got {digest!r:.80}")


def check_secret_name(name: str) -> None:
    if not isinstance(name, str) or not _SECRET_NAME.fullmatch(name):
        raise InvalidInput(f"a secret's name must match [a-z][a-z0-9-]*, got {name!r:.80}")


class DataDirectory:
    """One data directory, owned by at most one process from acquire() to release().
    `patience` is how many seconds to wait for another process to let go of it."""

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        self.path = path
        self._patience = patience
        self.blobs = path / "blobs"
        # All state: the descriptor that holds the lock, and how it was found at acquire.
        self._lock: int | None = None
        self._found = ""

    # -- owning it -----------------------------------------------------------------------

    def acquire(self) -> None:
        """Make the directory if it is missing and lock it. StoreError if it cannot be
        used, or if another process has it and keeps it."""
        try:
            _make_durably(self.path, 0o700)
            lock = _open(self.path / "clipper.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._take(lock)
            self.blobs.mkdir(mode=0o700, exist_ok=True)
            self._sweep()
        except OSError as error:
            os.close(lock)
            raise self._unusable(error) from error
        except StoreError:
            os.close(lock)
            raise
        self._lock = lock

    def release(self) -> None:
        """Give the lock up. Idempotent. The file stays: to remove a lock file while
        others may open it would let two of them win."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def used(self) -> bool:
        """A store was here before: its database must be here too."""
        return bool(self._found) or any(map(_DIGEST.fullmatch, os.listdir(self.blobs)))

    @property
    def killed(self) -> bool:
        """The last server here did not close its store."""
        return _RUNNING in self._found

    def mark_running(self) -> None:
        """From here on the log of the database is expected to be there after a kill; its
        name must be on the disk before this is."""
        sync(self.path)
        self._mark(f"{os.getpid()}{_RUNNING}")

    def mark_closed(self) -> None:
        self._mark(f"{os.getpid()}")

    # -- blobs ---------------------------------------------------------------------------

    def put_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.blobs / digest
        with _storing("write a blob"):
            if _holds(path, data):
                sync(path)
                sync(self.blobs)
            else:
                write_file(path, data)
        return digest

    def get_blob(self, digest: str) -> bytes:
        check_digest(digest)
        try:
            data = (self.blobs / digest).read_bytes()
        except FileNotFoundError:
            raise StoreError(f"blob {digest} is not in the store") from None
        except OSError as error:
            raise StoreError(f"cannot read blob {digest}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"blob {digest} is damaged: its content has another digest")
        return data

    def delete_blobs(self, keep: set[str]) -> None:
        with _storing("delete blobs"):
            for name in os.listdir(self.blobs):
                if _DIGEST.fullmatch(name) and name not in keep:
                    (self.blobs / name).unlink(missing_ok=True)
            sync(self.blobs)

    # -- secrets -------------------------------------------------------------------------

    def secret(self, name: str) -> bytes:
        """32 bytes from the file `name`, which is made if it is missing. A file with
        anything else in it is refused: to replace it would void what was signed."""
        check_secret_name(name)
        path = self.path / name
        with _storing(f"use the secret {name}"):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                text = secrets.token_hex(SECRET_BYTES).encode() + b"\n"
                write_file(path, text)
        if not _SECRET.fullmatch(text):
            raise StoreError(
                f"{path} should hold {2 * SECRET_BYTES} hexadecimal digits and does not; "
                "restore it, or remove it to have a new one made"
            )
        return bytes.fromhex(text.decode("ascii"))

    # -- inside --------------------------------------------------------------------------

    def _take(self, lock: int) -> None:
        end = time.monotonic() + self._patience
        while not _locked(lock):
            if time.monotonic() < end:
                time.sleep(_LOOK_SECONDS)
                continue
            pid = _read_lock(lock).partition(" ")[0]
            process = f" (process {pid})" if pid.isdigit() else ""
            raise StoreError(
                f"data directory {self.path} is in use by another server{process}; "
                "stop that one, or choose another directory with --data-dir"
            )
        self._found = _read_lock(lock)

    def _sweep(self) -> None:
        for folder in (self.path, self.blobs):
            for path in folder.glob(f"{UNFINISHED}*"):
                path.unlink(missing_ok=True)

    def _mark(self, text: str) -> None:
        assert self._lock is not None
        if not _read_lock(self._lock).startswith(text):
            os.pwrite(self._lock, text.encode(), 0)
        os.ftruncate(self._lock, len(text))
        os.fsync(self._lock)

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot use {self.path} as data directory: {error.strerror}; make it a "
            "directory this user can write to, or choose another with --data-dir"
        )


def _make_durably(path: Path, mode: int = 0o777) -> None:
    """Make a directory if it is missing, with its parents."""
    if not path.exists():
        _make_durably(path.parent)
        path.mkdir(mode)
        sync(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Put `data` durably at `path`, whole or not at all."""
    unfinished = path.with_name(UNFINISHED + secrets.token_hex(8))
    try:
        descriptor = _open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    try:
        sync(path.parent)
    except BaseException:
        # Its name may not be on the disk, so nobody may take it for kept.
        with suppress(OSError):
            path.unlink()
        raise


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = _open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _locked(lock: int) -> bool:
    """Lock it, if nobody else has."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_lock(lock: int) -> str:
    return os.pread(lock, 64, 0).decode("ascii", "replace").strip()


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


@contextmanager
def _storing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"cannot {what}: the disk is full") from error
        raise StoreError(f"cannot {what}: {error.strerror}") from error
