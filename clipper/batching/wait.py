"""Whether a batch should wait to become fuller: delayed batching without a knob.

Waiting pays where clients ask again as soon as they are answered. After a batch of k rows
some share of k comes back at once, and who sends what is there already splits those
clients into groups that take turns: each then waits for the other's batch. With a service
time of c + a * rows, n rows waiting and m more about to come within w seconds, sending now
costs the m a batch of their own. All n + m together are sooner done by waiting when

    m * (c - a * n) > (n + m) * w

(the sum of completion times of both orders, compared). Where batches cost by the row
alone, c is about 0 and nothing ever waits; where requests come independently of answers,
those that come in w are few beside those that a batch collects anyway.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3.2 has a fixed wait; BATCH (Ali et al.,
SC 2020) computes one from the arrivals, and Symphony (Chen et al., 2023) defers to the
latest safe moment. This one goes by what was last answered.
"""

from __future__ import annotations

from typing import Protocol

from clipper.batching.latency import LatencyModel
from clipper.records import BatchingSettings

# Clients that come back do so within this time of their answer, or are not waited for.
RETURN_SECONDS = 0.002
MEMORY = 0.9  # weight of earlier batches in what is known of returning clients
SOON = 0.0003  # seconds until all of them are back, before that was ever seen

WHEN_ANSWERED = float("inf")


class BatchWait(Protocol):
    """`arrived` counts all rows that have ever come."""

    def answering(self, rows: int, arrived: int) -> None:
        """A batch of so many rows is about to be answered."""
        ...

    def answered(self, now: float) -> None:
        """It is answered."""
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
        running: int,
    ) -> float:
        """When the `rows` that wait should go to a replica that is working on a batch of
        `running` rows, or idle (0). Not after `now`: at once. WHEN_ANSWERED: not before
        that batch is."""
        ...


class FixedWait:
    """So many seconds from when the first row was seen waiting."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # All mutable state: when the first of the rows that wait was seen, if any was.
        self._since: float | None = None

    def answering(self, rows: int, arrived: int) -> None:
        """Nothing to learn."""

    def answered(self, now: float) -> None:
        """Nothing to learn."""

    def taken(self, now: float, left: int) -> None:
        self._since = now if left else None

    def until(
        self,
        now: float,
        rows: int,
        arrived: int,
        latency: LatencyModel | None,
        running: int,
    ) -> float:
        if self._since is None:
            self._since = now
        return self._since + self._seconds


class LearnedWait:
    """Waits for clients that were just answered, where the rule above says that it pays."""

    # State: of the batch that was answered last its rows, when that was, and how many rows
    # had come before and had come when it was last looked, until `_open` ends with the time
    # to return; from earlier batches, forgetting, the rows answered, those that came
    # back in time, and how many seconds the last of them took.

    def __init__(self) -> None:
        self._rows = 0
        self._at = float("-inf")
        self._before = self._seen = 0
        self._open = False
        self._answered = self._returned = 1.0
        self._soon = SOON

    def answering(self, rows: int, arrived: int) -> None:
        if self._open:
            self._close()
        self._rows = rows
        self._before = self._seen = arrived

    def answered(self, now: float) -> None:
        self._at = now
        self._open = True

    def taken(self, now: float, left: int) -> None:
        """It is not the rows that count here, but who is still to come."""

    def until(
        self,
        now: float,
        rows: int,
        arrived: int,
        latency: LatencyModel | None,
        running: int,
    ) -> float:
        if self._open:
            self._look(now, arrived)
        if latency is None or not latency.known:
            return now
        if running:
            coming = self._returning(running)
            return WHEN_ANSWERED if _pays(latency, rows, coming, self._soon) else now
        coming = self._before + self._returning(self._rows) - arrived
        if not self._open or coming <= 0:
            return now
        left = max(SOON / 3, self._at + self._soon - now)
        return self._at + RETURN_SECONDS if _pays(latency, rows, coming, left) else now

    def _returning(self, rows: int) -> int:
        """How many of so many clients will ask again at once."""
        return int(rows * self._returned / self._answered + 0.5)

    def _look(self, now: float, arrived: int) -> None:
        if now - self._at > RETURN_SECONDS:
            self._close()
            return
        if (
            self._seen - self._before
            < self._returning(self._rows)
            <= arrived - self._before
        ):
            self._soon += (1.0 - MEMORY) * (now - self._at - self._soon)
        self._seen = arrived

    def _close(self) -> None:
        self._open = False
        returned = min(self._rows, self._seen - self._before)
        if returned < self._returning(self._rows):
            self._soon += (1.0 - MEMORY) * (RETURN_SECONDS - self._soon)
        self._answered = MEMORY * self._answered + self._rows
        self._returned = MEMORY * self._returned + returned


def _pays(latency: LatencyModel, rows: int, coming: int, wait: float) -> bool:
    saved = latency.fixed - latency.per_row * rows
    return coming * saved > (rows + coming) * wait


def make_wait(settings: BatchingSettings) -> BatchWait:
    """What the settings ask for; they were checked before."""
    if settings.batch_wait == "auto":
        return LearnedWait()
    return FixedWait(float(settings.batch_wait) / 1e3)
