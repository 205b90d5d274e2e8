"""The interface of a store, and the changes it commits."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from clipper.records import ApplicationRecord, ModelRecord, State


class PutApplication(msgspec.Struct, frozen=True):
    record: ApplicationRecord


class DeleteApplication(msgspec.Struct, frozen=True):
    name: str


class PutModel(msgspec.Struct, frozen=True):
    record: ModelRecord


class DeleteModel(msgspec.Struct, frozen=True):
    name: str
    version: str


class SetCurrent(msgspec.Struct, frozen=True):
    """`version` None takes the model's current version away. `previous` is the whole
    history of earlier current versions, newest last, for rollback."""

    name: str
    version: str | None
    previous: list[str] = []


Change: TypeAlias = PutApplication | DeleteApplication | PutModel | DeleteModel | SetCurrent


class Store(Protocol):
    """Durable state of one server.

    A store is used from the event loop; blocking work happens on threads of its own. One
    contract suite (tests/store/contract.py) runs over every implementation.
    """

    async def open(self) -> State:
        """Open and read everything. Raises StoreError with a sentence that says what to
        do: the directory is taken, unwritable, corrupt, or written by a newer version."""
        ...

    async def commit(self, *changes: Change) -> None:
        """Apply the changes all or none; durable when it returns.

        Raises DiskFull when there is no room, StoreError after a write failed in a way
        that leaves the disk in doubt (the store then refuses all further commits until
        it is opened again; reading goes on).
        """
        ...

    async def put_blob(self, data: bytes) -> str:
        """Keep `data` durably; its sha256 in hexadecimal. Idempotent."""
        ...

    async def get_blob(self, digest: str) -> bytes:
        """The blob, checked against its digest. Raises StoreError if lost or damaged."""
        ...

    async def delete_blobs(self, keep: set[str]) -> None:
        """Drop every blob whose digest is not in `keep`."""
        ...

    async def secret(self, name: str) -> bytes:
        """32 random bytes, made at first use and the same ever after (keys, tokens)."""
        ...

    async def close(self) -> None:
        """Finish accepted commits, then release everything. Idempotent."""
        ...
