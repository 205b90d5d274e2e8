"""What was learned, in memory: for `--ephemeral` and for tests."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice, takewhile
from operator import attrgetter

from .base import (
    EVERY,
    AppendDone,
    Appended,
    Chunk,
    Entry,
    Learned,
    Logged,
    LogSize,
    Person,
    Snapshot,
)
from .checks import (
    check_chunk,
    check_entry,
    check_nonce,
    check_order,
    check_uid,
    check_user,
)

logger = logging.getLogger(__name__)

# Beyond these, what is oldest goes: entries of an application that are in its snapshot,
# keys of its entries that went, and chunks.
MOST_ENTRIES = 100_000
SLACK = 1_000  # entries that are dropped at once
MOST_KEYS = 500_000
MOST_CHUNK_BYTES = 64 * 1024 * 1024

_SEQ = attrgetter("seq")


class _Application:
    """The log and the states of one application."""

    def __init__(self) -> None:
        # All state: entries in order, their numbers by key; number and time of entries of
        # which only the key is left, in the order in which they went; the number of the
        # snapshot; each person's state with the number it was kept under.
        self.log: list[Logged] = []
        self.numbers: dict[str, int] = {}
        self.spent: dict[str, tuple[int, float]] = {}
        self.seq = 0
        self.states: dict[str | None, tuple[int, bytes]] = {}

    def add(self, seq: int, entry: Entry) -> int | Logged:
        key = entry.key
        if key is not None:
            if key in self.spent:
                first, at = self.spent[key]
                return Logged(first, Entry(entry.application, key, None, at, b""))
            earlier = self.numbers.setdefault(key, seq)
            if earlier != seq:
                return self.log[self._behind(earlier - 1)]
        self.log.append(Logged(seq, entry))
        return seq

    def of(self, key: str) -> Logged | None:
        seq = self.numbers.get(key)
        return None if seq is None else self.log[self._behind(seq - 1)]

    def after(self, seq: int, limit: int | None = None) -> list[Logged]:
        start = self._behind(seq)
        return self.log[start:] if limit is None else self.log[start : start + limit]

    def trim(self) -> None:
        """Drop the oldest entries beyond MOST_ENTRIES that are in the snapshot."""
        self.drop(min(len(self.log) - MOST_ENTRIES, self._behind(self.seq)))

    def drop_old(self, before: float) -> None:
        """Drop the entries in the snapshot up to the first that is not older."""
        old = takewhile(lambda logged: logged.entry.at < before, self.in_snapshot())
        self.drop(sum(1 for _ in old), keep_keys=False)

    def in_snapshot(self) -> Iterator[Logged]:
        return islice(self.log, self._behind(self.seq))

    def drop(self, count: int, keep_keys: bool = True) -> None:
        """Drop the oldest entries."""
        for seq, entry in self.log[: max(count, 0)]:
            if entry.key is not None:
                del self.numbers[entry.key]
                if keep_keys:
                    self.spent[entry.key] = seq, entry.at
        del self.log[: max(count, 0)]
        excess = len(self.spent) - MOST_KEYS
        for key in list(islice(self.spent, max(excess, 0))):
            del self.spent[key]

    def drop_keys(self, before: float) -> None:
        """Drop keys up to the first of an entry that is not older."""
        old = takewhile(lambda item: item[1][1] < before, self.spent.items())
        for key in [key for key, _ in old]:
            del self.spent[key]

    def forget(self, uid: str) -> None:
        self.states.pop(uid, None)
        for place, (seq, entry) in enumerate(self.log):
            if entry.uid == uid:
                self.log[place] = Logged(seq, entry._replace(uid=None))

    def _behind(self, seq: int) -> int:
        return bisect_right(self.log, seq, key=_SEQ)


class MemoryLog(ABC):
    """The FeedbackLog interface over dictionaries. An append is done when it returns and
    its `done` was called, except from within another's `done`, which ends first."""

    def __init__(self) -> None:
        # All state: applications by number, the newest number of an entry and of a chunk,
        # chunks by number and their bytes, appends that were not told yet, and whether
        # they are being told.
        self._applications: dict[int, _Application] = {}
        self._last = 0
        self._last_chunk = 0
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._chunk_bytes = 0
        self._untold: deque[tuple[AppendDone, Appended]] = deque()
        self._telling = False

    @abstractmethod
    def _check_open(self) -> None: ...

    def append(
        self, entries: Sequence[Entry], persons: Sequence[Person], done: AppendDone
    ) -> None:
        self._check_open()
        for person in persons:
            check_uid(person.uid)
        checked = [check_entry(entry) for entry in entries]
        outcomes = [self._add(entry) for entry in checked]
        for number in {entry.application for entry in checked}:
            application = self._applications[number]
            if len(application.log) >= MOST_ENTRIES + SLACK:
                application.trim()
        states = {person: self._state(person) for person in persons}
        self._untold.append((done, Appended(outcomes, states)))
        self._tell()

    async def learned(self, application: int, limit: int = EVERY) -> Learned:
        found = self._application(application)
        own = self._state(Person(application, None))
        return Learned(found.seq, own, found.after(found.seq, limit))

    async def state_of(self, person: Person) -> bytes | None:
        check_uid(person.uid)
        self._check_open()
        return self._state(person)

    async def uids(self, application: int, after: str | None, limit: int) -> list[str]:
        check_uid(after)
        states = self._application(application).states
        uids = [u for u in states if u is not None and (after is None or u > after)]
        return sorted(uids)[: max(limit, 0)]

    async def save(self, snapshot: Snapshot, most_persons: int) -> None:
        number, seq, states = snapshot
        found = self._application(number)
        for uid in states:
            check_uid(uid)
        check_order(snapshot, found.seq, self._last)
        found = self._applications.setdefault(number, found)
        found.states.update({uid: (seq, bytes(body)) for uid, body in states.items()})
        if None in states:
            found.seq = seq
            found.trim()
        users = sorted(
            (kept[0], uid) for uid, kept in found.states.items() if uid is not None
        )
        for _, uid in users[: max(len(users) - most_persons, 0)]:
            del found.states[uid]

    async def forget(self, person: Person) -> None:
        uid = check_user(person)
        self._application(person.application).forget(uid)

    async def entries(self, application: int, after: int, limit: int) -> list[Logged]:
        return self._application(application).after(after, max(limit, 0))

    async def entry_of(self, application: int, key: str) -> Logged | None:
        return self._application(application).of(key)

    async def put_chunk(self, chunk: Chunk) -> None:
        check_chunk(chunk)
        self._check_open()
        self._last_chunk += 1
        self._chunks[self._last_chunk] = chunk
        self._chunk_bytes += len(chunk.body)
        self._trim_chunks(MOST_CHUNK_BYTES)

    async def chunk_of(self, nonce: int) -> Chunk | None:
        check_nonce(nonce)
        self._check_open()
        newest_first = reversed(self._chunks.values())
        return next((c for c in newest_first if c.first <= nonce <= c.last), None)

    async def chunks(self, after: int, limit: int) -> list[tuple[int, Chunk]]:
        self._check_open()
        found = (
            (number, chunk) for number, chunk in self._chunks.items() if number > after
        )
        return list(islice(found, max(limit, 0)))

    async def prune_decisions(self, before: float, most_bytes: int) -> None:
        self._check_open()
        for number in [n for n, chunk in self._chunks.items() if chunk.at < before]:
            self._drop_chunk(number)
        self._trim_chunks(most_bytes)

    async def prune_entries(
        self, before: float, most_bytes: int, keys_before: float
    ) -> None:
        self._check_open()
        for application in self._applications.values():
            application.drop_old(before)
        self._trim_entries(most_bytes)
        for application in self._applications.values():
            application.drop_keys(keys_before)

    async def applications(self) -> list[int]:
        self._check_open()
        return sorted(self._applications)

    async def drop(self, application: int) -> None:
        self._check_open()
        self._applications.pop(application, None)

    async def size(self, application: int) -> LogSize:
        found = self._application(application)
        return LogSize(
            len(found.log),
            sum(len(entry.body) for _, entry in found.log),
            len(found.states.keys() - {None}),
            len(self._chunks),
            self._chunk_bytes,
        )

    def _application(self, number: int) -> _Application:
        """What is kept of an application, which may be nothing."""
        self._check_open()
        return self._applications.get(number) or _Application()

    def _add(self, entry: Entry) -> int | Logged:
        self._last += 1
        application = self._applications.setdefault(entry.application, _Application())
        return application.add(self._last, entry)

    def _state(self, person: Person) -> bytes | None:
        application = self._applications.get(person.application)
        kept = application and application.states.get(person.uid)
        return kept[1] if kept else None

    def _tell(self) -> None:
        if self._telling:
            return
        self._telling = True
        try:
            while self._untold:
                done, appended = self._untold.popleft()
                try:
                    done(appended, None)
                except Exception:
                    logger.exception("who was told of an append raised")
        finally:
            self._telling = False

    def _trim_entries(self, most_bytes: int) -> None:
        applications = self._applications.values()
        size = sum(len(e.body) for found in applications for _, e in found.log)
        counts: Counter[int] = Counter()
        for _, entry in merge(*(found.in_snapshot() for found in applications)):
            if size <= most_bytes:
                break
            size -= len(entry.body)
            counts[entry.application] += 1
        for number, count in counts.items():
            self._applications[number].drop(count)

    def _trim_chunks(self, most_bytes: int) -> None:
        while self._chunk_bytes > most_bytes:
            self._drop_chunk(next(iter(self._chunks)))

    def _drop_chunk(self, number: int) -> None:
        self._chunk_bytes -= len(self._chunks.pop(number).body)
