"""The one source of time. Durations are seconds as float on a monotonic clock."""

from __future__ import annotations

import logging
import time
from typing import Protocol

logger = logging.getLogger(__name__)

JUMP = 1.0  # seconds; the wall clock is followed in smaller steps

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the core needs of time; tests bring one that is moved by hand."""

    def now(self) -> float:
        """Monotonic seconds. Only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, for display and for tokens that outlive us."""
        ...


class SystemClock:
    """The machine's clocks.

    The wall clock is followed in small steps alone, as a time service makes them. After a
    jump, times go on from what they were, at the pace of the clock that nobody sets, until
    the jump was taken back or the server is started again: a wrong date for a minute must
    not make every query id out there look expired.
    """

    __slots__ = ("_ahead", "_jumped")

    now = staticmethod(time.monotonic)

    def __init__(self) -> None:
        # All mutable state: how far the wall clock is ahead of the steady one, and whether
        # a jump was told of.
        self._ahead = time.time() - _steady()
        self._jumped = False

    def wall(self) -> float:
        wall = time.time()
        going_on = _steady() + self._ahead
        jump = wall - going_on
        if -JUMP < jump < JUMP:
            self._ahead += jump
            self._jumped = False
            return wall
        if not self._jumped:
            self._jumped = True
            logger.warning(
                "the clock was set by %+.0f seconds; times go on as before until the next "
                "start",
                jump,
            )
        return going_on


def _steady() -> float:
    """Seconds that nobody sets, those of a suspended machine included where it counts
    them."""
    return time.clock_gettime(_STEADY)
