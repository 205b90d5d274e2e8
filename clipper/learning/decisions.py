"""What was decided lately: the memory that feedback by query id is joined with.

Nothing here delays an answer. Decisions are kept in memory under the nonces of their query
ids, and those of applications that learn go to the disk in chunks soon after. Where the
last of them was lost with the process, a query id alone still tells arm and propensity.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from clipper.clock import Clock
from clipper.errors import ClipperError, Overloaded, StoreError
from clipper.learning.chunks import (
    CHUNK_BYTES,
    Decision,
    DecodedChunk,
    decode_chunk,
    encode_chunks,
    to_decision,
)
from clipper.store.base import Chunk, FeedbackLog
from clipper.values import Output, RowError

if TYPE_CHECKING:
    from clipper.choosing import Choice

logger = logging.getLogger(__name__)

# Bound of the memory. It is given up in parts, the oldest first: to free half of it at once
# held the loop for some ten milliseconds.
MOST_BYTES = 64 * 1024 * 1024
_PART = MOST_BYTES // 16
_OVERHEAD = 400  # bytes of one decision beside what follows
_CHOICE = 1000  # of a choice, which many decisions may share
_PANEL = 1000  # of a panel beside its members' outputs
_ROW = 100  # of one row of a batch beside its output

# A chunk is written when it has this many decisions, or CHUNK_BYTES, or when it is this
# old.
CHUNK = 1000
CHUNK_SECONDS = 0.5
_UNWRITTEN = 8  # chunks on their way to the disk; beyond, decisions stay in memory only

# Chunks from the disk that are kept decoded: how many, and of how many bytes as written.
_DECODED = 64
_DECODED_BYTES = 16 * 1024 * 1024
_ASKED = 10_000  # lookups that wait for the disk
_AT_ONCE = 50  # lookups in one turn of the loop, where the disk is not needed


_LOST = RowError("", "")


class Made(NamedTuple):
    """A decision as it is kept in memory. `context` is the query's own, encoded, where the
    policy made nothing of it. `outputs` is the output of a single query, a list for a
    batch, a panel, or a list of panels."""

    application: int
    choice: Choice
    uid: str | None
    context: bytes | None
    outputs: Any


# Told a decision, or the bare output where the query id says the rest; None if it is lost.
Found: TypeAlias = Callable[[Decision | Output | None, ClipperError | None], None]


class Decisions:
    """Decisions of all applications, by nonce."""

    def __init__(
        self,
        log: FeedbackLog,
        clock: Clock,
        call_later: Callable[[float, Callable[[], None]], object],
        spawn: Callable[[Any], object],
    ) -> None:
        self._log = log
        self._clock = clock
        self._call_later = call_later
        self._spawn = spawn
        # All mutable state: the newest decisions, their bytes and how many parts there were
        # before them; the parts that are still kept, with their bytes, and those of all;
        # what the next chunk will hold, its bytes, whether it has a timer, chunks on their
        # way; chunks that were read; lookups that wait; counters.
        self._newest: dict[int, Made | Output] = {}
        self._bytes = 0
        self._age = 1
        self._older: deque[tuple[dict[int, Made | Output], int]] = deque()
        self._older_bytes = 0
        self._next: list[Made] = []
        self._next_nonces: list[int] = []
        self._next_bytes = 0
        self._armed = False
        self._writing = 0
        self._decoded: OrderedDict[int, tuple[Chunk, DecodedChunk]] = OrderedDict()
        self._asked: deque[tuple[int, int, Found]] = deque()
        self._reading = False
        self.written = 0
        self.written_bytes = 0
        self.lost = 0  # that could not be written

    def __len__(self) -> int:
        return len(self._newest) + sum([len(part) for part, _ in self._older])

    def __repr__(self) -> str:
        return f"<Decisions {len(self)} in memory, {self.written} written>"

    # -- keeping ------------------------------------------------------------------------

    def keep_output(self, nonce: int, output: Output) -> None:
        """Remember what a query of an application that always decides the same was
        answered: its query id says all the rest."""
        self._newest[nonce] = output
        self._bytes += _OVERHEAD + _size_of(output)
        if self._bytes > _PART:
            self._turn()

    def keep(self, nonce: int, made: Made, durable: bool) -> None:
        """Remember a decision whose query id has this nonce; `durable`, on disk as well."""
        self._newest[nonce] = made
        choice, output = made.choice, made.outputs
        size = _OVERHEAD + (len(output) if type(output) is bytes else _size_of(output))
        if choice.features is not None:
            size += len(choice.features)
        elif made.context is not None:
            size += len(made.context)
        if choice.age != self._age:
            choice.age = self._age
            self._bytes += _CHOICE
        self._bytes += size
        if self._bytes > _PART:
            self._turn()
        if durable:
            self._next.append(made)
            self._next_nonces.append(nonce)
            self._next_bytes += size
            if self._next_bytes >= CHUNK_BYTES or len(self._next) >= CHUNK:
                self.flush()
            elif not self._armed:
                self._armed = True
                self._call_later(CHUNK_SECONDS, self._due)

    def _turn(self) -> None:
        """The newest are a part of their own; the oldest make room for those to come."""
        self._older.append((self._newest, self._bytes))
        self._older_bytes += self._bytes
        self._newest, self._bytes = {}, 0
        self._age += 1
        while len(self._older) > 1 and self._older_bytes > MOST_BYTES - _PART:
            self._older_bytes -= self._older.popleft()[1]

    def _due(self) -> None:
        self._armed = False
        self.flush()

    def flush(self) -> None:
        """Send what was decided to the disk."""
        decided, nonces = self._next, self._next_nonces
        self._next, self._next_nonces, self._next_bytes = [], [], 0
        if not decided:
            return
        if self._writing >= _UNWRITTEN:
            self._lose(len(decided))
            return
        self._writing += 1
        self._spawn(self._write(nonces, decided, self._clock.wall()))

    async def _write(self, nonces: list[int], decided: list[Made], at: float) -> None:
        try:
            for chunk in encode_chunks(nonces, decided, at):
                await self._log.put_chunk(chunk)
                self.written_bytes += len(chunk.body)
                await asyncio.sleep(0)  # encoding the next takes a moment; queries go first
        except ClipperError:
            self._lose(len(decided))
        except Exception:
            logger.exception("decisions cannot be encoded")
            self._lose(len(decided))
        else:
            self.written += len(decided)
        finally:
            self._writing -= 1

    def _lose(self, decisions: int) -> None:
        if not self.lost:
            logger.warning("decisions are not written to the disk; feedback by label on "
                           "them will need their input after a restart")  # fmt: skip
        self.lost += decisions

    # -- finding ------------------------------------------------------------------------

    def find(self, nonce: int, row: int, durable: bool, found: Found) -> None:
        """Tell the decision of a query id, or None if it is lost; at once if it is in
        memory, else when the disk was asked (`durable`: it may be there). Raises
        Overloaded if too many wait for that."""
        made = self._newest.get(nonce, _LOST)
        if made is _LOST:
            parts = reversed(self._older)
            made = next((part[nonce] for part, _ in parts if nonce in part), _LOST)
        if isinstance(made, Made):
            found(to_decision(made, row), None)
        elif made is not _LOST:
            found(None if row else made, None)
        elif not durable:
            found(None, None)
        elif len(self._asked) >= _ASKED:
            raise Overloaded("too much feedback waits for decisions from the disk")
        else:
            self._asked.append((nonce, row, found))
            if not self._reading:
                self._reading = True
                self._spawn(self._read())

    async def _read(self) -> None:
        """Serve the lookups, one after another: they often meet in one chunk."""
        served = 0
        try:
            while self._asked:
                served += 1
                if served % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                nonce, row, found = self._asked.popleft()
                error: ClipperError | None
                try:
                    decision, error = await self._look_up(nonce, row), None
                except ClipperError as failed:
                    decision, error = None, failed
                except Exception as failed:
                    logger.exception("a chunk of decisions makes no sense")
                    decision, error = None, StoreError(f"a decision is damaged: {failed}")
                try:
                    found(decision, error)
                except Exception:
                    logger.exception("who asked for a decision raised")
        finally:
            self._reading = False

    async def _look_up(self, nonce: int, row: int) -> Decision | None:
        decoded = await self._chunk(nonce)
        part = None if decoded is None else decoded.elsewhere(nonce, row)
        if part is not None:
            decoded = await self._chunk(part)
        return None if decoded is None else decoded.find(nonce, row)

    async def _chunk(self, number: int) -> DecodedChunk | None:
        """The chunk that may hold a nonce, or that is kept under the number of a part."""
        for chunk, decoded in self._decoded.values():
            if chunk.first <= number <= chunk.last:
                return decoded
        found = await self._log.chunk_of(number)
        if found is None:
            return None
        await asyncio.sleep(0)  # decoding takes a moment; queries go first
        decoded = decode_chunk(found)
        self._decoded[found.first] = (found, decoded)
        held = sum([len(kept.body) for kept, _ in self._decoded.values()])
        while len(self._decoded) > _DECODED or held > _DECODED_BYTES:
            _, (oldest, _) = self._decoded.popitem(last=False)
            held -= len(oldest.body)
        return decoded


def _size_of(output: Any) -> int:
    """Bytes in memory, about."""
    kind = type(output)
    if kind is bytes or kind is str:
        return len(output)
    if kind is list:
        return sum([_ROW + _size_of(row) for row in output])
    texts = getattr(output, "texts", None)
    if texts is None:
        return 0  # an error, which many share
    return _PANEL + sum([len(text) for text in texts if text is not None])
