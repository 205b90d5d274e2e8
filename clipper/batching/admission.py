"""Whether a row that comes now could be answered in time."""

from __future__ import annotations

from collections.abc import Iterable

from clipper.batching.load import ReplicaLoad

_NEVER, _ALWAYS = float("-inf"), float("inf")


class Admission:
    """A row with so many others before it is answered at about

        earliest + rows * per_row

    seconds on the dispatcher's clock: when the next replica is free, and a batch of one
    row and the way back are over, and then at the best rate of all replicas together. A
    row that has less time than that is refused when it comes. Nothing is refused while a
    replica is idle, or where a replica's speed is not known.
    """

    # State: the two numbers, and whether a replica was given or answered a batch since.

    __slots__ = ("earliest", "per_row", "stale")

    def __init__(self) -> None:
        self.earliest = _NEVER
        self.per_row = 0.0
        self.stale = False

    def open(self) -> None:
        """A replica is idle."""
        self.stale = False
        self.earliest = _NEVER

    def renew(self, now: float, loads: Iterable[ReplicaLoad], way_back: float) -> None:
        self.stale = False
        self.earliest = _NEVER
        soonest, rate = _ALWAYS, 0.0
        for load in loads:
            latency = load.controller.latency
            if not load.flights or latency is None or not latency.known:
                return
            finish = load.start(now) + latency.fixed + latency.per_row
            if finish < soonest:
                soonest = finish
            rate += load.rate
        if rate > 0.0:
            self.earliest = soonest + way_back
            self.per_row = 1.0 / rate
