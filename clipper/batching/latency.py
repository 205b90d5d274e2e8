"""What a batch of so many rows will take: a line fitted to the latest batches, and how far
from it they were.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3 and figure 3: the latency of a batch
is linear in its size. Least squares with exponential forgetting follow a model that
changes slowly; one that jumps is noticed by a run of batches on one side of the line, and
then nearly all that was before is forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import numpy as np

FORGETTING = 0.995  # weight of the past, per batch
RESIDUALS = 256  # batches whose distance from the line is remembered
REFRESH = 16  # batches after which the quantiles are taken anew
ENOUGH = 20  # batches before one far off the line is cut, or a jump is believed

# A batch that was stopped by something else (a page fault, the scheduler) must not bend
# the line: for the fit, it took at most this many times what was expected.
OUTLIER = 2.0
# So many batches in a row far on one side of the line are a jump: that much of the past
# stays.
RUN = 6
FAR = 0.25  # of what was expected, beside all but the farthest residuals
JUMP = 0.02


class LatencyModel:
    """seconds = per_row * rows + fixed, with the distribution of the residuals.

    Before any batch was seen `known` is false and every prediction is 0. While all
    batches had one size the slope is taken for 0: to try a larger one is how to learn.
    """

    # State: the five weighted sums of the fit, the line that follows from them, the latest
    # residuals and the sorted copy of them that quantiles are read from, the largest batch
    # that was ever run, and how many batches in a row were far above (+) or below (-).

    def __init__(self) -> None:
        self._n = self._x = self._xx = self._y = self._xy = 0.0
        self.per_row = 0.0
        self.fixed = 0.0
        self.batches = 0
        self.largest = 0
        self._residuals: deque[float] = deque(maxlen=RESIDUALS)
        self._sorted: list[float] = [0.0]
        self._stale = 0
        self._run = 0

    def __repr__(self) -> str:
        line = f"{self.per_row * 1e6:.3g} us/row + {self.fixed * 1e3:.3g} ms"
        return f"<LatencyModel {line}, {self.batches} batches>"

    @property
    def known(self) -> bool:
        return self.batches > 0

    def seconds(self, rows: float) -> float:
        """What a batch of so many rows takes, as the line has it."""
        return self.fixed + self.per_row * rows

    def rows_within(self, seconds: float, bound: int) -> int:
        """The most rows, from 1 to `bound`, that the line has done in so many seconds."""
        if self.fixed + self.per_row * bound <= seconds:
            return bound
        if self.per_row <= 0.0:
            return 1
        return max(1, min(bound, int((seconds - self.fixed) / self.per_row)))

    def residual(self, quantile: float) -> float:
        """Seconds that this share of the latest batches stayed below, over the line."""
        ordered = self._ordered()
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    def residuals(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The latest distances from the line in seconds, sorted, shape (1..256,)."""
        return np.array(self._ordered())

    def _ordered(self) -> list[float]:
        if self._stale and (self._stale >= REFRESH or len(self._residuals) < 2 * REFRESH):
            self._sorted = sorted(self._residuals)
            self._stale = 0
        return self._sorted

    def record(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took that long."""
        expected = self.fixed + self.per_row * rows
        residual = seconds - expected
        if self.batches >= ENOUGH:
            self._watch(residual, expected)
            if seconds > OUTLIER * expected:
                seconds = OUTLIER * expected
        if self.batches:
            self._residuals.append(residual)
            self._stale += 1
        self.batches += 1
        if rows > self.largest:
            self.largest = rows
        g = FORGETTING
        self._n = g * self._n + 1.0
        self._x = g * self._x + rows
        self._xx = g * self._xx + rows * rows
        self._y = g * self._y + seconds
        self._xy = g * self._xy + rows * seconds
        self._fit()

    def _fit(self) -> None:
        n, x, y = self._n, self._x, self._y
        spread = n * self._xx - x * x
        # of sizes that hardly differ no slope can be told: the last one is kept
        if spread > 1e-4 * x * x:
            slope = (n * self._xy - x * y) / spread
            self.per_row = slope if slope > 0.0 else 0.0
        fixed = (y - self.per_row * x) / n
        if fixed < 0.0:
            fixed = 0.0
            self.per_row = y / x
        self.fixed = fixed

    def _watch(self, residual: float, expected: float) -> None:
        """Notice a model that became faster or slower from one batch to the next."""
        if residual > FAR * expected and residual > self.residual(0.95):
            self._run = max(1, self._run + 1)
        elif residual < -FAR * expected and residual < self.residual(0.05):
            self._run = min(-1, self._run - 1)
        else:
            self._run = 0
            return
        if abs(self._run) >= RUN:
            self._forget()

    def _forget(self) -> None:
        scale = JUMP * 100.0 / max(self._n, 100.0)
        self._n *= scale
        self._x *= scale
        self._xx *= scale
        self._y *= scale
        self._xy *= scale
        self._residuals.clear()
        self._sorted = [0.0]
        self._stale = self._run = 0
        self.batches = 1

    def share_within(self, seconds: float) -> float:
        """The share of the latest batches that took at most so much over the line."""
        ordered = self._ordered()
        return bisect_left(ordered, seconds) / len(ordered)
