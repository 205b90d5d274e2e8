"""Batch sizes by quantile regression, the other strategy of the Clipper paper.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3.1: fit the 99th percentile of the
latency as a line over the batch size, and take the size at which it meets the objective.
The paper's prototype fitted once, to samples gathered by AIMD; here the fit is renewed
from the latest samples as they come.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from clipper.batching.aimd import AIMD
from clipper.batching.controller import Backlog, Plan
from clipper.batching.latency import LatencyModel

SAMPLES = 500  # batches that a fit looks at
FIRST = 100  # batches before the first one; until then AIMD gathers them
RENEWAL = 100  # batches between fits
QUANTILE = 0.99
ROUNDS = 30


class QuantileRegression:
    """`objective` is in seconds per batch."""

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self._aimd = AIMD(objective, max_batch_size)
        self.bound = max_batch_size
        # All mutable state beside AIMD's: the latest (rows, seconds), batches until the
        # next fit, and the line of the last one, (seconds per row, seconds), if any.
        self._samples: deque[tuple[int, float]] = deque(maxlen=SAMPLES)
        self._due = FIRST
        self._line: tuple[float, float] | None = None

    @property
    def objective(self) -> float:
        return self._aimd.objective

    @objective.setter
    def objective(self, seconds: float) -> None:
        self._aimd.objective = seconds

    @property
    def latency(self) -> LatencyModel:
        return self._aimd.latency

    @property
    def cap(self) -> int:
        if self._line is None:
            return self._aimd.cap
        slope, fixed = self._line
        if slope <= 0.0:  # larger batches cost nothing that could be seen: approach them
            return min(self.bound, 2 * self.latency.largest)
        return max(1, min(self.bound, int((self.objective - fixed) / slope)))

    def plan(self, now: float, backlog: Backlog) -> Plan:
        """As the paper has it: nothing is given up before its time."""
        return Plan(0, self.cap)

    def record(self, size: int, service_seconds: float) -> None:
        self._aimd.record(size, service_seconds)
        self._samples.append((size, service_seconds))
        self._due -= 1
        if self._due <= 0:
            self._due = RENEWAL
            self._line = fit_quantile(list(self._samples), QUANTILE)


def fit_quantile(samples: list[tuple[int, float]], quantile: float) -> tuple[float, float]:
    """Slope and intercept of the line that this share of the samples lies below.

    Minimises the tilted absolute loss (Koenker and Bassett, 1978) by iteratively
    reweighted least squares.
    """
    rows, seconds = np.array(samples, dtype=float).T
    slope, fixed = 0.0, float(np.quantile(seconds, quantile))
    if np.ptp(rows) == 0.0:
        return slope, fixed
    smallest = 1e-6 * max(1e-9, float(seconds.max()))
    for _ in range(ROUNDS):
        distance = seconds - (slope * rows + fixed)
        tilt = np.where(distance > 0.0, quantile, 1.0 - quantile)
        weights = tilt / np.maximum(np.abs(distance), smallest)
        total, x, y = weights.sum(), weights @ rows, weights @ seconds
        spread = total * (weights @ rows**2) - x * x
        if spread <= 0.0:
            break
        slope = float((total * (weights @ (rows * seconds)) - x * y) / spread)
        fixed = float((y - slope * x) / total)
    return slope, fixed
