"""The embedded store: one directory, one process, one SQLite file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from clipper.errors import StoreError
from clipper.records import State

from .base import Change
from .database import Database, Durability, Verify
from .directory import DataDirectory
from .faults import DamagedFile, damaged
from .feedback import Numbers, last_number
from .file import create, log_path
from .rows import encode
from .salvage import salvage
from .sqlite_log import SQLiteLog
from .tables import apply
from .writer import Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SQLiteStore(SQLiteLog):
    """The Store interface over a data directory, which is made if it is missing.

    With durability "full" an answered commit survives the loss of power, with "process"
    the death of the process (and the file stays whole in both). Records are written by
    one thread, blobs and secrets by another, so that a large blob delays no commit.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durability: Durability = "full",
        patience: float = 0.0,
        recover: bool = False,
    ) -> None:
        """`patience` is how many seconds open() waits for another process that has the
        directory. With `recover` it goes on with what can be read of a damaged file, which
        is put aside, and looks at every page first."""
        super().__init__()
        self._directory = DataDirectory(Path(data_dir).absolute(), patience)
        self._path = self._directory.path / "clipper.db"
        self._durability = durability
        self._recover = recover
        # All state: both threads while the store is open, the task that closes it.
        self._writer: Writer | None = None
        self._files: ThreadPoolExecutor | None = None
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> State:
        if self._writer is not None:
            raise StoreError("the store is already open")
        self._closing = None
        self._writer = Writer(self._begin, self._end)
        self._files = ThreadPoolExecutor(1, "clipper-files")
        try:
            return await self._writer.start()
        except BaseException:
            await self.close()
            raise

    async def verify(self) -> None:
        work = Verify()
        with suppress(StoreError):  # of another kind: the next change is told of it
            await self._open_writer().submit(work)
        if work.damage is not None:
            raise damaged(self._path, work.damage)

    async def commit(self, *changes: Change) -> None:
        await self._open_writer().submit(partial(apply, encode(changes)))

    async def put_blob(self, data: bytes) -> str:
        return await self._on_files(partial(self._directory.put_blob, data))

    async def get_blob(self, digest: str) -> bytes:
        """As in Store; also before open(), while another process has the directory: a blob
        never changes."""
        if self._files is None and self._closing is None:
            return await asyncio.to_thread(self._directory.get_blob, digest)
        return await self._on_files(partial(self._directory.get_blob, digest))

    async def delete_blobs(self, keep: set[str]) -> None:
        await self._on_files(partial(self._directory.delete_blobs, set(keep)))

    async def secret(self, name: str) -> bytes:
        return await self._on_files(partial(self._directory.secret, name))

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._directory.path} {self._writer or 'closed'}>"

    async def _close(self) -> None:
        """Blobs first: the lock is given up by the writer, as its last act."""
        files, self._files = self._files, None
        if files is not None:
            await asyncio.to_thread(files.shutdown)
        if self._writer is not None:
            await self._writer.stop()
            self._writer = None

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise StoreError("the store is closed")
        return self._writer

    async def _on_files(self, work: Callable[[], T]) -> T:
        if self._files is None:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    # -- on the writer's thread ------------------------------------------------------------

    def _begin(self) -> tuple[Database, State]:
        self._directory.acquire()
        try:
            database = self._open_whole() if self._recover else self._open_database()
        except BaseException:
            self._directory.release()
            raise
        try:
            state = database.read()
            self._numbers = Numbers(database.look(last_number))
            self._directory.mark_running()
        except OSError as error:
            self._end(database)
            raise StoreError(
                f"cannot write to {self._directory.path}: {error.strerror}"
            ) from error
        except BaseException:
            self._end(database)
            raise
        return database, state

    def _open_whole(self) -> Database:
        """The database, or else what can be read of it."""
        try:
            database = self._open_database()
            try:
                database.check_all()
                database.read()
            except BaseException:
                database.close()
                raise
        except DamagedFile as error:
            logger.error("%s", error)
            aside, lines = salvage(self._path)
            logger.warning("the damaged files are kept in %s", aside)
            for line in lines:
                logger.warning("recovered: %s", line)
            return Database(self._path, self._durability)
        return database

    def _open_database(self) -> Database:
        path = self._path
        log = log_path(path)
        if not path.exists():
            if self._directory.used or log.exists():
                raise StoreError(
                    f"{path} is missing though a server has used this directory; restore "
                    f"it from a backup, or move {path.parent} away to start empty"
                )
            create(path)
        elif self._directory.killed and not log.exists():
            missing = (
                f"{log} is missing though the last server was killed, and with it the last "
                "changes"
            )
            if not self._recover:
                raise StoreError(
                    f"{missing}; restore it, or start with --recover to go on without them"
                )
            logger.warning("%s", missing)
        return Database(path, self._durability)

    def _end(self, database: Database) -> None:
        """Fold the log into the file, and only then say that nothing is missing."""
        if database.checkpoint(at=0):
            self._mark_closed()
        database.close()
        if not log_path(database.path).exists():
            self._mark_closed()
        self._directory.release()

    def _mark_closed(self) -> None:
        try:
            self._directory.mark_closed()
        except OSError as error:
            logger.warning("cannot mark the store as closed: %s", error.strerror)
