"""Work for a model that has time: evaluations for feedback's sake, and shadows.

A few rows at a time are in the model's queue, as many as take a small part of its
objective; the others wait here. So a query finds hardly anything before it, in the queue or
in service, however much there is to evaluate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from clipper.batching.dispatcher import Dispatcher
from clipper.batching.job import EXPIRED, Job
from clipper.values import Output, RowError

# The part of the objective that the rows in the queue may take, all together.
PART = 8

MOST = 2_000  # rows that wait

FULL = RowError("overloaded", "Too many evaluations at low priority wait for the model")


class Background:
    """Low priority work of one model."""

    def __init__(self, dispatcher: Dispatcher, now: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        self._now = now
        # All mutable state: jobs that wait, how many are with the dispatcher, and whether
        # it is being given some.
        self._waiting: deque[Job] = deque()
        self._out = 0
        self._feeding = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def source(self) -> object:
        return self

    def submit(self, job: Job) -> None:
        """Take a job. It is evaluated when there is room, or settled as too late."""
        if len(self._waiting) >= MOST:
            job.fail(FULL)
            return
        self._waiting.append(job)
        if not self._out or len(self._waiting) == 1:
            self._feed()

    def promote(self, job: Job) -> None:
        """A query joined the job: if it waits here, it waits no more."""
        if job.queue is None and job in self._waiting:
            self._waiting.remove(job)
            self._dispatcher.intake.submit(job)

    def close(self, error: RowError) -> None:
        """Nobody will evaluate what waits."""
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.fail(error)

    def job_done(self, output: Output) -> None:
        """One of those in the queue is over."""
        self._out -= 1
        if not self._out:
            self._feed()

    def _feed(self) -> None:
        if self._feeding:  # a job was over at once: the loop below goes on with the next
            return
        self._feeding = True
        try:
            now, room = self._now(), self._room()
            while self._waiting and self._out < room:
                self._start(self._waiting.popleft(), now)
        finally:
            self._feeding = False

    def _start(self, job: Job, now: float) -> None:
        if job.expires <= now:
            job.fail(EXPIRED)
            return
        self._out += 1
        job.join(self, job.deadline)
        self._dispatcher.intake.submit(job)

    def _room(self) -> int:
        controller = self._dispatcher.controller
        latency = controller.latency
        if latency is None or not latency.known:
            return 1
        return max(1, latency.rows_within(controller.objective / PART, controller.cap))
