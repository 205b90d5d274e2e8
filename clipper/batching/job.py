"""Work for one model: a job of one row, a block of many, a slice of a block in a batch.

Invariant: a row is settled exactly once, with an output or a RowError. Whoever waited may
raise or submit more work from inside that call; the others are told all the same.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Protocol

from clipper.values import Output, RowError

logger = logging.getLogger(__name__)

Shape = tuple[int, ...] | None

EXPIRED = RowError(
    "deadline_exceeded",
    "Failed to retrieve a prediction response within the specified latency SLO",
)


class Waiter(Protocol):
    """Who waits for a job: it is told once, unless it gave up before. `source` is on
    whose behalf it asks; only equality counts."""

    @property
    def source(self) -> object: ...

    def job_done(self, output: Output) -> None: ...


class JobOwner(Protocol):
    """Who made a job and keeps it among the jobs that later queries may join."""

    def job_settled(self, job: Job, output: Output) -> None: ...


class Line(Protocol):
    """Where a job waits in the order of deadlines."""

    def moved(self, job: Job) -> None: ...


class Part(Protocol):
    """A job, or a piece of a block, inside one batch."""

    @property
    def rows(self) -> int: ...

    @property
    def payload(self) -> bytes | memoryview: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def settled(self) -> bool: ...

    @property
    def wanted(self) -> bool: ...

    @property
    def deadline(self) -> float: ...

    @property
    def expires(self) -> float: ...

    def finish(self, outputs: Sequence[Output], at: int) -> None: ...

    def fail(self, error: RowError) -> None: ...


class Job:
    """One row waiting for one model.

    `deadline`, the earliest of its waiters', orders the queue; `expires`, the latest,
    ends its life. `key` is where the cache knows it, None when it is not cached.
    """

    # State beside that: who waits, by deadline, and these deadlines, None until there was a
    # second; the queue it waits in, which hears when its deadline changes, and its ticket
    # there, 0 unless it was out of order once (see JobQueue).

    __slots__ = (
        "_deadlines", "attempts", "deadline", "expires", "key", "owner", "payload", "queue",
        "settled", "shape", "ticket", "waiters",
    )  # fmt: skip

    rows = 1

    def __init__(
        self,
        payload: bytes,
        shape: Shape,
        deadline: float,
        waiter: Waiter,
        key: bytes | None = None,
        owner: JobOwner | None = None,
    ) -> None:
        self.payload = payload
        self.shape = shape
        self.deadline = self.expires = deadline
        self.key = key
        self.owner = owner
        self.waiters: list[Waiter] = [waiter]
        self._deadlines: list[float] | None = None
        self.attempts = 0  # times a worker died under it
        self.queue: Line | None = None
        self.ticket = 0
        self.settled = False

    def join(self, waiter: Waiter, deadline: float) -> bool:
        """Let one more query wait; true if that made the job more urgent."""
        deadlines, before = self._deadlines, self.deadline
        if deadlines is None:
            deadlines = self._deadlines = [before] * len(self.waiters)
        if deadlines and deadline >= self.expires:  # nearly always: it is the last to come
            deadlines.append(deadline)
            self.waiters.append(waiter)
            self.expires = deadline
            return False
        at = bisect_right(deadlines, deadline)
        deadlines.insert(at, deadline)
        self.waiters.insert(at, waiter)
        self._renew(deadlines)
        return self.deadline < before

    def leave(self, waiter: Waiter) -> None:
        """A waiter gave up. A job that nobody waits for is dropped when its turn comes,
        unless somebody joins before; one that runs already still fills the cache."""
        try:
            at = self.waiters.index(waiter)
        except ValueError:
            return
        del self.waiters[at]
        if self._deadlines is not None:
            del self._deadlines[at]
            self._renew(self._deadlines)

    def split(self, deadline: float) -> Job:
        """A job of all who wait until `deadline` at most; this one is left to the others,
        of whom there must be some. Nobody can join the new one."""
        deadlines = self._deadlines
        assert deadlines is not None, "one waiter cannot be split"
        at = bisect_right(deadlines, deadline)
        first = Job(self.payload, self.shape, deadline, self.waiters[0])
        first.waiters = self.waiters[:at]
        del self.waiters[:at], deadlines[:at]
        self._renew(deadlines)
        return first

    def _renew(self, deadlines: list[float]) -> None:
        """Others wait than before."""
        if not deadlines:
            return  # it keeps its place, and is dropped there
        self.expires = deadlines[-1]
        if deadlines[0] != self.deadline:
            self.deadline = deadlines[0]
            if self.queue is not None:
                self.queue.moved(self)

    @property
    def wanted(self) -> bool:
        return bool(self.waiters)

    @property
    def source(self) -> object:
        return self.waiters[0].source if self.waiters else None

    def finish(self, outputs: Sequence[Output], at: int) -> None:
        self.settle(outputs[at])

    def fail(self, error: RowError) -> None:
        self.settle(error)

    def settle(self, output: Output) -> None:
        assert not self.settled, "a job is settled exactly once"
        self.settled = True
        if self.owner is not None:
            self.owner.job_settled(self, output)
        waiters, self.waiters = self.waiters, []  # who is told may make others leave
        for waiter in waiters:
            try:
                waiter.job_done(output)
            except Exception:
                logger.exception("who waited for a job raised")


class BlockWaiter(Protocol):
    @property
    def source(self) -> object: ...

    def block_done(self, outputs: list[Output | None]) -> None: ...


class Block:
    """Many rows of one shape and one query, queued as one and cut to the batch size.

    Blocks exist because a Python object per row costs more than the row: they are what
    an input_batch becomes when its rows need no cache.
    """

    __slots__ = (
        "_left", "attempts", "deadline", "outputs", "payload", "row_bytes", "rows",
        "settled", "shape", "taken", "waiter",
    )  # fmt: skip

    key = None
    owner = None

    def __init__(
        self, payload: bytes, rows: int, shape: Shape, deadline: float, waiter: BlockWaiter
    ) -> None:
        self.payload = memoryview(payload)
        self.rows = rows
        self.row_bytes = len(payload) // rows
        self.shape = shape
        self.deadline = deadline
        self.waiter: BlockWaiter | None = waiter
        self.outputs: list[Output | None] = [None] * rows
        self.taken = 0
        self.attempts = 0
        self.settled = False
        self._left = rows

    @property
    def expires(self) -> float:
        return self.deadline

    @property
    def wanted(self) -> bool:
        return self.waiter is not None

    @property
    def source(self) -> object:
        return None if self.waiter is None else self.waiter.source

    def leave(self) -> None:
        self.waiter = None

    def cut(self, rows: int) -> Slice:
        """The next `rows` rows that no batch has taken yet."""
        start = self.taken
        self.taken += rows
        return Slice(self, start, rows)

    def fail(self, error: RowError) -> None:
        """Settle every row that no batch has taken."""
        rest = self.rows - self.taken
        if rest:
            self.cut(rest).fail(error)

    def fill(self, start: int, outputs: Sequence[Output]) -> None:
        assert self._left >= len(outputs), "a row is settled exactly once"
        self.outputs[start : start + len(outputs)] = outputs
        self._left -= len(outputs)
        if self._left == 0:
            self.settled = True
            waiter, self.waiter = self.waiter, None
            if waiter is not None:
                try:
                    waiter.block_done(self.outputs)
                except Exception:
                    logger.exception("who waited for a block raised")


class Slice:
    """Consecutive rows of a block inside one batch."""

    __slots__ = ("attempts", "block", "payload", "rows", "settled", "shape", "start")

    def __init__(self, block: Block, start: int, rows: int) -> None:
        size = block.row_bytes
        self.block = block
        self.start = start
        self.rows = rows
        self.payload = block.payload[start * size : (start + rows) * size]
        self.shape = block.shape
        self.attempts = 0
        self.settled = False

    @property
    def deadline(self) -> float:
        return self.block.deadline

    @property
    def expires(self) -> float:
        return self.block.deadline

    @property
    def wanted(self) -> bool:
        return self.block.wanted

    @property
    def source(self) -> object:
        return self.block.source

    @property
    def row_bytes(self) -> int:
        return self.block.row_bytes

    def split(self, rows: int) -> tuple[Slice, Slice]:
        """The first `rows` rows and the others, in place of this slice."""
        first = Slice(self.block, self.start, rows)
        rest = Slice(self.block, self.start + rows, self.rows - rows)
        first.attempts = rest.attempts = self.attempts
        return first, rest

    def finish(self, outputs: Sequence[Output], at: int) -> None:
        self._settle(outputs[at : at + self.rows])

    def fail(self, error: RowError) -> None:
        self._settle([error] * self.rows)

    def _settle(self, outputs: Sequence[Output]) -> None:
        assert not self.settled, "a row is settled exactly once"
        self.settled = True
        self.block.fill(self.start, outputs)


Work = Job | Block | Slice


def halves(parts: Sequence[Job | Slice]) -> tuple[list[Job | Slice], list[Job | Slice]]:
    """The first and the second half of the rows."""
    first: list[Job | Slice] = []
    rest = list(parts)
    room = sum(part.rows for part in parts) // 2
    while room:
        part = rest.pop(0)
        if part.rows > room:
            assert isinstance(part, Slice)
            part, other = part.split(room)
            rest.insert(0, other)
        first.append(part)
        room -= part.rows
    return first, rest


def singles(parts: Sequence[Job | Slice]) -> Iterator[Job | Slice]:
    """Each row as a part of its own."""
    for part in parts:
        while part.rows > 1:
            assert isinstance(part, Slice)
            row, part = part.split(1)
            yield row
        yield part


def waiting_rows(work: Work) -> int:
    """The rows of it that no batch has taken."""
    return work.rows - work.taken if type(work) is Block else work.rows
