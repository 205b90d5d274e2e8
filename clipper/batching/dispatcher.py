"""Takes batches from the queue to replicas and settles what comes back.

One row must not fail its neighbours. When a worker dies, the rows of the batch it died
under are retried each alone, and one that kills alone is given up. When the function
raises, the batch is cut in halves until the rows that make it raise are alone.

Nothing is computed in vain: work that could not be answered in time is refused when it
comes, given up when its turn comes, or dropped when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from clipper.batching.controller import BatchController, Plan
from clipper.batching.fleet import Fleet
from clipper.batching.hedging import Hedging
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
from clipper.batching.load import Flight, Replica, ReplicaLoad
from clipper.batching.queue import JobQueue
from clipper.batching.wait import BatchWait, FixedWait
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

# Seconds from a batch's answer to its rows' answers before that was ever measured, and
# the weight of what was known in what is.
WAY_BACK = 0.0005
MEMORY = 0.9

# Where no row can be in time, one is evaluated all the same every so many seconds, to
# learn whether the model has become faster.
TRIAL_SECONDS = 1.0

_JOBS: set[type] = {Job}
_NEVER = float("-inf")


class Timer(Protocol):
    def cancel(self) -> None: ...


class DispatcherStats:
    """Counters of one model version, plain numbers that are published at scrape time."""

    def __init__(self) -> None:
        self.batches = 0
        self.rows = 0
        self.failed_batches = dict.fromkeys(FailureKind, 0)
        self.retried_rows = 0
        self.hedged_rows = 0
        self.refused_rows = 0
        self.expired_rows = 0
        self.abandoned_rows = 0
        self.shed_rows = 0
        self.batch_rows = Histogram(size_buckets())
        self.service_seconds = Histogram(time_buckets())


class Dispatcher:
    """Queue, controllers and replicas of one model version.

    `replicas` gives those that are ready, the same sequence until that changes.
    Submitting schedules one dispatch on the next turn of the loop, so that all that
    arrives in one turn rides in the same batch.
    """

    def __init__(
        self,
        kind: InputType,
        controller: BatchController,
        replicas: Callable[[], Sequence[Replica]],
        *,
        clock: Clock,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], Timer],
        wait: BatchWait | None = None,
        retry: bool = True,
    ) -> None:
        self._kind = kind
        self._clock = clock
        self._call_soon = call_soon
        self._call_later = call_later
        self._wait = wait or FixedWait(0.0)
        self._retries = RETRIES if retry else 0
        # All mutable state: what waits, what is with replicas, what is evaluated again in
        # batches of its own, copies of late work for a second replica and how many
        # flights a copied part is in; whether a dispatch is due on the next turn, and the
        # timer for a later one; by when a row that comes now would be answered, and how
        # much later for each row before it; how long settling takes; rows that ever
        # came; why nothing is taken any more, if so, and who waits for
        # the end of all work.
        self.fleet = Fleet(replicas, controller)
        self.queue = JobQueue()
        self.in_flight: dict[Batch, Flight] = {}
        self._alone: deque[list[Job | Slice]] = deque()
        self._late: deque[Flight] = deque()
        self._copies: dict[Part, int] = {}
        self._hedging = Hedging()
        self._scheduled = False
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._earliest = _NEVER
        self._per_row = 0.0
        self._way_back = WAY_BACK
        self._arrived = 0
        self._closed: RowError | None = None
        self._idle: asyncio.Event | None = None
        self.stats = DispatcherStats()

    @property
    def controller(self) -> BatchController:
        """That of the first replica."""
        return self.fleet.controller

    def set_objective(self, seconds: float) -> None:
        self.fleet.set_objective(seconds)

    # -- what comes ----------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """Queue work, or settle it at once if it could not be answered in time."""
        if self._closed is not None:
            work.fail(self._closed)
        elif work.deadline < self._earliest + self.queue.rows * self._per_row:
            self.stats.refused_rows += work.rows
            work.fail(REFUSED)
        else:
            self._arrived += work.rows
            self._enqueue(work)

    def _enqueue(self, work: Work) -> None:
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
        if (self.queue.rows or self._alone or self._late) and not self._scheduled:
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

    # -- what goes out -------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._scheduled = False
        self.fleet.renew()
        now = self._clock.now()
        if len(self.fleet.loads) > 1 and self._retries:
            self._hedge(now)
        while self.queue.rows or self._alone:
            load = self.fleet.choose(now, self.queue.rows or 1, self.queue.head)
            if load is None:
                self.prune(now)
                self._arm(self.fleet.opening(now), now)
                break
            if self._alone:
                self._send_alone(load, self._alone.popleft(), now)
            elif not self._send_next(load, now):
                break
        self._predict(now)
        self._tell_idle()

    def _send_next(self, load: ReplicaLoad, now: float) -> bool:
        """Send the next batch to the replica; false if it should wait to become fuller."""
        queue, controller = self.queue, load.controller
        if queue.rows < controller.cap and self._waits(load, now):
            return False
        start = load.start(now)
        plan = controller.plan(start + self._way_back, queue)
        if not plan.take and not load.flights and now - load.used_at >= TRIAL_SECONDS:
            plan = Plan(0, 1)
        if plan.drop:
            shed, dropped = queue.take(plan.drop, sys.maxsize, now)
            self._drop(dropped, now)
            self._shed(shed)
        take = plan.take
        if take > 1 and len(self.fleet.loads) > 1:
            take = min(take, self.fleet.share(load, min(take, queue.rows), now))
        taken, dropped = queue.take(take, MAX_BATCH_BYTES, now)
        if dropped:
            self._drop(dropped, now)
        if taken:
            rows = self._send(load, taken, now)
            self._wait.taken(now, queue.rows)
            if len(self.fleet.loads) > 1:
                self._hedging.sent(rows, controller.cap)
                self._try_neglected(load, taken[0], now)
        return True

    def _waits(self, load: ReplicaLoad, now: float) -> bool:
        queue, latency = self.queue, load.controller.latency
        running = load.flights[0].batch.rows if load.flights else 0
        rows = queue.rows
        until = self._wait.until(now, rows, self._arrived, latency, running)
        if until <= now:
            return False
        # no row may become late by waiting; a timer may fire a tick late
        slack = queue.head - load.start(now) - self._way_back - load.residual(0.95)
        if slack - load.predicted(min(2 * rows, load.controller.cap)) <= _TICK:
            return False
        latest = now + slack - load.predicted(min(2 * rows, load.controller.cap))
        self._arm(min(until, latest - _TICK), now)
        return True

    def prune(self, now: float | None = None) -> None:
        """Settle what waits in vain, so that it holds no memory and no place while no
        replica has room."""
        now = self._clock.now() if now is None else now
        self._drop(self.queue.prune(now), now)

    def _send_alone(self, load: ReplicaLoad, parts: list[Job | Slice], now: float) -> None:
        alive: list[Part] = [p for p in parts if p.wanted and p.expires > now]
        self._drop([p for p in parts if not p.wanted or p.expires <= now], now)
        if alive:
            self._send(load, alive, now)

    def _send(
        self, load: ReplicaLoad, parts: list[Part], now: float, *, copy: bool = False
    ) -> int:
        """Send the parts as one batch; how many rows it has."""
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
        self.in_flight[batch] = flight = Flight(batch, parts, load, hedged=copy)
        load.sent(flight, now)
        load.replica.submit(batch)
        return rows

    def _arm(self, due: float, now: float) -> None:
        """Dispatch again at that time, unless that is due sooner anyway."""
        if due == float("inf"):
            return
        if self._timer is not None:
            if now <= self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._call_later(max(_TICK, due - now), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if not self._scheduled:
            self._dispatch()

    def _predict(self, now: float) -> None:
        """Renew what admission goes by: when a row that came now would be answered, at
        the best rate of the replicas."""
        soonest, rate = float("inf"), 0.0
        for load in self.fleet.loads:
            latency = load.controller.latency
            if latency is None or not latency.known:
                self._earliest = _NEVER
                return
            finish = load.start(now) + latency.fixed + latency.per_row
            if finish < soonest:
                soonest = finish
            rate += load.rate()
        self._earliest = soonest + self._way_back if rate else _NEVER
        self._per_row = 1.0 / rate if rate else 0.0

    # -- copies of late work -------------------------------------------------------------

    def _hedge(self, now: float) -> None:
        """Give what takes too long to a second replica that has nothing to do."""
        self._late += self._hedging.overdue(self.fleet.loads, now)
        for _ in range(len(self._late)):
            flight = self._late.popleft()
            if flight.batch not in self.in_flight:
                continue  # the first replica was sooner: the copy never goes out
            other = self.fleet.idle(flight.load)
            if other is None:
                self._late.append(flight)
            else:
                self._send_copy(other, flight.parts, now)
        self._arm(self._hedging.next_due(self.fleet.loads, now), now)

    def _send_copy(self, load: ReplicaLoad, parts: list[Part], now: float) -> None:
        wanted = [p for p in parts if not p.settled and p.wanted and p.expires > now]
        if wanted:
            for part in wanted:
                self._copies[part] = self._copies.get(part, 1) + 1
            self.stats.hedged_rows += self._send(load, wanted, now, copy=True)

    def _try_neglected(self, chosen: ReplicaLoad, part: Part, now: float) -> None:
        """Copy one row to a replica that nothing is known of any more."""
        other = self.fleet.neglected(now) if self._retries else None
        if other is not None and other is not chosen and part.rows == 1:
            self._send_copy(other, [part], now)

    # -- what comes back -----------------------------------------------------------------

    def _done(self, batch: Batch, result: BatchResult) -> None:
        flight = self.in_flight.pop(batch)
        now = self._clock.now()
        flight.load.answered(flight, now)
        if type(result) is list:
            self._succeeded(flight, result, now)
        else:
            assert isinstance(result, BatchFailure)
            self._failed(flight.parts, result)
        self._tell_idle()

    def _succeeded(self, flight: Flight, outputs: list[Output], now: float) -> None:
        stats, batch = self.stats, flight.batch
        rows = batch.rows
        stats.batches += 1
        stats.rows += rows
        stats.batch_rows.observe(rows)
        stats.service_seconds.observe(batch.seconds)
        flight.load.controller.record(rows, batch.seconds)
        self._wait.answering(rows, self._arrived)
        at = 0
        copies = self._copies
        for part in flight.parts:
            if copies and part in copies and self._lands(part):
                at += part.rows
            elif type(part) is Job:
                part.settle(outputs[at])
                at += 1
            else:
                part.finish(outputs, at)
                at += part.rows
        settled = self._clock.now()
        self._way_back = MEMORY * self._way_back + (1.0 - MEMORY) * (settled - now)
        self._wait.answered(settled)

    def _lands(self, part: Part) -> bool:
        """One flight of a copied part is over; true if the part is settled already."""
        left = self._copies[part] - 1
        if left:
            self._copies[part] = left
        else:
            del self._copies[part]
        return part.settled

    def _failed(self, batch: list[Part], failure: BatchFailure) -> None:
        kind = failure.kind
        self.stats.failed_batches[kind] += 1
        error = RowError(_CODES[kind], failure.cause)
        parts = [part for part in self._last(batch) if isinstance(part, (Job, Slice))]
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

    def _last(self, parts: list[Part]) -> list[Part]:
        """Those of the parts that no other replica has, and that are not settled."""
        left = []
        for part in parts:
            if part in self._copies:
                settled = self._lands(part)
                if settled or part in self._copies:
                    continue
            left.append(part)
        return left

    def _again(self, part: Job | Slice) -> None:
        """Nothing happened to the part. It waits again, alone if it was suspect."""
        if part.attempts:
            self._retry([part])
        else:
            self.stats.retried_rows += part.rows
            self._resubmit(part)

    def _retry(self, parts: list[Job | Slice]) -> None:
        """Evaluate these once more, in a batch of their own."""
        if self._closed is not None:
            for part in parts:
                part.fail(self._closed)
            return
        self.stats.retried_rows += sum(part.rows for part in parts)
        self._alone.append(parts)
        self.wake()

    def _resubmit(self, work: Work) -> None:
        """Queue work that was let in before."""
        if self._closed is not None:
            work.fail(self._closed)
        else:
            self._enqueue(work)

    def _shed(self, parts: list[Part]) -> None:
        for part in parts:
            self.stats.shed_rows += part.rows
            part.fail(SHED)

    def _drop(self, dropped: Sequence[Work], now: float) -> None:
        for work in dropped:
            if not work.wanted:
                self.stats.abandoned_rows += waiting_rows(work)
                work.fail(ABANDONED)
            elif work.expires <= now:
                self.stats.expired_rows += waiting_rows(work)
                work.fail(EXPIRED)
            else:  # who was told of another one has joined this one
                self._resubmit(work)


_TICK = 0.001  # seconds: the finest step of an event loop's timers

REFUSED = RowError("overloaded", "The model is overloaded and could not answer in time")
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
    return len(parts) > 1 or (len(parts) == 1 and parts[0].rows > 1)
