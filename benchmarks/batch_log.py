"""Every batch of a model, as its controller was told of them.

The server's own histograms are too coarse for a p99. A recorder stands between the
dispatcher and any controller and keeps what is recorded; it is registered among the
controllers under a name of its own, and a model deployed with that name.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from clipper.batching.controller import Backlog, BatchController, Plan
from clipper.batching.latency import LatencyModel
from clipper.batching.registry import CONTROLLERS

KEPT = 500_000  # batches, the latest


class BatchLog:
    """Sizes in rows and service times in seconds, of all replicas of one model."""

    def __init__(self) -> None:
        self.batches: deque[tuple[int, float]] = deque(maxlen=KEPT)

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.batches)

    @property
    def seconds(self) -> list[float]:
        return [seconds for _, seconds in self.batches]

    def clear(self) -> None:
        self.batches.clear()

    def register(self, controller: str) -> str:
        """The name under which `controller` now writes here."""
        make = CONTROLLERS[controller]
        name = f"recorded-{controller}-{id(self):x}"
        CONTROLLERS[name] = lambda objective, bound: Recorder(make(objective, bound), self)
        return name


class Recorder:
    """A controller that does what `inner` does."""

    def __init__(self, inner: BatchController, log: BatchLog) -> None:
        self._inner = inner
        self._log = log

    @property
    def objective(self) -> float:
        return self._inner.objective

    @objective.setter
    def objective(self, seconds: float) -> None:
        self._inner.objective = seconds

    @property
    def latency(self) -> LatencyModel | None:
        return self._inner.latency

    @property
    def cap(self) -> int:
        return self._inner.cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return self._inner.plan(now, backlog)

    def record(self, size: int, service_seconds: float) -> None:
        self._log.batches.append((size, service_seconds))
        self._inner.record(size, service_seconds)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the controller tells of itself."""
        return getattr(self._inner, name)
