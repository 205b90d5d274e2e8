"""Calls somebody on the next turn of the event loop, or at a later time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

TICK = 0.001  # seconds: the finest step of an event loop's timers


class Timer(Protocol):
    def cancel(self) -> None: ...


class Alarm:
    """`ring` is called once for all who ask before the next turn, and once at the earliest
    of the times that were asked for, unless it is due on the next turn by then."""

    # State: `soon`, whether the next turn rings, which whoever is called takes back; the
    # timer, if one is armed, and its time.

    def __init__(
        self,
        ring: Callable[[], None],
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._ring = ring
        self._call_soon = call_soon
        self._call_later = call_later
        self.soon = False
        self._timer: Timer | None = None
        self._due = 0.0

    @property
    def armed(self) -> bool:
        return self._timer is not None

    def ring_soon(self) -> None:
        if not self.soon:
            self.soon = True
            self._call_soon(self._ring)

    def ring_at(self, due: float, now: float) -> None:
        """Ring at that time, unless a sooner one is set."""
        if due == float("inf") or (self._timer is not None and self._due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._call_later(max(TICK, due - now), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if not self.soon:
            self._ring()
