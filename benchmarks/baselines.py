"""Batch controllers that Clipper's own are compared with. They predict nothing: what
waits is given up when its deadline has passed, and not before."""

from __future__ import annotations

from clipper.batching.controller import Backlog, Plan
from clipper.batching.latency import LatencyModel

STEP = 2  # rows
BACKOFF = 0.9
EPSILON = 0.1  # of the objective


class PlainAIMD:
    """Text-book additive increase, multiplicative decrease of a cap that persists.

    A batch that filled the cap within the objective raises it by two rows, one that took
    longer cuts it by a tenth. It begins at one row.
    """

    latency: LatencyModel | None = None

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self.objective = objective
        self.bound = max_batch_size
        self._cap = 1  # all mutable state

    @property
    def cap(self) -> int:
        return self._cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(0, self._cap)

    def record(self, size: int, service_seconds: float) -> None:
        if service_seconds > self.objective:
            self._cap = max(1, int(self._cap * BACKOFF))
        elif size >= self._cap:
            self._cap = min(self.bound, self._cap + STEP)


class PaperAIMD:
    """AIMD as the prototype of Crankshaw et al., "Clipper" (NSDI 2017), was programmed.

    The next cap follows from the size that was really sent: two rows more if it took
    less than nine tenths of the objective, the same up to the objective, a tenth less
    past it. So one small batch at a quiet moment takes the cap down to its own size.
    """

    latency: LatencyModel | None = None

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self.objective = objective
        self.bound = max_batch_size
        self._cap = 1  # all mutable state

    @property
    def cap(self) -> int:
        return self._cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(0, self._cap)

    def record(self, size: int, service_seconds: float) -> None:
        if service_seconds < (1.0 - EPSILON) * self.objective:
            self._cap = min(self.bound, size + STEP)
        elif service_seconds < self.objective:
            self._cap = size
        else:
            self._cap = max(1, int(size * BACKOFF))
