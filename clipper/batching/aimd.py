"""Additive increase, multiplicative decrease of the batch size.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3.1: raise the maximum batch size by a
constant while batches stay within the objective, cut it by a tenth when one does not.
Unlike the prototype that was measured there, the cap persists: only a batch that was
really full may raise it, and small ones in time leave it alone, so an idle hour does not
undo what was learned under load. A small batch that overruns lowers it: a full one would
certainly have. Start-up doubles the cap until the first overrun.
"""

from __future__ import annotations

from clipper.batching.controller import Backlog, Plan

STEP = 2  # rows per full batch in time
BACKOFF = 0.9
# Between this share of the objective and the whole of it the cap stays where it is.
COMFORT = 0.9


class AIMD:
    """The default controller. `objective` is in seconds per batch."""

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self.objective = objective
        self._max = max_batch_size
        # All mutable state: the cap in rows, and whether start-up still doubles it.
        self._cap = 1
        self._doubling = True

    @property
    def cap(self) -> int:
        return self._cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(0, self._cap)

    def record(self, size: int, service_seconds: float) -> None:
        if service_seconds > self.objective:
            self._doubling = False
            self._cap = max(1, int(self._cap * BACKOFF))
        elif size < self._cap:
            return  # not full: it says nothing about a full one
        elif service_seconds < COMFORT * self.objective:
            grown = self._cap * 2 if self._doubling else self._cap + STEP
            self._cap = min(self._max, grown)
        else:
            self._doubling = False
