"""Additive increase, multiplicative decrease of the batch size.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3.1: raise the maximum batch size by a
constant while batches stay within the objective, cut it by a tenth when one does not.
Unlike the prototype that was measured there, the cap persists: small batches leave it
alone, so an idle hour does not undo what was learned under load. Start-up doubles the cap
until the next double would overrun, and then goes to where the fitted line meets the
objective.

A batch that was full may raise the cap. Under overload the deadlines of those who waited
keep batches below the cap, and it would never be learned where it matters: so one at
least half full raises it too, while the fitted line says that the larger one is in time,
and one that took long enough to tell lowers it where the line says that a full one is not.

The cap is what a batch may have; which rows it gets, and which are given up because they
cannot be answered in time, is the rule of triage.py.
"""

from __future__ import annotations

from clipper.batching.controller import Backlog, Plan
from clipper.batching.latency import LatencyModel
from clipper.batching.triage import choose

STEP = 2  # rows per full batch in time
BACKOFF = 0.9
# The cap rests where a full batch takes this share of the objective, and sooner where the
# model's own variation would take it over.
REST = 0.98
PLENTY = 1 / 3  # of the objective: a batch that took more tells what a full one takes
ENOUGH = 5  # batches before the line is believed beyond what was tried


class AIMD:
    """The default controller. `objective` is in seconds per batch."""

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self.objective = objective
        self.latency = LatencyModel()
        self.bound = max_batch_size
        # All mutable state beside the fit: the cap in rows, whether start-up still doubles
        # it, and whether the latest batch overran although it was not full.
        self._cap = 1
        self._doubling = True
        self._suspect = False

    @property
    def cap(self) -> int:
        return self._cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return choose(self.latency, now, backlog, self._cap)

    def record(self, size: int, service_seconds: float) -> None:
        self.latency.record(size, service_seconds)
        if service_seconds > self.objective:
            self._overran(size)
            return
        self._suspect = False
        if service_seconds > PLENTY * self.objective and self._is_too_high():
            self._cap = max(int(self._cap * BACKOFF), self._room(self._cap))
            return
        if 2 * size < self._cap:
            return  # far from full: it says nothing about a full one
        if not self._doubling:
            self._grow(self._cap + STEP)
        elif self.latency.batches < ENOUGH or self._fits(2 * size):
            self._cap = min(self.bound, max(self._cap, 2 * size))
        else:
            self._doubling = False
            self._grow(self._room(2 * size))

    def _is_too_high(self) -> bool:
        return self.latency.seconds(self._cap) > self.objective

    def _grow(self, rows: int) -> None:
        if rows > self._cap and self._fits(rows):
            self._cap = min(self.bound, rows)

    def _room(self, most: int) -> int:
        return self.latency.rows_within(REST * self.objective, most)

    def _fits(self, rows: int) -> bool:
        room = min(REST * self.objective, self.objective - self.latency.spread)
        return self.latency.seconds(rows) <= room

    def _overran(self, size: int) -> None:
        """A full batch is believed at once; of smaller ones, which may just have met a
        pause of the machine, the second in a row."""
        if 2 * size < self._cap and not self._suspect:
            self._suspect = True
            return
        cap = int(self._cap * BACKOFF)
        if self._doubling and self.latency.batches > 1:
            self._doubling = False
            cap = min(cap, self._room(self._cap))
        self._cap = max(1, cap)
