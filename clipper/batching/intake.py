"""What waits for one model version: who is let in, who is refused, who goes first.

Nothing waits in vain: work that could not be answered in time is refused when it comes
(admission.py), and work that nobody waits for any more, or whose time is over, is dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from clipper.batching.admission import Admission
from clipper.batching.alarm import Alarm
from clipper.batching.fairness import FairShares
from clipper.batching.fleet import Fleet
from clipper.batching.job import EXPIRED, Job, Work, waiting_rows
from clipper.batching.outcomes import ABANDONED, FULL, REFUSED, DispatcherStats
from clipper.batching.queue import JobQueue
from clipper.batching.way_back import WayBack
from clipper.values import RowError


class Intake:
    """The door and the queue behind it; at most `limit` rows wait there.

    Work that is let in rings the alarm on the next turn of the loop, so that all that
    arrives in one turn can ride in the same batch.
    """

    # All mutable state: whether several applications ask; what waits, what of it goes
    # first for the sake of fairness, and until when a row that comes would be in time;
    # how many rows ever came; why nothing is let in any more, if so.

    def __init__(
        self,
        alarm: Alarm,
        fleet: Fleet,
        way_back: WayBack,
        stats: DispatcherStats,
        now: Callable[[], float],
        limit: int,
    ) -> None:
        self._alarm = alarm
        self._fleet = fleet
        self._way_back = way_back
        self._stats = stats
        self._now = now
        self._limit = limit
        self.shared = False
        self.queue = JobQueue()
        self.shares = FairShares()
        self.admission = Admission()
        self.arrived = 0
        self.closed: RowError | None = None

    @property
    def waiting_rows(self) -> int:
        return self.queue.rows + self.shares.queue.rows

    # -- what comes -----------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """Queue work, or settle it at once where it could only wait in vain."""
        if self.shared and self._favours(work):
            return
        refusal = self.refusal(work.deadline, work.rows)
        if refusal is None:
            self.accept(work)
        else:
            work.fail(refusal)

    def _favours(self, work: Work) -> bool:
        """Let in first what would else wait behind all that other applications asked."""
        if self.closed is not None or not self.shares.favour(work, self.queue):
            return False
        self.arrived += work.rows
        self._alarm.ring_soon()
        return True

    def refusal(self, deadline: float, rows: int = 1) -> RowError | None:
        """Why that many rows with this deadline cannot be taken now, if so; counted."""
        waiting, admission = self.queue.rows, self.admission
        if admission.changed is not None:
            admission.renew(self._fleet.loads, self._way_back.seconds)
        if deadline < admission.earliest + waiting * admission.per_row:
            self._stats.refused_rows += rows
            return REFUSED
        if self.closed is not None:
            return self.closed
        if waiting + rows > self._limit and self._full(rows):
            self._stats.refused_rows += rows
            return FULL
        return None

    def accept(self, work: Work) -> None:
        """Queue work that was not refused."""
        self.arrived += work.rows
        self.queue.push(work)
        if not self._alarm.soon:
            self._alarm.ring_soon()

    def _full(self, rows: int) -> bool:
        self.prune(self._now())  # what waits in vain must not keep others out
        # an empty queue takes a request of any size that was let in at the door
        waiting = self.queue.rows
        return waiting > 0 and waiting + rows > self._limit

    def put_back(self, work: Work) -> None:
        """Queue work that was let in before."""
        if self.closed is not None:
            work.fail(self.closed)
        else:
            self.queue.push(work)
            self._alarm.ring_soon()

    # -- the door -------------------------------------------------------------------------

    def close(self, error: RowError) -> None:
        """Settle what waits, and whatever follows."""
        self.closed = error
        for work in self.shares.queue.drain() + self.queue.drain():
            work.fail(error)

    def reopen(self) -> None:
        self.closed = None

    def share(self, shared: bool) -> None:
        """Several applications ask, or no longer do."""
        self.shared = shared
        if not shared:
            self.shares.forget()

    # -- what goes without being evaluated ------------------------------------------------

    def prune(self, now: float) -> None:
        """Settle what waits in vain, so that it holds no memory and no place while no
        replica has room."""
        dropped = self.queue.prune(now)
        if self.shares.queue.rows:
            dropped += self.shares.queue.prune(now)
        if dropped:
            self.drop(dropped, now)

    def shed(self, rows: int, error: RowError, now: float) -> None:
        """Give up the next rows: they cannot be in time. Who has more time than the last of
        them keeps what others share with him."""
        shed, dropped = self.queue.take(rows, sys.maxsize, now)
        self.drop(dropped, now)
        last = max((part.deadline for part in shed), default=now)
        for part in shed:
            if type(part) is Job and part.expires > last and part.wanted:
                hasty = part.split(last)
                self.put_back(part)
                hasty.fail(error)
                continue
            if error is EXPIRED:
                self._stats.expired_rows += part.rows
            else:
                self._stats.shed_rows += part.rows
            part.fail(error)

    def drop(self, dropped: Sequence[Work], now: float) -> None:
        """Settle work that was found with nobody waiting, or its time over."""
        for work in dropped:
            if not work.wanted:
                self._stats.abandoned_rows += waiting_rows(work)
                work.fail(ABANDONED)
            elif work.expires <= now:
                self._stats.expired_rows += waiting_rows(work)
                work.fail(EXPIRED)
            else:  # who was told of another one has joined this one
                self.put_back(work)
