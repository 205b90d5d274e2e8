"""When work that takes too long is given to a second replica as well.

Dean and Barroso, "The Tail at Scale" (CACM 2013): ask a second replica once the first has
taken longer than the 95th percentile; whoever is first answers, and a copy that has not
begun is dropped. A budget keeps a model that is slow everywhere from being asked twice for
everything.
"""

from __future__ import annotations

from collections.abc import Iterable

from clipper.batching.load import Flight, ReplicaLoad

BUDGET = 0.03  # rows evaluated twice, of all rows
BURST = 2  # batches of the largest size that may be saved up
PERCENTILE = 0.95
PATIENCE = 0.002  # seconds over the expected time before anything is hedged


class Hedging:
    """Decides which flights to hedge; it sends nothing."""

    # State: rows that may be evaluated twice; the flights that were hedged already are
    # marked themselves.

    def __init__(self) -> None:
        self._tokens = 0.0

    def sent(self, rows: int, cap: int) -> None:
        """So many rows went out for the first time."""
        self._tokens = min(self._tokens + BUDGET * rows, float(max(1, BURST * cap)))

    def overdue(self, loads: Iterable[ReplicaLoad], now: float) -> list[Flight]:
        """Flights that should be hedged now; the budget is charged for them."""
        found = []
        for load in loads:
            for flight in load.flights:
                rows = flight.batch.rows
                if flight.hedged or _limit(flight) > now or rows > self._tokens:
                    continue
                self._tokens -= rows
                flight.hedged = True
                found.append(flight)
        return found

    def next_due(self, loads: Iterable[ReplicaLoad], now: float) -> float:
        """When the next flight will be overdue; infinity if none can be."""
        limits = (_limit(f) for load in loads for f in load.flights if not f.hedged)
        return min((limit for limit in limits if limit > now), default=float("inf"))


def _limit(flight: Flight) -> float:
    latency = flight.load.controller.latency
    if latency is None or not latency.known:
        return float("inf")
    return flight.due + max(PATIENCE, latency.residual(PERCENTILE))
