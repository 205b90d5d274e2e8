"""Takes batches from the queue to replicas and settles what comes back.

One row must not fail its neighbours. When a worker dies, the rows of the batch it died
under are retried each alone, and one that kills alone is given up. When the function
raises, the batch is cut in halves until the rows that make it raise are alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol

from clipper.batching.controller import BatchController
from clipper.batching.job import (
    EXPIRED,
    Job,
    Part,
    Slice,
    Work,
    halves,
    singles,
    waiting_rows,
)
from clipper.batching.queue import JobQueue
from clipper.clock import Clock
from clipper.inputs import InputType
from clipper.layout import layout_of, layout_of_blocks
from clipper.metrics import Histogram, size_buckets, time_buckets
from clipper.values import Batch, BatchFailure, BatchResult, FailureKind, Output, RowError

# A batch is one frame to the worker: past this many bytes it is cut, so that no frame
# keeps the pipe and the memory of both ends busy for long.
MAX_BATCH_BYTES = 32 * 1024 * 1024

# How often a row may be evaluated again after a worker died under it.
RETRIES = 1


_JOBS: set[type] = {Job}


class Replica(Protocol):
    """What the dispatcher needs of a replica."""

    def submit(self, batch: Batch) -> None: ...


class DispatcherStats:
    """Counters of one model version, plain numbers that are published at scrape time."""

    def __init__(self) -> None:
        self.batches = 0
        self.rows = 0
        self.failed_batches = dict.fromkeys(FailureKind, 0)
        self.retried_rows = 0
        self.expired_rows = 0
        self.abandoned_rows = 0
        self.shed_rows = 0
        self.batch_rows = Histogram(size_buckets())
        self.service_seconds = Histogram(time_buckets())


class Dispatcher:
    """Queue, controller and replicas of one model version.

    `pick` gives a replica with room for one more batch, or None. Submitting schedules
    one dispatch on the next turn of the loop, so that all that arrives in one turn
    rides in the same batch.
    """

    def __init__(
        self,
        kind: InputType,
        controller: BatchController,
        pick: Callable[[], Replica | None],
        *,
        clock: Clock,
        call_soon: Callable[[Callable[[], None]], object],
        retry: bool = True,
    ) -> None:
        self._kind = kind
        self._pick = pick
        self._clock = clock
        self._call_soon = call_soon
        self._retries = RETRIES if retry else 0
        self.controller = controller
        # All mutable state: what waits, what is with replicas, what is evaluated again in
        # batches of its own, whether a dispatch is due on the next turn, why nothing is
        # taken any more, if so, and who waits for the end of all work.
        self.queue = JobQueue()
        self.in_flight: dict[Batch, list[Part]] = {}
        self._alone: deque[list[Job | Slice]] = deque()
        self._scheduled = False
        self._closed: RowError | None = None
        self._idle: asyncio.Event | None = None
        self.stats = DispatcherStats()

    def submit(self, work: Work) -> None:
        if self._closed is not None:
            work.fail(self._closed)
            return
        self.queue.push(work)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._dispatch)

    def promote(self, job: Job) -> None:
        """A waiter with an earlier deadline joined the job."""
        if job.queued:
            self.queue.promote(job)

    def wake(self) -> None:
        """A replica has room."""
        if (self.queue.rows or self._alone) and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._dispatch)

    def close(self, error: RowError) -> None:
        """No replica will come any more: settle what waits, and whatever follows."""
        self._closed = error
        waiting = self.queue.drain()
        while self._alone:
            waiting += self._alone.popleft()
        for work in waiting:
            work.fail(error)
        self._tell_idle()

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is queued or in flight, at most `seconds`."""
        if not self._busy:
            return
        idle = self._idle = self._idle or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await idle.wait()

    @property
    def _busy(self) -> bool:
        return bool(self.queue.rows or self._alone or self.in_flight)

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._busy:
            self._idle.set()
            self._idle = None

    def reopen(self) -> None:
        """Replicas are expected again."""
        self._closed = None

    def _dispatch(self) -> None:
        self._scheduled = False
        queue, controller = self.queue, self.controller
        while queue.rows or self._alone:
            replica = self._pick()
            if replica is None:
                self.prune()
                break
            now = self._clock.now()
            if self._alone:
                self._send_alone(replica, self._alone.popleft(), now)
                continue
            plan = controller.plan(now, queue)
            if plan.drop:
                shed, dropped = queue.take(plan.drop, sys.maxsize, now)
                self._drop(dropped, now)
                self._shed(shed)
            taken, dropped = queue.take(plan.take, MAX_BATCH_BYTES, now)
            if dropped:
                self._drop(dropped, now)
            if taken:
                self._send(replica, taken)
        self._tell_idle()

    def prune(self) -> None:
        """Settle what waits in vain, so that it holds no memory and no place while no
        replica has room."""
        now = self._clock.now()
        self._drop(self.queue.prune(now), now)

    def _send_alone(self, replica: Replica, parts: list[Job | Slice], now: float) -> None:
        alive: list[Part] = [p for p in parts if p.wanted and p.expires > now]
        self._drop([p for p in parts if not p.wanted or p.expires <= now], now)
        if alive:
            self._send(replica, alive)

    def _send(self, replica: Replica, parts: list[Part]) -> None:
        buffers = [part.payload for part in parts]
        shapes = [part.shape for part in parts]
        rows = len(parts)
        if set(map(type, parts)) == _JOBS:
            layout = layout_of(self._kind, buffers, shapes)
        else:
            counts = [part.rows for part in parts]
            rows = sum(counts)
            layout = layout_of_blocks(self._kind, buffers, shapes, counts)
        batch = Batch(rows, buffers, layout, self._done)
        self.in_flight[batch] = parts
        replica.submit(batch)

    def _done(self, batch: Batch, result: BatchResult) -> None:
        parts = self.in_flight.pop(batch)
        if type(result) is list:
            self._succeeded(batch, parts, result)
        else:
            assert isinstance(result, BatchFailure)
            self._failed(parts, result)
        self._tell_idle()

    def _succeeded(self, batch: Batch, parts: list[Part], outputs: list[Output]) -> None:
        stats, rows = self.stats, batch.rows
        stats.batches += 1
        stats.rows += rows
        stats.batch_rows.observe(rows)
        stats.service_seconds.observe(batch.seconds)
        self.controller.record(rows, batch.seconds)
        at = 0
        for part in parts:
            if type(part) is Job:
                part.settle(outputs[at])
                at += 1
            else:
                part.finish(outputs, at)
                at += part.rows

    def _failed(self, batch: list[Part], failure: BatchFailure) -> None:
        kind = failure.kind
        self.stats.failed_batches[kind] += 1
        error = RowError(_CODES[kind], failure.cause)
        parts = [part for part in batch if isinstance(part, (Job, Slice))]
        if kind is FailureKind.RETURNED:
            for part in parts:
                self._again(part)
        elif kind is FailureKind.CRASHED and self._retries:
            for row in singles(parts):
                row.attempts += 1
                if row.attempts <= self._retries:
                    self._retry([row])
                else:
                    row.fail(error)
        elif kind is FailureKind.RAISED and self._retries and _several(parts):
            for half in halves(parts):
                self._retry(half)
        else:
            for part in parts:
                part.fail(error)

    def _again(self, part: Job | Slice) -> None:
        """Nothing happened to the part. It waits again, alone if it was suspect."""
        if part.attempts:
            self._retry([part])
        else:
            self.stats.retried_rows += part.rows
            self.submit(part)

    def _retry(self, parts: list[Job | Slice]) -> None:
        """Evaluate these once more, in a batch of their own."""
        if self._closed is not None:
            for part in parts:
                part.fail(self._closed)
            return
        self.stats.retried_rows += sum(part.rows for part in parts)
        self._alone.append(parts)
        self.wake()

    def _shed(self, parts: list[Part]) -> None:
        for part in parts:
            self.stats.shed_rows += part.rows
            part.fail(SHED)

    def _drop(self, dropped: list[Work], now: float) -> None:
        for work in dropped:
            if not work.wanted:
                self.stats.abandoned_rows += waiting_rows(work)
                work.fail(ABANDONED)
            elif work.expires <= now:
                self.stats.expired_rows += waiting_rows(work)
                work.fail(EXPIRED)
            else:  # who was told of another one has joined this one
                self.submit(work)


SHED = RowError("overloaded", "The model is overloaded and cannot answer in time")
ABANDONED = RowError("cancelled", "nobody waits for this row any more")

_CODES = {
    FailureKind.RAISED: "model_failed",
    FailureKind.WRONG_COUNT: "model_failed",
    FailureKind.CRASHED: "model_crashed",
    FailureKind.HUNG: "model_hung",
    FailureKind.RETURNED: "unavailable",
}


def _several(parts: list[Job | Slice]) -> bool:
    return len(parts) > 1 or parts[0].rows > 1
