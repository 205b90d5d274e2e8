"""Fair shares of a model that several applications ask, when it cannot do all they ask.

Max-min fairness by batches: while more waits than a batch takes, an application that has
fewer rows waiting than its equal part goes before the others, and is not refused, for at
most its equal part of a batch. So one that asks little is served as if it were alone, and
one that floods the model is refused what is left over.
"""

from __future__ import annotations

from collections import Counter

from clipper.batching.job import Work
from clipper.batching.queue import JobQueue


class FairShares:
    """Who is let in before others. `queue` has their rows, which go first."""

    # State beside the queue: rows that wait in the queue of all by application, counted
    # anew for each batch when it is first needed; rows let in since the last batch, and
    # how many rows that one had.

    def __init__(self) -> None:
        self.queue = JobQueue()
        self._waiting: Counter[object] | None = None
        self._let_in: Counter[object] = Counter()
        self._batch = 1

    def favour(self, work: Work, all_waiting: JobQueue) -> bool:
        """Let work in before all that waits; false where there is no need to, or its
        application has its share."""
        if all_waiting.rows < self._batch:
            return False
        source = work.source
        if self._waiting is None:
            self._waiting = all_waiting.by_source()
        several = len(self._waiting.keys() | self._let_in.keys() | {source})
        if several < 2 or several * self._waiting[source] >= all_waiting.rows:
            return False
        if self._let_in[source] + work.rows > max(1, self._batch // several):
            return False
        self._let_in[source] += work.rows
        self.queue.push(work)
        return True

    def forget(self) -> None:
        """Nobody's part is counted any more."""
        self._waiting = None
        self._let_in.clear()

    def sent(self, rows: int) -> None:
        """A batch went out."""
        self._waiting = None
        self._let_in = self.queue.by_source()  # what had no room counts to the next one
        self._batch = rows
