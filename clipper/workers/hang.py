"""When a batch counts as hung: a pure rule over the service times seen so far."""

from __future__ import annotations

from collections import deque

_RECENT = 200  # batches remembered
_ENOUGH = 20  # batches before their times speak for themselves
_FACTOR = 10.0


class HangRule:
    """`limit(rows)` is the longest service time a batch may take, in seconds.

    Ten times the 99th percentile of recent batches, between `floor` and `ceiling`; a
    batch of more rows than were ever seen gets proportionally more. Before there are
    enough batches the example run stands for them, without one the first batch of this
    worker or of an earlier one; before that only the ceiling holds.
    """

    # State: `_recent` are the last service times, `_most` the largest batch so far.

    def __init__(self, floor: float = 1.0, ceiling: float = 30.0) -> None:
        self.floor = floor
        self.ceiling = ceiling
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._most = 0
        self._example: float | None = None

    def record_example(self, seconds: float, rows: int = 1) -> None:
        self._example = seconds
        self._most = max(self._most, rows)

    def record(self, rows: int, seconds: float) -> None:
        self._recent.append(seconds)
        if rows > self._most:
            self._most = rows

    def limit(self, rows: int) -> float:
        if len(self._recent) >= _ENOUGH:
            ordered = sorted(self._recent)
            typical, most = ordered[len(ordered) * 99 // 100], self._most
        elif self._example is not None:
            typical, most = max(self._example, *self._recent, 0.0), self._most
        else:
            return self.ceiling
        estimate = _FACTOR * typical * max(1.0, rows / most)
        return min(max(estimate, self.floor), self.ceiling)
