"""The queue that gives out work in the order of its deadlines."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from itertools import chain, count

from clipper.batching.job import Block, Job, Part, Slice, Work, waiting_rows

# Entries that are skipped when they come up are swept out when they are more than the rows
# that wait, and than so many.
_SWEEP = 64


class JobQueue:
    """Work in the order of deadlines, first come first served among equals.

    Nearly all jobs arrive in the order of their deadlines, because most share one SLO:
    those go to a deque. The few that come out of order go to a heap, and the next job is
    the earlier of the two heads.

    A job whose deadline changes is entered in the heap once more. Its ticket says which of
    its entries counts: that of the heap with this ticket, or that in the line where it has
    none. It keeps one for good, and so never stands in the line twice.
    """

    def __init__(self) -> None:
        # All mutable state. `rows` counts the rows that wait, of wanted jobs or not;
        # `_tail` is the deadline that the last in line had when it came.
        self._line: deque[Work] = deque()
        self._tail = float("-inf")
        self._heap: list[tuple[float, int, Work]] = []
        self._ticket = count(1)
        self.rows = 0

    def __repr__(self) -> str:
        return f"<JobQueue rows={self.rows} out_of_order={len(self._heap)}>"

    def push(self, work: Work) -> None:
        self.rows += work.rows
        ticket = 0
        if type(work) is Job:
            work.queue = self
            ticket = work.ticket
        line = self._line
        if not ticket and (not line or work.deadline >= self._tail):
            line.append(work)
            self._tail = work.deadline
        else:
            self._push_out_of_order(work)

    def moved(self, job: Job) -> None:
        """A job that waits here got another deadline: it is entered again at its new place,
        and its old entry is skipped when it comes up."""
        self._push_out_of_order(job)
        if len(self._line) + len(self._heap) > 2 * self.rows + _SWEEP:
            self._sweep()

    def _push_out_of_order(self, work: Work) -> None:
        ticket = next(self._ticket)
        if type(work) is Job:
            work.ticket = ticket
        heapq.heappush(self._heap, (work.deadline, ticket, work))

    def _sweep(self) -> None:
        self._line = deque(work for work in self._line if not self._is_old(work))
        self._heap = [entry for entry in self._heap if not self._is_old(entry[2], entry[1])]
        heapq.heapify(self._heap)

    def take(self, limit: int, max_bytes: int, now: float) -> tuple[list[Part], list[Work]]:
        """Up to `limit` rows in order, and the work that was dropped on the way because
        nobody wants it or its time is over. At least one row is taken if any is left."""
        taken: list[Part] = []
        dropped: list[Work] = []
        space = max_bytes
        if not self._heap:
            space -= self._take_line(taken, limit, max_bytes, now)
        room = limit - len(taken)
        while room > 0:
            work = self._head()
            if work is None:
                break
            if not work.wanted or work.expires <= now:
                self._pop(work)
                self.rows -= waiting_rows(work)
                dropped.append(work)
                continue
            part: Part
            if type(work) is Job:
                space -= len(work.payload)
                if taken and space < 0:
                    break
                self._pop(work)
                part = work
            else:
                assert type(work) is Block or type(work) is Slice
                if taken and space < work.row_bytes:
                    break
                part = self._cut(work, min(room, max(1, space // max(1, work.row_bytes))))
                space -= len(part.payload)
            self.rows -= part.rows
            room -= part.rows
            taken.append(part)
        return taken, dropped

    def _cut(self, head: Block | Slice, limit: int) -> Slice:
        """Up to `limit` rows of a piece of a block; the others keep its place."""
        if type(head) is Block:
            rest = head.rows - head.taken
            part = head.cut(min(limit, rest))
            if part.rows == rest:
                self._pop(head)
            return part
        assert type(head) is Slice
        if head.rows <= limit:
            self._pop(head)
            return head
        part, others = head.split(limit)
        if self._line and self._line[0] is head:
            self._line[0] = others
        else:
            deadline, ticket, _ = self._heap[0]
            self._heap[0] = (deadline, ticket, others)
        return part

    def _take_line(self, taken: list[Part], room: int, max_bytes: int, now: float) -> int:
        """Take the jobs that head the line while nothing about them is unusual, which
        is nearly always all of them; the bytes that were taken."""
        line, size = self._line, 0
        while line and len(taken) < room:
            work = line[0]
            # while nothing is in the heap, an old entry's job waits elsewhere or nowhere
            if type(work) is not Job or work.queue is not self:
                break
            size += len(work.payload)
            if not work.waiters or work.expires <= now or (size > max_bytes and taken):
                size -= len(work.payload)
                break
            line.popleft()
            work.queue = None
            taken.append(work)
        self.rows -= len(taken)
        return size

    def prune(self, now: float) -> list[Work]:
        """The work at the head that nobody wants or whose time is over, removed."""
        dropped: list[Work] = []
        while (work := self._head()) is not None:
            if work.wanted and work.expires > now:
                break
            self._pop(work)
            self.rows -= waiting_rows(work)
            dropped.append(work)
        return dropped

    @property
    def head(self) -> float:
        """The earliest deadline of what waits; infinity where nothing does."""
        if self._line and not self._heap:
            first = self._line[0]
            if type(first) is not Job or first.queue is self:
                return first.deadline
        work = self._head()
        return float("inf") if work is None else work.deadline

    def deadlines(self, limit: int) -> list[float]:
        """The deadlines of the first `limit` rows in order, one for each row."""
        out: list[float] = []
        for work in self._in_order():
            rows = waiting_rows(work)
            if rows == 1:
                out.append(work.deadline)
            else:
                out += [work.deadline] * min(rows, limit - len(out))
            if len(out) >= limit:
                break
        return out

    def by_source(self) -> Counter[object]:
        """The rows that wait, by who asks for them."""
        rows: Counter[object] = Counter()
        for work in self._in_order():
            rows[work.source] += waiting_rows(work)
        return rows

    def _in_order(self) -> Iterable[Work]:
        line = (work for work in self._line if not self._is_old(work))
        if not self._heap:
            return line
        heaped = (work for _, n, work in self._heap if not self._is_old(work, n))
        return sorted(chain(line, heaped), key=_deadline)

    def drain(self) -> list[Work]:
        """Everything that waits, removed."""
        out: list[Work] = []
        while (work := self._head()) is not None:
            self._pop(work)
            out.append(work)
        self.rows = 0
        return out

    def _head(self) -> Work | None:
        line, heap = self._line, self._heap
        while line and self._is_old(line[0]):
            line.popleft()
        while heap and self._is_old(heap[0][2], heap[0][1]):
            heapq.heappop(heap)
        if heap and (not line or heap[0][0] < line[0].deadline):
            return heap[0][2]
        return line[0] if line else None

    def _pop(self, head: Work) -> None:
        if self._line and self._line[0] is head:
            self._line.popleft()
        else:
            heapq.heappop(self._heap)
        if type(head) is Job:
            head.queue = None

    def _is_old(self, work: Work, ticket: int = 0) -> bool:
        """An entry whose job stands elsewhere by now, or was taken."""
        return type(work) is Job and (work.queue is not self or work.ticket != ticket)


def _deadline(work: Work) -> float:
    return work.deadline
