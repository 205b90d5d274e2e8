"""Whether a batch should wait to become fuller: delayed batching without a knob.

Clients that ask again as soon as they are answered come in groups. After a batch is
answered its clients come back within moments, while others may wait already; to send those
at once keeps the groups apart for ever, taking turns, and each pays for the other's batch.
To wait w seconds until all are back leaves the replica idle for w, and saves the fixed cost
c of one batch in every round: it pays while w < c.

Clients that come independently of answers gain nothing by that, whatever c is: what comes
while a batch runs is the next batch. They are told apart in two ways: right after an answer
they come no more often than at other times, and how many come then says nothing of how
many were answered. Where batches cost by the row alone, c is about 0 and nothing ever
waits.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3.2 has a fixed wait; BATCH (Ali et al.,
SC 2020) computes one from the arrivals, and Symphony (Chen et al., 2023) defers to the
latest safe moment. This one goes by who was answered last.
"""

from __future__ import annotations

import math
from typing import Protocol

from clipper.batching.latency import LatencyModel
from clipper.records import BatchingSettings

# For how many seconds after an answer clients are taken to come back because of it: as
# long as the fixed cost of a batch, within these bounds.
SHORTEST, LONGEST = 0.0005, 0.01
MEMORY = 0.9  # weight of earlier batches in what is known of returning clients
SOON = 0.0003  # seconds until all of them are back, before that was ever seen
WORTH = 0.8  # of the fixed cost, that waiting may take at most
PATIENCE = 2.0  # times what they took on average, before those who are missing are let be
BURST = 2.0  # times the usual rate, that they come at if it is because of the answer
# How far the number of those who come back may be off the expected one, on average: as a
# part of the standard deviation of a Poisson process, whose mean deviation is 0.8 of it,
# and as a part of the number itself.
STRAY_DEVIATION, STRAY_SHARE = 0.5, 0.02


class BatchWait(Protocol):
    """`arrived` counts all rows that have ever come. While `active` is false nothing waits,
    and neither `look` nor `until` need be called; nor `answering`, where a batch costs no
    more than `least_cost` seconds beside its rows."""

    @property
    def active(self) -> bool: ...

    @property
    def least_cost(self) -> float: ...

    def answering(
        self, now: float, rows: int, arrived: int, latency: LatencyModel | None
    ) -> None:
        """A batch of so many rows came back and is about to be answered."""
        ...

    def answered(self, now: float) -> None:
        """All its rows are."""
        ...

    def look(self, now: float, arrived: int) -> None:
        """Called whenever rows have come."""
        ...

    def taken(self, now: float, left: int) -> None:
        """A batch was sent; so many rows are left."""
        ...

    def until(
        self,
        now: float,
        rows: int,
        arrived: int,
        latency: LatencyModel | None,
    ) -> float:
        """When the `rows` that wait should go to a replica that is free; not after `now`:
        at once."""
        ...


class FixedWait:
    """So many seconds from when the first row was seen waiting."""

    least_cost = math.inf

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.active = seconds > 0.0
        # All mutable state: when the first of the rows that wait was seen, if any was, and
        # how many rows had come when last looked.
        self._since: float | None = None
        self._arrived = 0

    def answering(
        self, now: float, rows: int, arrived: int, latency: LatencyModel | None
    ) -> None:
        """Nothing to learn."""

    def answered(self, now: float) -> None:
        """Nothing to learn."""

    def look(self, now: float, arrived: int) -> None:
        if arrived > self._arrived and self._since is None:
            self._since = now
        self._arrived = arrived

    def taken(self, now: float, left: int) -> None:
        self._since = now if left else None

    def until(
        self,
        now: float,
        rows: int,
        arrived: int,
        latency: LatencyModel | None,
    ) -> float:
        if self._since is None:
            self._since = now
        return self._since + self._seconds


class LearnedWait:
    """Waits for clients that were just answered, where the rule above says that it pays."""

    least_cost = SOON / WORTH  # less can never pay

    # State: of the batch that was answered last, its rows, when it came back, until when
    # its clients are expected, how many rows had come before it and had come when last
    # looked, and how many will have when its clients are back; `active` until that time
    # is over. Of all batches, forgetting: their number, rows, the rows that came back in
    # time, how far their number was off, the seconds from one batch to the next, and the
    # mean of how many seconds the last of the rows took to come back.

    def __init__(self) -> None:
        self._rows = 0
        self._at = self._end = float("-inf")
        self._window = SHORTEST
        self._before = self._seen = self._back = 0
        self.active = False
        self._batches = 0.0
        self._answered = self._returned = self._span = 1e-9
        self._strayed = 0.0
        self._soon = SOON

    def answering(
        self, now: float, rows: int, arrived: int, latency: LatencyModel | None
    ) -> None:
        if self.active:
            self._close()
        if latency is None or latency.fixed <= self.least_cost:
            return
        self._span = MEMORY * self._span + min(1.0, now - self._at)
        self._at = now
        self._rows = rows
        self._before = self._seen = arrived
        self._back = arrived + self._returning()
        self._window = min(LONGEST, max(SHORTEST, latency.fixed))
        self._end = now + self._window
        self.active = True

    def answered(self, now: float) -> None:
        self._end = now + self._window

    def taken(self, now: float, left: int) -> None:
        """It is not the rows that count here, but who is still to come."""

    def look(self, now: float, arrived: int) -> None:
        if not self.active:
            return
        if now > self._end:
            self._close()
            return
        if self._seen < self._back <= arrived:
            self._soon += (1.0 - MEMORY) * (now - self._at - self._soon)
        self._seen = arrived

    def until(
        self, now: float, rows: int, arrived: int, latency: LatencyModel | None
    ) -> float:
        if not self.active or arrived >= self._back:
            return now
        if latency is None or not self._is_burst():
            return now
        left = max(SOON, self._at + self._soon - now)
        if left >= WORTH * latency.fixed:
            return now
        return min(self._end, self._at + PATIENCE * self._soon)

    def _returning(self) -> int:
        """How many of the clients answered last will at least ask again at once."""
        share = min(1.0, self._returned / self._answered)
        varies = math.sqrt(self._rows * share * (1.0 - share))
        return int(self._rows * share - varies + 0.5)

    def _is_burst(self) -> bool:
        """Whether it is because of the answers that rows come after them."""
        usual = self._answered / self._span * self._soon
        returned = self._returned / self._batches if self._batches else 0.0
        off = STRAY_DEVIATION * math.sqrt(returned) + STRAY_SHARE * returned
        return returned >= BURST * usual and self._strayed <= off * self._batches

    def _close(self) -> None:
        self.active = False
        came = self._seen - self._before
        returned = min(self._rows, came)
        share = min(1.0, self._returned / self._answered)
        self._strayed = MEMORY * self._strayed + abs(came - share * self._rows)
        if self._seen < self._back:
            self._soon += (1.0 - MEMORY) * (self._window - self._soon)
        self._batches = MEMORY * self._batches + 1.0
        self._answered = MEMORY * self._answered + self._rows
        self._returned = MEMORY * self._returned + returned


def make_wait(settings: BatchingSettings) -> BatchWait:
    """What the settings ask for; they were checked before."""
    if settings.batch_wait == "auto":
        return LearnedWait()
    return FixedWait(float(settings.batch_wait) / 1e3)
