"""Plain numbers that are counted on the hot path and published only when scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache


class Histogram:
    """Counts per bucket; `bounds` are the buckets' upper bounds, in rising order."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_many(self, value: float, times: int) -> None:
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """(upper bound, observations at or below it), the last bound infinite."""
        total, out = 0, []
        for bound, n in zip([*self._bounds, float("inf")], self.counts, strict=True):
            total += n
            out.append((bound, total))
        return out

    def quantile(self, q: float) -> float | None:
        """The q-quantile, interpolated inside its bucket; None without observations."""
        total = self.count
        if not total:
            return None
        rank, below, lower = q * total, 0, 0.0
        for bound, n in zip(self._bounds, self.counts, strict=False):
            if n and below + n >= rank:
                return lower + (bound - lower) * (rank - below) / n
            below += n
            lower = bound
        return lower


@cache
def time_buckets() -> tuple[float, ...]:
    """Seconds from 50 us to 60 s, three to four to a decade."""
    decades = [m * 10.0**e for e in range(-4, 2) for m in (1.0, 2.0, 3.5, 5.0, 7.5)]
    return (0.00005, *[round(bound, 7) for bound in decades if bound < 60], 60.0)


@cache
def size_buckets() -> tuple[float, ...]:
    """Rows per batch: powers of two."""
    return tuple(float(2**e) for e in range(13))
