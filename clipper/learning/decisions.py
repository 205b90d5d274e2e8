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
from clipper.errors import ClipperError, Overloaded
from clipper.learning.chunks import Decision, decode_chunk, encode_chunk, to_decision
from clipper.selection.policy import Subject
from clipper.store.base import Chunk, FeedbackLog
from clipper.values import Output, RowError

if TYPE_CHECKING:
    from clipper.choosing import Choice

logger = logging.getLogger(__name__)

# Bound of the memory: half of it is given up at once, the older half.
MOST_BYTES = 64 * 1024 * 1024
_HALF = MOST_BYTES // 2
_OVERHEAD = 400  # bytes of one decision beside its output

# A chunk is written when it has this many decisions, or when it is this old.
CHUNK = 1000
CHUNK_SECONDS = 0.5
_UNWRITTEN = 8  # chunks on their way to the disk; beyond, decisions stay in memory only

_DECODED = 64  # chunks from the disk that are kept decoded
_ASKED = 10_000  # lookups that wait for the disk


_LOST = RowError("", "")


class Made(NamedTuple):
    """A decision as it is kept in memory. `outputs` is the output of a single query, a
    list for a batch, a panel, or a list of panels."""

    application: int
    choice: Choice
    subject: Subject
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
        # All mutable state: decisions of late and those before them, the bytes of the
        # former; what the next chunk will hold, whether it has a timer, chunks on their
        # way; chunks that were read; lookups that wait; counters.
        self._young: dict[int, Made | Output] = {}
        self._old: dict[int, Made | Output] = {}
        self._bytes = 0
        self._next: list[tuple[int, Made]] = []
        self._armed = False
        self._writing = 0
        self._decoded: OrderedDict[int, tuple[Chunk, Any]] = OrderedDict()
        self._asked: deque[tuple[int, int, Found]] = deque()
        self._reading = False
        self.written = 0
        self.written_bytes = 0
        self.lost = 0  # that could not be written

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __repr__(self) -> str:
        return f"<Decisions {len(self)} in memory, {self.written} written>"

    # -- keeping ------------------------------------------------------------------------

    def keep_output(self, nonce: int, output: Output) -> None:
        """Remember what a query of an application that always decides the same was
        answered: its query id says all the rest."""
        self._young[nonce] = output
        self._bytes += _OVERHEAD + (len(output) if type(output) is bytes else 0)
        if self._bytes > _HALF:
            self._turn()

    def keep(self, nonce: int, made: Made, size: int, durable: bool) -> None:
        """Remember a decision whose query id has this nonce. `size` is that of its outputs
        in bytes."""
        self._young[nonce] = made
        self._bytes += _OVERHEAD + size
        if self._bytes > _HALF:
            self._turn()
        if durable:
            self._next.append((nonce, made))
            if len(self._next) >= CHUNK:
                self.flush()
            elif not self._armed:
                self._armed = True
                self._call_later(CHUNK_SECONDS, self._due)

    def _turn(self) -> None:
        self._old, self._young, self._bytes = self._young, {}, 0

    def _due(self) -> None:
        self._armed = False
        self.flush()

    def flush(self) -> None:
        """Send what was decided to the disk."""
        decided, self._next = self._next, []
        if not decided:
            return
        if self._writing >= _UNWRITTEN:
            self._lose(len(decided))
            return
        self._writing += 1
        chunk = encode_chunk(decided, self._clock.wall())
        self._spawn(self._write(chunk, len(decided)))

    async def _write(self, chunk: Chunk, decisions: int) -> None:
        try:
            await self._log.put_chunk(chunk)
        except ClipperError:
            self._lose(decisions)
        else:
            self.written += decisions
            self.written_bytes += len(chunk.body)
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
        made = self._young.get(nonce, _LOST)
        if made is _LOST:
            made = self._old.get(nonce, _LOST)
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
        try:
            while self._asked:
                nonce, row, found = self._asked.popleft()
                try:
                    decision, error = await self._look_up(nonce, row), None
                except ClipperError as failed:
                    decision, error = None, failed
                try:
                    found(decision, error)
                except Exception:
                    logger.exception("who asked for a decision raised")
        finally:
            self._reading = False

    async def _look_up(self, nonce: int, row: int) -> Decision | None:
        decoded = next((d for c, d in self._decoded.values() if c.first <= nonce <= c.last),
                       None)  # fmt: skip
        if decoded is None:
            chunk = await self._log.chunk_of(nonce)
            if chunk is None:
                return None
            await asyncio.sleep(0)  # decoding takes a moment; queries go first
            decoded = decode_chunk(chunk)
            self._decoded[chunk.first] = (chunk, decoded)
            if len(self._decoded) > _DECODED:
                self._decoded.popitem(last=False)
        decision: Decision | None = decoded.find(nonce, row)
        return decision
