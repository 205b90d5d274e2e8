"""What a batch of so many rows will take: a line fitted to the latest batches, and how far
from it they were.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3 and figure 3: the latency of a batch
is linear in its size. Least squares with exponential forgetting follow a model that
changes slowly; one that jumps is noticed by a run of batches on one side of the line, and
then nearly all that was before is forgotten.
"""

from __future__ import annotations

from collections import deque

FORGETTING = 0.995  # weight of the past, per batch
RESIDUALS = 256  # batches whose distance from the line is remembered
REFRESH = 16  # batches after which the quantiles are taken anew
SAFE = 0.95
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
    # residuals, the sorted copy of them with two quantiles, how many batches that copy
    # lacks, the largest batch that was ever run, how many batches in a row were far above
    # (+) or below (-) the line, and what these took and should have.

    __slots__ = (
        "_high", "_low", "_n", "_residuals", "_run", "_run_expected", "_run_seconds",
        "_sorted", "_stale", "_x", "_xx", "_xy", "_y", "batches", "fixed", "largest",
        "per_row", "spread",
    )  # fmt: skip

    def __init__(self) -> None:
        self._n = self._x = self._xx = self._y = self._xy = 0.0
        self.per_row = 0.0
        self.fixed = 0.0
        self.batches = 0
        self.largest = 0
        self._residuals: deque[float] = deque(maxlen=RESIDUALS)
        self._sorted: list[float] = [0.0]
        self._stale = 0
        self._low = self._high = 0.0
        self.spread = 0.0  # seconds over the line that SAFE of the batches stay below
        self._run = 0
        self._run_seconds = self._run_expected = 0.0

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

    def residuals(self) -> list[float]:
        """The latest distances from the line in seconds, sorted; at least one."""
        return self._sorted

    # -- learning -----------------------------------------------------------------------

    def record(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took that long."""
        batches = self.batches
        if batches:
            expected = self.fixed + self.per_row * rows
            residual = seconds - expected
            if batches >= ENOUGH:
                if residual > self._high or residual < self._low:
                    self._watch(seconds, expected)
                else:
                    self._run = 0
                if seconds > OUTLIER * expected:
                    seconds = OUTLIER * expected
            self._residuals.append(residual)
            self._stale += 1
            if self._stale >= REFRESH or len(self._residuals) < ENOUGH:
                self._sort()
        self.batches += 1
        if rows > self.largest:
            self.largest = rows
        self._n = n = FORGETTING * self._n + 1.0
        self._x = x = FORGETTING * self._x + rows
        self._xx = xx = FORGETTING * self._xx + rows * rows
        self._y = y = FORGETTING * self._y + seconds
        self._xy = xy = FORGETTING * self._xy + rows * seconds
        spread = n * xx - x * x
        # of sizes that hardly differ no slope can be told: the last one is kept
        if spread > 1e-4 * x * x:
            slope = (n * xy - x * y) / spread
            self.per_row = slope if slope > 0.0 else 0.0
        fixed = (y - self.per_row * x) / n
        if fixed < 0.0:
            fixed = 0.0
            self.per_row = y / x
        self.fixed = fixed

    def _sort(self) -> None:
        self._sorted = ordered = sorted(self._residuals)
        self._stale = 0
        count = len(ordered)
        self._high = ordered[min(count - 1, int(SAFE * count))]
        self._low = ordered[int((1.0 - SAFE) * count)]
        self.spread = max(0.0, self._high)

    def _watch(self, seconds: float, expected: float) -> None:
        """Notice a model that became faster or slower from one batch to the next."""
        residual = seconds - expected
        if abs(residual) <= FAR * expected:
            self._run = 0
            return
        side = 1 if residual > 0.0 else -1
        if self._run * side <= 0:
            self._run = 0
            self._run_seconds = self._run_expected = 0.0
        self._run += side
        self._run_seconds += seconds
        self._run_expected += expected
        if abs(self._run) >= RUN:
            self._forget(self._run_seconds / self._run_expected)

    def _forget(self, ratio: float) -> None:
        """Keep a little of the past, as if it had been `ratio` times as slow."""
        scale = JUMP * 100.0 / max(self._n, 100.0)
        self._n *= scale
        self._x *= scale
        self._xx *= scale
        self._y *= scale * ratio
        self._xy *= scale * ratio
        self.per_row *= ratio
        self._residuals.clear()
        self._sorted = [0.0]
        self._low = self._high = self.spread = 0.0
        self._stale = self._run = 0
