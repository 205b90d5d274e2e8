"""Takes batches from the queue to replicas and settles what comes back.

Nothing is computed in vain: work that could not be answered in time is refused when it
comes (admission.py) or given up when its turn comes (triage.py), and work that nobody
waits for any more is dropped. What becomes of a batch that fails is said in recovery.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from clipper.batching.admission import Admission
from clipper.batching.controller import BatchController
from clipper.batching.fairness import FairShares
from clipper.batching.fleet import Fleet
from clipper.batching.hedging import Hedging
from clipper.batching.job import EXPIRED, Job, Part, Slice, Work, waiting_rows
from clipper.batching.load import NEW, Flight, Replica, ReplicaLoad
from clipper.batching.outcomes import (
    ABANDONED,
    CODES,
    FULL,
    REFUSED,
    SHED,
    DispatcherStats,
)
from clipper.batching.queue import JobQueue
from clipper.batching.recovery import recover
from clipper.batching.wait import BatchWait, FixedWait
from clipper.clock import Clock
from clipper.inputs import InputType
from clipper.layout import layout_of, layout_of_blocks
from clipper.values import Batch, BatchFailure, BatchResult, Output, RowError

# A batch is one frame to the worker: past this many bytes it is cut, so that no frame
# keeps the pipe and the memory of both ends busy for long.
MAX_BATCH_BYTES = 32 * 1024 * 1024

# What the way of an answer through sockets and event loops on both sides may take: this
# share of a batch's objective, within bounds in seconds. How long the settling of a batch
# takes is measured and comes on top, with this weight of what was known in what is.
WIRE_SHARE = 0.1
LEAST_WIRE, MOST_WIRE = 0.0002, 0.002
MEMORY = 0.9

# What waits is sent before a batch is settled, that the worker need not wait for it; but
# where batches take less than so many times their settling, it is the loop that is short of
# time, and it saves some by sending all that comes in one turn together.
AHEAD = 2.0

# Batches of fewer rows than this come often and teach little: when a replica is no longer
# new, one of them in so many seconds is learned from.
FEW = 8
OFTEN = 0.002

# Where no row can be in time, one is evaluated all the same, to learn whether the model has
# become faster: after a pause of so many times what that takes, and of so many seconds.
TRIAL_PAUSE = 4.0
TRIAL_SECONDS = 0.05

TICK = 0.001  # seconds: the finest step of an event loop's timers

_JOBS: set[type] = {Job}


class Timer(Protocol):
    def cancel(self) -> None: ...


class Dispatcher:
    """Queue, controllers and replicas of one model version.

    `replicas` gives those that are ready, the same sequence until that changes; at most
    `limit` rows wait. Submitting schedules one dispatch on the next turn of the loop, so
    that all that arrives in one turn rides in the same batch.
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
        limit: int = sys.maxsize,
        retry: bool = True,
    ) -> None:
        self._kind = kind
        self._replicas = replicas
        self._now = clock.now
        self._call_soon = call_soon
        self._call_later = call_later
        self._wait = wait or FixedWait(0.0)
        self._limit = limit
        self._retry = retry
        # All mutable state: whether several applications ask; the replicas; what waits,
        # what of it goes first for the sake of fairness, what is with replicas, until when
        # a row that comes would be in time, what is hedged, and what is evaluated again in
        # batches of its own; rows that ever came, how long settling a batch takes and the
        # way back of an answer; whether a dispatch is due on the next turn, and the timer
        # for a later one with its time; why nothing is taken any more, if so, and who
        # waits for the end of all work.
        self.shared = False
        self.fleet = Fleet(controller)
        self.queue = JobQueue()
        self._shares = FairShares()
        self.in_flight: dict[Batch, Flight] = {}
        self.admission = Admission()
        self._hedging = Hedging()
        self._alone: deque[list[Job | Slice]] = deque()
        self._arrived = 0
        self._settling = 0.0
        self._way_back = LEAST_WIRE
        self._scheduled = False
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._closed: RowError | None = None
        self._idle: asyncio.Event | None = None
        self.stats = DispatcherStats()

    @property
    def controller(self) -> BatchController:
        """That of the first replica."""
        return self.fleet.controller

    @property
    def waiting_rows(self) -> int:
        """Rows that no replica has been given."""
        return self.queue.rows + self._shares.queue.rows

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
        if self._closed is not None or not self._shares.favour(work, self.queue):
            return False
        self._arrived += work.rows
        self.wake()
        return True

    def refusal(self, deadline: float, rows: int = 1) -> RowError | None:
        """Why that many rows with this deadline cannot be taken now, if so; counted."""
        waiting, admission = self.queue.rows, self.admission
        if deadline < admission.earliest + waiting * admission.per_row:
            self.stats.refused_rows += rows
            return REFUSED
        if self._closed is not None:
            return self._closed
        if waiting + rows > self._limit and self._full(rows):
            self.stats.refused_rows += rows
            return FULL
        return None

    def accept(self, work: Work) -> None:
        """Queue work that was not refused."""
        self._arrived += work.rows
        self.queue.push(work)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._dispatch)

    def _full(self, rows: int) -> bool:
        self.prune()  # what waits in vain must not keep others out
        # an empty queue takes a request of any size that was let in at the door
        waiting = self.queue.rows
        return waiting > 0 and waiting + rows > self._limit

    def _resubmit(self, work: Work) -> None:
        """Queue work that was let in before."""
        if self._closed is not None:
            work.fail(self._closed)
        else:
            self.queue.push(work)
            self.wake()

    def promote(self, job: Job) -> None:
        """A waiter with an earlier deadline joined the job."""
        if job.queued and not self._shares.promote(job):
            self.queue.promote(job)

    def wake(self) -> None:
        """A replica has room."""
        if not self._scheduled and (
            self.queue.rows or self._waits_for_replica or self._hedging.waiting
        ):
            self._scheduled = True
            self._call_soon(self._dispatch)

    def close(self, error: RowError) -> None:
        """No replica will come any more: settle what waits, and whatever follows."""
        self._closed = error
        waiting = self._shares.queue.drain() + self.queue.drain()
        while self._alone:
            waiting += self._alone.popleft()
        self._hedging.waiting.clear()
        for work in waiting:
            work.fail(error)
        self._tell_idle()

    def reopen(self) -> None:
        """Replicas are expected again."""
        self._closed = None

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is queued or in flight, at most `seconds`."""
        if not self._busy:
            return
        idle = self._idle = self._idle or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await idle.wait()

    @property
    def _waits_for_replica(self) -> bool:
        return bool(self.queue.rows or self._alone or self._shares.queue.rows)

    @property
    def _busy(self) -> bool:
        return bool(self._waits_for_replica or self.in_flight)

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._busy:
            self._idle.set()
            self._idle = None

    # -- what goes out --------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._scheduled = False
        now = self._now()
        if self._wait.active:
            self._wait.look(now, self._arrived)
        ready = self._replicas()
        if ready is not self.fleet.replicas:
            self.fleet.renew(ready)
        if self._retry and (len(ready) > 1 or self._hedging.waiting):
            self._hedge(now)
        self._send_all(now)
        if self._idle is not None:
            self._tell_idle()

    def _send_all(self, now: float) -> None:
        """Send batches while there is work and a replica that should have it."""
        fleet, queue = self.fleet, self.queue
        alone, first = self._alone, self._shares.queue
        while queue.rows or alone or first.rows:
            load = fleet.choose(now, queue)
            if load is None:
                self.prune()
                break
            if alone:
                self._send_alone(load, alone.popleft(), now)
            elif first.rows:
                self._send_fairly(load, now)
            elif not self._send_next(load, now):
                break
        self.admission.renew(now, fleet.loads, self._way_back)
        if self._retry and len(fleet.loads) > 1:
            self._wake_at(self._hedging.next_due(fleet.loads, now), now)

    def _send_next(self, load: ReplicaLoad, now: float) -> bool:
        """Send the next batch to the replica; false if it should wait to become fuller."""
        if self._wait.active and not load.flights and self._waits(load, now):
            return False
        take = self._plan(load, now)
        taken, dropped = self.queue.take(take, MAX_BATCH_BYTES, now)
        if dropped:
            self._drop(dropped, now)
        if taken:
            self._send_first(load, taken, now)
        return True

    def _send_fairly(self, load: ReplicaLoad, now: float) -> None:
        """Send a batch that begins with what goes first."""
        first, dropped = self._shares.queue.take(load.controller.cap, MAX_BATCH_BYTES, now)
        self._drop(dropped, now)
        room = -sum(part.rows for part in first)
        if self.queue.rows:
            room += self._plan(load, now)
        if room > 0:
            rest, dropped = self.queue.take(room, MAX_BATCH_BYTES, now)
            self._drop(dropped, now)
            first += rest
        if first:
            self._send_first(load, first, now)

    def _plan(self, load: ReplicaLoad, now: float) -> int:
        """Give up what the controller does, and return how many rows it would take."""
        queue = self.queue
        drop, take = load.controller.plan(load.start(now) + self._way_back, queue)
        if take < 1 and (drop < 1 or self._may_try(load, now)):
            drop, take = 0, 1  # a plan to do nothing would be made again and again
        if drop:
            shed, dropped = queue.take(drop, sys.maxsize, now)
            self._drop(dropped, now)
            self._shed(shed, load, now)
        if take > 1 and len(self.fleet.loads) > 1:
            take = self.fleet.share(load, min(take, queue.rows))
        return take

    def _send_first(self, load: ReplicaLoad, parts: list[Part], now: float) -> None:
        """Send rows that no replica had before."""
        flight = self._send(load, parts, now)
        rows = flight.batch.rows
        if self._wait.active:
            self._wait.taken(now, self.queue.rows)
        if self.shared:
            self._shares.sent(rows)
        if self._retry and len(self.fleet.loads) > 1:
            self._hedging.sent(rows, load.controller.cap)
            self._try_neglected(flight, now)

    def _may_try(self, load: ReplicaLoad, now: float) -> bool:
        """Whether to learn if the model is faster by now, although all is hopeless."""
        pause = max(TRIAL_SECONDS, TRIAL_PAUSE * load.predicted(1))
        return not load.flights and now - load.used_at >= pause

    def _waits(self, load: ReplicaLoad, now: float) -> bool:
        """Whether the rows that wait should do so for others to come; if so, a timer ends
        that."""
        rows, cap, latency = self.queue.rows, load.controller.cap, load.controller.latency
        until = now
        if rows < cap:
            until = self._wait.until(now, rows, self._arrived, latency)
        if until <= now:
            return False
        # no row may become late by this, though others join it and the timer is late
        joined = load.predicted(min(2 * rows, cap)) + load.spread
        latest = self.queue.head - self._way_back - joined - TICK
        if load.start(now) >= latest:
            return False
        self._wake_at(min(until, latest), now)
        return True

    def _send_alone(self, load: ReplicaLoad, parts: list[Job | Slice], now: float) -> None:
        alive: list[Part] = [p for p in parts if p.wanted and p.expires > now]
        self._drop([p for p in parts if not p.wanted or p.expires <= now], now)
        if alive:
            self._send(load, alive, now)

    def _send(
        self, load: ReplicaLoad, parts: list[Part], now: float, *, copy: bool = False
    ) -> Flight:
        """Send the parts as one batch."""
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
        return flight

    def prune(self) -> None:
        """Settle what waits in vain, so that it holds no memory and no place while no
        replica has room."""
        now = self._now()
        dropped = self.queue.prune(now)
        if self._shares.queue.rows:
            dropped += self._shares.queue.prune(now)
        if dropped:
            self._drop(dropped, now)

    def _wake_at(self, due: float, now: float) -> None:
        """Dispatch again at that time, unless that happens sooner anyway."""
        if due == float("inf") or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._call_later(max(TICK, due - now), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if not self._scheduled:
            self._dispatch()

    # -- second replicas ------------------------------------------------------------------

    def _hedge(self, now: float) -> None:
        """Give what takes too long to a second replica that has nothing to do."""
        hedging, fleet = self._hedging, self.fleet
        hedging.watch(fleet.loads, now)
        for _ in range(len(hedging.waiting)):
            late = hedging.waiting.popleft()
            if late.batch not in self.in_flight:
                continue  # the first replica was sooner: the copy is never sent
            other = fleet.idle(late.load)
            if other is None:
                hedging.waiting.append(late)
            else:
                self._send_copy(other, late.parts, now)

    def _try_neglected(self, flight: Flight, now: float) -> None:
        """Copy one row to a replica of which too little is known by now."""
        other, part = self.fleet.neglected(now), flight.parts[0]
        if other is not None and part.rows == 1:
            flight.hedged = True
            self._send_copy(other, [part], now)

    def _send_copy(self, load: ReplicaLoad, parts: list[Part], now: float) -> None:
        wanted = [p for p in parts if not p.settled and p.wanted and p.expires > now]
        if wanted:
            self._hedging.copied(wanted)
            copy = self._send(load, wanted, now, copy=True)
            self.stats.hedged_rows += copy.batch.rows

    # -- what comes back ------------------------------------------------------------------

    def _done(self, batch: Batch, result: BatchResult) -> None:
        flight = self.in_flight.pop(batch)
        now = self._now()
        flight.load.answered(flight, now)
        if type(result) is list:
            self._succeeded(flight, result, now)
        else:
            assert isinstance(result, BatchFailure)
            self._failed(flight, result)
        if self._idle is not None:
            self._tell_idle()

    def _succeeded(self, flight: Flight, outputs: list[Output], now: float) -> None:
        stats, batch = self.stats, flight.batch
        rows = batch.rows
        stats.batches += 1
        stats.rows += rows
        stats.batch_rows.observe(rows)
        stats.service_seconds.observe(batch.seconds)
        load = flight.load
        tells = rows >= FEW or now - load.recorded_at >= OFTEN or load.recorded < NEW
        if tells:
            load.recorded_at = now
            load.record(rows, batch.seconds)
        self._wait.answering(now, rows, self._arrived, load.controller.latency)
        if batch.seconds > AHEAD * self._settling and self._waits_for_replica:
            self._send_all(now)
        else:
            self.admission.renew(now, self.fleet.loads, self._way_back)
        self._settle(flight, outputs)
        if tells or self._wait.active:
            self._settled(load, now)

    def _settled(self, load: ReplicaLoad, begun: float) -> None:
        """A batch was settled: learn how long that takes."""
        now = self._now()
        self._settling += (1.0 - MEMORY) * (now - begun - self._settling)
        wire = WIRE_SHARE * load.controller.objective
        self._way_back = self._settling + min(MOST_WIRE, max(LEAST_WIRE, wire))
        self._wait.answered(now)

    def _settle(self, flight: Flight, outputs: list[Output]) -> None:
        at = 0
        for part in flight.parts:
            if flight.hedged and self._is_over(part):
                at += part.rows
            elif type(part) is Job:
                part.settle(outputs[at])
                at += 1
            else:
                part.finish(outputs, at)
                at += part.rows

    def _is_over(self, part: Part) -> bool:
        """One flight of a part came back; true if another one was sooner."""
        self._hedging.land(part)
        return part.settled

    def _failed(self, flight: Flight, failure: BatchFailure) -> None:
        kind = failure.kind
        self.stats.failed_batches[kind] += 1
        parts = [part for part in flight.parts if isinstance(part, (Job, Slice))]
        if flight.hedged:  # what another replica has as well can still succeed there
            left = [part for part in parts if not self._hedging.land(part)]
            parts = [part for part in left if not part.settled]
        rows = flight.batch.rows
        queued, alone, failed = recover(kind, parts, rows, self._retry)
        for part in queued:
            self.stats.retried_rows += part.rows
            self._resubmit(part)
        for group in alone:
            self._evaluate_alone(group)
        error = RowError(CODES[kind], failure.cause)
        for part in failed:
            part.fail(error)

    def _evaluate_alone(self, parts: list[Job | Slice]) -> None:
        if self._closed is not None:
            for part in parts:
                part.fail(self._closed)
            return
        self.stats.retried_rows += sum(part.rows for part in parts)
        self._alone.append(parts)
        self.wake()

    # -- what is given up -----------------------------------------------------------------

    def _shed(self, parts: list[Part], load: ReplicaLoad, now: float) -> None:
        """Give up what cannot be in time. Where the replica has long been idle it is not
        for others that it cannot."""
        alone = not load.flights and now - load.used_at > load.predicted(1)
        for part in parts:
            if alone:
                self.stats.expired_rows += part.rows
                part.fail(EXPIRED)
            else:
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
