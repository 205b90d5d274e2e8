"""A store that forgets: for `--ephemeral` and for tests."""

from __future__ import annotations

import hashlib
import secrets

from clipper.errors import StoreError
from clipper.records import State

from .base import Change
from .directory import SECRET_BYTES, check_digest, check_secret_name
from .memory_log import MemoryLog
from .rows import COUNTER, LAST_NUMBER, TABLES, Write, decode, encode, number_body


class MemoryStore(MemoryLog):
    """The Store interface over dictionaries. What it holds lives as long as the object:
    a closed store that is opened again has everything."""

    def __init__(self) -> None:
        super().__init__()
        # All state: the rows as they would lie on disk, blobs by digest, secrets by name.
        self._open = False
        self._tables: dict[str, dict[str, bytes]] = {table: {} for table in TABLES}
        self._blobs: dict[str, bytes] = {}
        self._secrets: dict[str, bytes] = {}

    async def open(self) -> State:
        if self._open:
            raise StoreError("the store is already open")
        state = decode(self._tables)
        self._open = True
        return state

    async def verify(self) -> None:
        self._check_open()

    async def commit(self, *changes: Change) -> None:
        self._check_open()
        self._apply(encode(changes))

    async def put_blob(self, data: bytes) -> str:
        self._check_open()
        digest = hashlib.sha256(data).hexdigest()
        self._blobs[digest] = bytes(data)
        return digest

    async def get_blob(self, digest: str) -> bytes:
        self._check_open()
        check_digest(digest)
        if digest not in self._blobs:
            raise StoreError(f"blob {digest} is not in the store")
        return self._blobs[digest]

    async def delete_blobs(self, keep: set[str]) -> None:
        self._check_open()
        for digest in self._blobs.keys() - keep:
            del self._blobs[digest]

    async def secret(self, name: str) -> bytes:
        self._check_open()
        check_secret_name(name)
        return self._secrets.setdefault(name, secrets.token_bytes(SECRET_BYTES))

    async def close(self) -> None:
        self._open = False

    def __repr__(self) -> str:
        rows = sum(map(len, self._tables.values()))
        state = "open" if self._open else "closed"
        return f"<MemoryStore {state} rows={rows} blobs={len(self._blobs)}>"

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError("the store is closed")

    def _apply(self, write: Write) -> None:
        for table, key, body in write.rows:
            if body is None:
                self._tables[table].pop(key, None)
            else:
                self._tables[table][key] = body
        counter = self._tables[COUNTER]
        if write.number > int(counter.get(LAST_NUMBER, b"0")):
            counter[LAST_NUMBER] = number_body(write.number)
