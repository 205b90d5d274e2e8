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

    # State: the two numbers, and since when they are no longer true, None if they are. They
    # are worked out when next asked for, but as of that time: what comes after a pause of
    # the event loop must not see the answers that wait in the sockets as late.

    __slots__ = ("changed", "earliest", "per_row")

    def __init__(self) -> None:
        self.earliest = _NEVER
        self.per_row = 0.0
        self.changed: float | None = None

    def renew(self, loads: Iterable[ReplicaLoad], way_back: float) -> None:
        """Say what is true since `changed`."""
        now, self.changed = self.changed, None
        assert now is not None
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
