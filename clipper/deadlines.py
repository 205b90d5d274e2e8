"""Deadlines of an application's queries, watched with one timer.

Queries with the application's own SLO expire in the order they came: a deque. The few
with a deadline of their own go to a heap. One timer, armed for the earlier head, serves
both; nothing is armed while nothing waits. Who is told that it expired may submit again
from inside that call, or raise; neither delays another.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

from clipper.clock import Clock
from clipper.values import RowError

logger = logging.getLogger(__name__)


class Expiring(Protocol):
    deadline: float
    settled: bool

    def expire(self, error: RowError = ...) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]

# Event loops tick in whole milliseconds and may fire a little early; the deadline is
# checked on wake-up, and a timer is never armed for less than this.
_TICK = 0.001

# Below this many entries sweeping is not worth its cost.
_SWEEP = 512


class Deadlines:
    """Expires queries at their deadlines."""

    def __init__(self, clock: Clock, call_later: CallLater) -> None:
        self._clock = clock
        self._call_later = call_later
        # All mutable state: queries in arrival order, those with deadlines of their
        # own, the armed timer and when it fires, and the length at which settled
        # queries are swept out (behind an unsettled head they would pile up for an SLO).
        self._line: deque[Expiring] = deque()
        self._heap: list[tuple[float, int, Expiring]] = []
        self._ticket = count()
        self._timer: Timer | None = None
        self._due = 0.0
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def watch(self, query: Expiring) -> None:
        """Expire the query at its deadline unless it is settled before."""
        line = self._line
        while line and line[0].settled:
            line.popleft()
        if not line or query.deadline >= line[-1].deadline:
            line.append(query)
        else:
            while self._heap and self._heap[0][2].settled:
                heapq.heappop(self._heap)
            heapq.heappush(self._heap, (query.deadline, next(self._ticket), query))
        if len(line) + len(self._heap) > self._sweep_at:
            self._sweep()
        if self._timer is None:
            self._arm(query.deadline)
        elif query.deadline < self._due:
            self._timer.cancel()
            self._arm(query.deadline)

    def close(self, error: RowError) -> None:
        """Expire everything at once with that error; for an application that is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = [*self._line, *(entry[2] for entry in self._heap)]
        self._line.clear()
        self._heap.clear()
        for query in waiting:
            if not query.settled:
                _expire(query, error)

    def _sweep(self) -> None:
        self._line = deque(query for query in self._line if not query.settled)
        self._heap = [entry for entry in self._heap if not entry[2].settled]
        heapq.heapify(self._heap)
        self._sweep_at = max(_SWEEP, 2 * len(self))

    def _arm(self, deadline: float) -> None:
        self._due = deadline
        delay = max(_TICK, deadline - self._clock.now())
        self._timer = self._call_later(delay, self._fire)

    def _fire(self) -> None:
        self._due = float("-inf")  # who submits again arms nothing until we are through
        now = self._clock.now()
        while (line := self._line) and (line[0].settled or line[0].deadline <= now):
            query = line.popleft()
            if not query.settled:
                _expire(query)
        while (heap := self._heap) and (heap[0][2].settled or heap[0][0] <= now):
            query = heapq.heappop(heap)[2]
            if not query.settled:
                _expire(query)
        self._timer = None
        line = self._line
        if line or heap:
            first = line[0].deadline if line else heap[0][0]
            self._arm(min(first, heap[0][0]) if heap else first)


def _expire(query: Expiring, *error: RowError) -> None:
    try:
        query.expire(*error)
    except Exception:
        logger.exception("who was told of a missed deadline raised")
