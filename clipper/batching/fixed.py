"""Batches of at most a set size; with size 1, no batching at all."""

from __future__ import annotations

from clipper.batching.controller import Backlog, Plan
from clipper.batching.latency import LatencyModel


class Fixed:
    """Takes what waits, up to `size` rows, whatever that costs in latency."""

    def __init__(self, objective: float, size: int) -> None:
        self.objective = objective
        self.latency = LatencyModel()
        self.bound = size

    @property
    def cap(self) -> int:
        return self.bound

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(0, self.bound)

    def record(self, size: int, service_seconds: float) -> None:
        self.latency.record(size, service_seconds)
