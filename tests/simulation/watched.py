"""A controller that is looked at."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from clipper.batching.controller import Backlog, BatchController, Plan
from clipper.batching.latency import LatencyModel

if TYPE_CHECKING:
    from .invariants import Invariants


class Watched:
    """Does what the inner one does, and tells of its plans."""

    def __init__(self, inner: BatchController, watch: Invariants) -> None:
        self.inner = inner
        self.watch = watch

    def __deepcopy__(self, memo: Any) -> Watched:
        return Watched(deepcopy(self.inner, memo), self.watch)

    @property
    def objective(self) -> float:
        return self.inner.objective

    @objective.setter
    def objective(self, seconds: float) -> None:
        self.inner.objective = seconds

    @property
    def latency(self) -> LatencyModel | None:
        return self.inner.latency

    @property
    def bound(self) -> int:
        return self.inner.bound

    @property
    def cap(self) -> int:
        return self.inner.cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        plan = self.inner.plan(now, backlog)
        self.watch.planned(self, now, backlog, plan)
        return plan

    def record(self, size: int, service_seconds: float) -> None:
        self.inner.record(size, service_seconds)
        self.watch.expect(self.inner.cap >= 1, "a cap below one row")
