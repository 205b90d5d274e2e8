"""Batches sized by the expected number of answers in time alone.

There is no cap to be learned step by step: the fitted line says how many rows fit the
objective, and the rule of triage.py how many of those that wait to take. Sizes that were
never run are approached by doubling, because the line is not known to hold there.
"""

from __future__ import annotations

from clipper.batching.controller import Backlog, Plan
from clipper.batching.latency import LatencyModel
from clipper.batching.triage import choose

EXPLORATION = 2  # times the largest batch that was ever run


class Goodput:
    """Expected-goodput controller. `objective` is in seconds per batch."""

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self.objective = objective
        self.latency = LatencyModel()  # all mutable state
        self.bound = max_batch_size

    @property
    def cap(self) -> int:
        latency = self.latency
        if not latency.known:
            return 1
        tried = min(self.bound, EXPLORATION * latency.largest)
        return latency.rows_within(self.objective - latency.spread, tried)

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return choose(self.latency, now, backlog, self.cap)

    def record(self, size: int, service_seconds: float) -> None:
        self.latency.record(size, service_seconds)
