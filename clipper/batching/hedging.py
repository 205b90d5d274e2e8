"""Work that takes too long, given to a second replica as well.

Dean and Barroso, "The Tail at Scale" (CACM 2013): ask a second replica once the first has
taken longer than the 95th percentile; whoever is first answers, and a copy that was not
sent yet is dropped. A budget keeps a model that is slow everywhere from being asked twice
for everything.

Only rows that are alone are asked for twice. A batch is late because its worker stalls, or
because of one of its rows, and nobody can tell: a row that hangs would take the second
worker as well, and whose it was would still have to be found out at the cost of a third.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from clipper.batching.job import Part
from clipper.batching.load import Flight, ReplicaLoad

BUDGET = 0.03  # rows evaluated twice, of all rows
BURST = 2  # times the rows of the largest batch that may be saved up
PATIENCE = 0.002  # seconds over the expected time before anything is hedged


class Hedging:
    """Which flights to hedge, and which parts are in more than one. It sends nothing."""

    # State: rows that may yet be evaluated twice, hedged flights whose copy waits for a
    # replica, and the parts that are in two flights or more, with the number of these.

    def __init__(self) -> None:
        self._tokens = 0.0
        self.waiting: deque[Flight] = deque()
        self._copies: dict[Part, int] = {}

    def __len__(self) -> int:
        """Copied parts that are still in flight."""
        return len(self._copies)

    def sent(self, rows: int, cap: int) -> None:
        """So many rows went out for the first time."""
        self._tokens = min(self._tokens + BUDGET * rows, float(max(1, BURST * cap)))

    def watch(self, loads: Iterable[ReplicaLoad], now: float) -> None:
        """Let the flights wait for a second replica that take too long by now, as far as
        the budget goes."""
        for load in loads:
            for flight in load.flights:
                if self._tokens >= 1 and _may_be_copied(flight) and _limit(flight) <= now:
                    self._tokens -= 1
                    flight.hedged = True
                    self.waiting.append(flight)

    def next_due(self, loads: Iterable[ReplicaLoad], now: float) -> float:
        """When the next flight will be overdue; infinity if none can be."""
        flights = (f for load in loads for f in load.flights)
        limits = (_limit(flight) for flight in flights if _may_be_copied(flight))
        return min((limit for limit in limits if limit > now), default=float("inf"))

    # -- parts in several flights ---------------------------------------------------------

    def copied(self, parts: Iterable[Part]) -> None:
        """These went out once more."""
        for part in parts:
            self._copies[part] = self._copies.get(part, 1) + 1

    def land(self, part: Part) -> bool:
        """One flight of the part is over; true if another one still has it."""
        left = self._copies.pop(part, 1) - 1
        if left > 1:
            self._copies[part] = left
        return left > 0


def _may_be_copied(flight: Flight) -> bool:
    """One row, which has not ended a worker before: if it did, it would end two more."""
    return flight.rows == 1 and not flight.hedged and flight.suspicion is None


def _limit(flight: Flight) -> float:
    latency = flight.load.controller.latency
    if latency is None or not latency.known:
        return float("inf")
    return flight.due + max(PATIENCE, latency.spread)
