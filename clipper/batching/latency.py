"""What a batch of so many rows will take: a line fitted to the latest batches, and how far
from it they were.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3 and figure 3: the latency of a batch
is linear in its size. Least squares with exponential forgetting follow a model that
changes slowly; one that jumps is noticed by a run of batches far on one side of the line.
"""

from __future__ import annotations

from collections import deque

FORGETTING = 0.995  # weight of the past, per batch
RESIDUALS = 256  # batches whose distance from the line is remembered
REFRESH = 16  # batches after which the quantiles are taken anew
SAFE = 0.95
FIRST = 5  # batches before the line is good enough to measure distances from it
COLD = 3.0  # times the second batch: a first one that took more had to warm up
ENOUGH = 20  # batches before what is far off the line is set aside

# A batch far off the line may have met a pause of the machine, which must not bend it, or
# be the first after the model changed its speed. It is set aside until that is clear: so
# many in a row on one side are a change, and then so many batches of the past are kept, as
# if they had been slower or faster to the same degree. Else it counts, but not for more
# than so many times what was expected.
FAR = 0.25  # of what was expected, beside all but the farthest residuals
RUN = 6
KEPT = 2.0
OUTLIER = 2.0
# Of fewer batches than ENOUGH one alone counts for so many times what was expected of as
# many rows at most: a pause of the machine early on must not be taken for the model.
STALL = 10.0


class LatencyModel:
    """seconds = per_row * rows + fixed, with the distribution of the residuals.

    Before any batch was seen `known` is false and every prediction is 0. While all
    batches had one size the slope is taken for 0: to try a larger one is how to learn.
    """

    # State: the five weighted sums of the fit, the line that follows from them, the latest
    # residuals, the sorted copy of them with two quantiles, how many batches that copy
    # lacks, the largest batch that was ever run, and the batches set aside, (rows,
    # seconds), all above the line or all below it.

    __slots__ = (
        "_aside", "_high", "_low", "_n", "_residuals", "_sorted", "_stale", "_x", "_xx",
        "_xy", "_y", "batches", "fixed", "largest", "per_row", "spread",
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
        self._aside: list[tuple[int, float]] = []

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
        self.batches = batches + 1
        expected = self.fixed + self.per_row * rows
        if 0 < batches < ENOUGH and expected > 0.0:
            seconds = min(seconds, STALL * expected * max(1.0, rows / self.largest))
        if rows > self.largest:
            self.largest = rows
        residual = seconds - expected
        if batches == 1 and self.fixed > COLD * seconds:
            self._n = self._x = self._xx = self._y = self._xy = 0.0
        if batches < ENOUGH:
            if batches >= FIRST:
                self._residuals.append(residual)
                self._sort()
        else:
            if (residual > self._high or residual < self._low) and (
                abs(residual) > FAR * expected
            ):
                self._set_aside(rows, seconds, residual)
                return
            if self._aside:
                self._let_count()
            self._residuals.append(residual)
            self._stale += 1
            if self._stale >= REFRESH or len(self._residuals) < ENOUGH:
                self._sort()
        self._fit(rows, seconds)

    def _fit(self, rows: int, seconds: float) -> None:
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

    def _set_aside(self, rows: int, seconds: float, residual: float) -> None:
        if self._aside:
            first_rows, first_seconds = self._aside[0]
            if (first_seconds > self.seconds(first_rows)) != (residual > 0.0):
                self._let_count()
        self._aside.append((rows, seconds))
        if len(self._aside) >= RUN:
            self._change()

    def _let_count(self) -> None:
        """What was set aside was no change of speed."""
        aside, self._aside = self._aside, []
        for rows, seconds in aside:
            expected = self.seconds(rows)
            self._residuals.append(seconds - expected)
            self._stale += 1
            self._fit(rows, min(seconds, OUTLIER * expected))

    def _change(self) -> None:
        """Begin anew with what was set aside, and little of what was before."""
        aside, self._aside = self._aside, []
        before = sum(self.seconds(rows) for rows, _ in aside)
        ratio, scale = 1.0, 0.0  # of a line of no time at all nothing is kept
        if before > 0.0:
            ratio = sum(seconds for _, seconds in aside) / before
            scale = min(1.0, KEPT / self._n)
        self._n *= scale
        self._x *= scale
        self._xx *= scale
        self._y *= scale * ratio
        self._xy *= scale * ratio
        self.per_row *= ratio
        self.fixed *= ratio
        for rows, seconds in aside:
            self._fit(rows, seconds)
        self._residuals = deque(
            (seconds - self.seconds(rows) for rows, seconds in aside), RESIDUALS
        )
        self._sort()
