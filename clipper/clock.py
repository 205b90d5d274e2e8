"""The one source of time. Durations are seconds as float on a monotonic clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the core needs of time; tests bring one that is moved by hand."""

    def now(self) -> float:
        """Monotonic seconds. Only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, for display and for tokens that outlive us."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
