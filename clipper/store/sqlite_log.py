"""What was learned, over the writer of the SQLite file: every long task in pieces, so
that commits and appends go in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from . import decisions, feedback, spent, states
from .base import (
    EVERY,
    AppendDone,
    Chunk,
    Entry,
    Learned,
    Logged,
    LogSize,
    Person,
    Snapshot,
)
from .checks import check_chunk, check_nonce, check_uid, check_user
from .database import Read, Work
from .feedback import FORGET_PIECE, PIECE, Append, Numbers
from .log_rows import kept, who
from .writer import Writer


class SQLiteLog(ABC):
    """The FeedbackLog interface; the store brings the writer."""

    def __init__(self) -> None:
        # All state: who gives the entries their numbers, set when the file was opened.
        self._numbers = Numbers(0)

    @abstractmethod
    def _open_writer(self) -> Writer:
        """The writer. Raises StoreError if the store is closed."""

    def append(
        self, entries: Sequence[Entry], persons: Sequence[Person], done: AppendDone
    ) -> None:
        writer = self._open_writer()
        work = Append(self._numbers, entries, persons)
        writer.tell(work, done, work.size)

    async def learned(self, application: int, limit: int = EVERY) -> Learned:
        while True:
            own, entries = await self._read(partial(_read_learned, application, limit))
            if await self._read_rest(application, own.seq, entries, limit):
                return Learned(own.seq, own.state, entries)

    async def _read_rest(
        self, application: int, seq: int, entries: list[Logged], limit: int
    ) -> bool:
        """Add the entries that follow. False if another snapshot was kept meanwhile."""
        while entries and (left := limit - len(entries)) > 0:
            after = entries[-1].seq
            now, found = await self._read(partial(_read_on, application, after, left))
            if now != seq:
                return False
            if not found:
                break
            entries += found
        return True

    async def state_of(self, person: Person) -> bytes | None:
        check_uid(person.uid)
        found = await self._read(partial(states.read_states, [person]))
        state: bytes | None = found.get(person)
        return state

    async def uids(self, application: int, after: str | None, limit: int) -> list[str]:
        check_uid(after)
        uids: list[str] = []
        behind = who(after)
        while (left := limit - len(uids)) > 0:
            piece = min(left, PIECE)
            found = await self._read(partial(states.read_uids, application, behind, piece))
            uids += found
            if len(found) < piece:
                break
            behind = who(found[-1])
        return uids

    async def save(self, snapshot: Snapshot, most_persons: int) -> None:
        for uid in snapshot.states:
            check_uid(uid)
        copy = snapshot._replace(states=dict(snapshot.states))

        def write(connection: Any) -> None:
            states.write_snapshot(copy, most_persons, self._numbers.last, connection)

        await self._open_writer().submit(write)

    async def forget(self, person: Person) -> None:
        application, uid = person.application, kept(check_user(person))
        await self._write(partial(states.forget_state, person))
        oldest, newest = await self._read(partial(feedback.read_range, application))
        for start in range(oldest, newest + 1, FORGET_PIECE):
            stop = start + FORGET_PIECE
            await self._write(partial(feedback.forget_uid, application, uid, start, stop))

    async def entries(self, application: int, after: int, limit: int) -> list[Logged]:
        entries: list[Logged] = []
        while (left := limit - len(entries)) > 0:
            found = await self._read(partial(feedback.read_page, application, after, left))
            if not found:
                break
            entries += found
            after = found[-1].seq
        return entries

    async def entry_of(self, application: int, key: str) -> Logged | None:
        found: Logged | None = await self._read(
            partial(feedback.read_by_key, application, key)
        )
        return found

    async def put_chunk(self, chunk: Chunk) -> None:
        check_chunk(chunk)
        await self._write(partial(decisions.write_chunk, chunk))

    async def chunk_of(self, nonce: int) -> Chunk | None:
        check_nonce(nonce)
        chunk: Chunk | None = await self._read(partial(decisions.read_chunk_of, nonce))
        return chunk

    async def chunks(self, after: int, limit: int) -> list[tuple[int, Chunk]]:
        chunks: list[tuple[int, Chunk]] = []
        while (left := limit - len(chunks)) > 0:
            found = await self._read(partial(decisions.read_chunks, after, left))
            if not found:
                break
            chunks += found
            after = found[-1][0]
        return chunks

    async def prune_decisions(self, before: float, most_bytes: int) -> None:
        await self._repeat(partial(decisions.prune_old, before))
        await self._repeat(partial(decisions.prune_beyond, most_bytes))

    async def prune_entries(
        self, before: float, most_bytes: int, keys_before: float
    ) -> None:
        for application in await self._read(states.read_applications):
            await self._repeat(partial(feedback.prune_piece, application, before))
        await self._repeat(partial(feedback.prune_beyond, most_bytes, keys_before))
        await self._repeat(partial(spent.prune_keys, keys_before))

    async def applications(self) -> list[int]:
        found: list[int] = await self._read(states.read_all_applications)
        return found

    async def drop(self, application: int) -> None:
        await self._repeat(partial(feedback.drop_piece, application))
        await self._repeat(partial(spent.drop_keys, application))
        await self._repeat(partial(states.drop_states, application, PIECE))

    async def size(self, application: int) -> LogSize:
        entries = entry_bytes = after = 0
        while True:
            count, size, after = await self._read(
                partial(feedback.count_piece, application, after)
            )
            if not count:
                break
            entries += count
            entry_bytes += size
        persons = await self._read(partial(states.count_persons, application))
        chunks = await self._read(decisions.count_chunks)
        return LogSize(entries, entry_bytes, persons, *chunks)

    async def _read(self, work: Work) -> Any:
        return await self._open_writer().submit(Read(work))

    async def _write(self, work: Work) -> Any:
        return await self._open_writer().submit(work)

    async def _repeat(self, work: Work) -> None:
        while await self._write(work):
            pass


def _read_learned(
    application: int, limit: int, connection: Any
) -> tuple[states.Own, list[Logged]]:
    own = states.read_own(application, connection)
    return own, feedback.read_page(application, own.seq, limit, connection)


def _read_on(
    application: int, after: int, limit: int, connection: Any
) -> tuple[int, list[Logged]]:
    found = feedback.read_page(application, after, limit, connection)
    return states.own_seq(application, connection), found
