"""The interface of a store: the changes it commits, and the log that learning folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

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


class Entry(NamedTuple):
    """One entry for the feedback log. `key` makes it unique within its application; an
    entry without one is unlike any other. `body` is JSON. Duplicates leave gaps in the
    numbers of the log."""

    application: int
    key: str | None
    uid: str | None
    at: float  # seconds since the epoch, kept exactly from 2004, before to 2**-22 s
    body: bytes


class Logged(NamedTuple):
    """An entry of the feedback log as it is kept."""

    seq: int
    entry: Entry


class Person(NamedTuple):
    """Whose state it is; the uid None is the application's own."""

    application: int
    uid: str | None


class Appended(NamedTuple):
    """What became of an append: for each entry its number in the log, or, for a
    duplicate, the entry that was there before, without body and uid if nothing but its key
    is left; and the kept states that were asked for, None for a person who has none."""

    entries: list[int | Logged]
    states: dict[Person, bytes | None]


class Snapshot(NamedTuple):
    """States to keep: those of persons of an application that changed since the last
    snapshot, as they are after entry `seq`. It is the application's own state (uid None)
    that makes a snapshot the last one; users' states may be kept before it in slices."""

    application: int
    seq: int
    states: Mapping[str | None, bytes]  # by uid


class Learned(NamedTuple):
    """What is kept of one application's learning: the snapshot's number, the application's
    own state (None before the first snapshot), and the entries after it."""

    seq: int
    state: bytes | None
    entries: list[Logged]


class Chunk(NamedTuple):
    """Decisions whose nonces lie between two numbers, both included."""

    first: int
    last: int
    at: float  # seconds since the epoch, of the newest
    body: bytes


class LogSize(NamedTuple):
    """How much the logs hold of one application (feedback) and of all (decisions)."""

    entries: int
    entry_bytes: int
    persons: int
    chunks: int
    chunk_bytes: int


EVERY = 2**62  # entry there is: no log has so many

# Told on the loop, in the order of the appends: what became of one, or why it failed.
AppendDone: TypeAlias = Callable[[Appended | None, Exception | None], None]


class FeedbackLog(Protocol):
    """The part of a store that learning needs."""

    def append(
        self, entries: Sequence[Entry], persons: Sequence[Person], done: AppendDone
    ) -> None:
        """Add entries to the feedback log, all or none, and read the kept states of
        `persons`. `done` is called once it is durable, in the order of the appends and
        before anything later is acknowledged; a store in memory calls it at once, before
        this returns. Raises InvalidInput for an entry that is no text, Overloaded if too
        much waits for the disk, StoreError if the store is closed; `done` gets DiskFull or
        StoreError."""
        ...

    async def learned(self, application: int, limit: int = EVERY) -> Learned:
        """What the state of an application follows from, with at most `limit` of the
        entries after the snapshot: fewer are all."""
        ...

    async def state_of(self, person: Person) -> bytes | None:
        """A kept state, as of the application's last snapshot."""
        ...

    async def uids(self, application: int, after: str | None, limit: int) -> list[str]:
        """At most `limit` users with a kept state, in the order of their code points, from
        behind `after`, None: from the first."""
        ...

    async def save(self, snapshot: Snapshot, most_persons: int) -> None:
        """Keep a snapshot, all or none, and no more than `most_persons` users: those whose
        state is oldest go. Raises StoreError for an own state from before the last
        snapshot, or a number that the log has not reached."""
        ...

    async def forget(self, person: Person) -> None:
        """Take a user's kept state away and the uid out of every entry of the log. Looks
        at all of an application's entries, in pieces; what was done stays done if it
        fails in the middle."""
        ...

    async def entries(self, application: int, after: int, limit: int) -> list[Logged]:
        """At most `limit` entries in order, from behind number `after`. Fewer are the last
        ones."""
        ...

    async def entry_of(self, application: int, key: str) -> Logged | None:
        """The entry of a key, unless nothing but the key is left."""
        ...

    async def put_chunk(self, chunk: Chunk) -> None:
        """Keep decisions."""
        ...

    async def chunk_of(self, nonce: int) -> Chunk | None:
        """The newest chunk that may hold a nonce."""
        ...

    async def chunks(self, after: int, limit: int) -> list[tuple[int, Chunk]]:
        """At most `limit` chunks in the order they were kept, each with its number, from
        behind number `after`."""
        ...

    async def prune_decisions(self, before: float, most_bytes: int) -> None:
        """Drop decisions older than `before` (seconds since the epoch), and the oldest ones
        beyond `most_bytes`. In pieces, as `drop`."""
        ...

    async def prune_entries(
        self, before: float, most_bytes: int, keys_before: float
    ) -> None:
        """Drop entries of the feedback log that are in the snapshot of their application:
        those older than `before`, up to the first that is not, and of all applications
        together the oldest beyond `most_bytes` of bodies. The key of an entry of no earlier
        than `keys_before` is not taken again until then. In pieces, as `drop`."""
        ...

    async def applications(self) -> list[int]:
        """The applications that have entries or kept states, in order."""
        ...

    async def drop(self, application: int) -> None:
        """Drop the log and the states of an application that was deleted. To be repeated
        if the server ended in the middle."""
        ...

    async def size(self, application: int) -> LogSize:
        """Looks at every entry of the application, in pieces: a second for some million."""
        ...


class Store(FeedbackLog, Protocol):
    """Durable state of one server.

    A store is used from the event loop; blocking work happens on threads of its own. One
    contract suite (tests/store/contract.py) runs over every implementation.
    """

    async def open(self) -> State:
        """Open and read everything. Raises StoreError with a sentence that says what to
        do: the directory is taken, unwritable, corrupt, or written by a newer version."""
        ...

    async def verify(self) -> None:
        """Look over everything that `open` left for later; changes wait until it is done.
        Raises StoreError, with what to do, for damage, after which nothing is written."""
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
