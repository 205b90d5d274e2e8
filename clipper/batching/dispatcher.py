"""Takes batches from the intake to replicas and settles what comes back.

Nothing is computed in vain: what could not be answered in time is given up when its turn
comes (triage.py). What becomes of a batch that fails is said in recovery.py and done in
trials.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence

from clipper.batching.alarm import TICK, Alarm, Timer
from clipper.batching.controller import BatchController
from clipper.batching.fleet import Fleet
from clipper.batching.hedging import Hedging
from clipper.batching.intake import Intake
from clipper.batching.job import EXPIRED, Job, Part
from clipper.batching.load import NEW, Flight, Replica, ReplicaLoad
from clipper.batching.outcomes import SHED, DispatcherStats
from clipper.batching.suspicion import OnVerdict
from clipper.batching.trials import Trials
from clipper.batching.wait import BatchWait, FixedWait
from clipper.batching.way_back import WayBack
from clipper.clock import Clock
from clipper.inputs import InputType
from clipper.layout import layout_of, layout_of_blocks
from clipper.values import Batch, BatchFailure, BatchResult, Output, RowError

# A batch is one frame to the worker: past this many bytes it is cut, so that no frame
# keeps the pipe and the memory of both ends busy for long.
MAX_BATCH_BYTES = 32 * 1024 * 1024

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

_JOBS: set[type] = {Job}


class Dispatcher:
    """Intake, controllers and replicas of one model version.

    `replicas` gives those that are ready, the same sequence until that changes; at most
    `limit` rows wait. `on_verdict` hears who is to blame for the end of a worker.
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
        on_verdict: OnVerdict = lambda ended, verdict: None,
    ) -> None:
        self._kind = kind
        self._replicas = replicas
        self._now = clock.now
        self._wait = wait or FixedWait(0.0)
        self._alarm = Alarm(self._dispatch, call_soon, call_later)
        self.stats = DispatcherStats()
        # All mutable state beside the alarm and the counters: the replicas, and how long
        # answers are under way; what waits, what is with replicas, what is hedged, and what
        # is evaluated again in batches of its own; and who waits for the end of all work.
        self.fleet = Fleet(controller, copies=retry)
        self._way_back = WayBack()
        self.intake = Intake(
            self._alarm, self.fleet, self._way_back, self.stats, clock.now, limit
        )
        self.in_flight: set[Flight] = set()
        self._hedging = Hedging()
        self._trials = Trials(
            self.intake, self._hedging, self._alarm, self.stats, on_verdict, retry=retry
        )
        self._idle: asyncio.Event | None = None

    @property
    def controller(self) -> BatchController:
        """That of the first replica."""
        return self.fleet.controller

    def close(self, error: RowError) -> None:
        """No replica will come any more: settle what waits, and whatever follows."""
        self.intake.close(error)
        self._hedging.waiting.clear()
        self._trials.close(error)
        self._tell_idle()

    def reopen(self) -> None:
        """Replicas have come or gone, or are expected again."""
        self.intake.reopen()
        self._alarm.ring_soon()

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
        intake = self.intake
        return bool(intake.queue.rows or self._trials.waiting or intake.shares.queue.rows)

    @property
    def _busy(self) -> bool:
        return bool(self._waits_for_replica or self.in_flight)

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._busy:
            self._idle.set()
            self._idle = None

    # -- what goes out --------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._alarm.soon = False
        now = self._now()
        if self._wait.active:
            self._wait.look(now, self.intake.arrived)
        ready = self._replicas()
        if ready is not self.fleet.replicas:
            self.fleet.renew(ready)
            self.intake.admission.changed = now
        if self.fleet.may_copy or self._hedging.waiting:
            self._hedge(now)
        self._send_all(now)
        if self._idle is not None:
            self._tell_idle()

    def _send_all(self, now: float) -> None:
        """Send batches while there is work and a replica that should have it."""
        fleet, intake, alone = self.fleet, self.intake, self._trials.waiting
        queue, first = intake.queue, intake.shares.queue
        arrived = intake.arrived
        while queue.rows or alone or first.rows:
            load = fleet.choose(now, queue)
            if load is None:
                intake.admission.changed = now
                intake.prune(now)
                break
            if alone:
                self._send_alone(load, now)
            elif first.rows:
                self._send_fairly(load, now)
            elif self._wait.active and not load.flights and self._waits(load, now):
                break
            else:
                self._send_next(load, now)
            if intake.arrived != arrived:
                break  # who was refused asks again at once: the next turn is for them
        if fleet.may_copy:
            self._alarm.ring_at(self._hedging.next_due(fleet.loads, now), now)

    def _send_next(self, load: ReplicaLoad, now: float) -> None:
        """Send the next batch to the replica."""
        take = self._plan(load, now)
        taken, dropped = self.intake.queue.take(take, MAX_BATCH_BYTES, now)
        if dropped:
            self.intake.drop(dropped, now)
        if taken:
            self._send_first(load, taken, now)

    def _send_fairly(self, load: ReplicaLoad, now: float) -> None:
        """Send a batch that begins with what goes first."""
        intake, cap = self.intake, load.controller.cap
        first, dropped = intake.shares.queue.take(cap, MAX_BATCH_BYTES, now)
        intake.drop(dropped, now)
        room = -sum(part.rows for part in first)
        if intake.queue.rows:
            room += self._plan(load, now)
        if room > 0:
            rest, dropped = intake.queue.take(room, MAX_BATCH_BYTES, now)
            intake.drop(dropped, now)
            first += rest
        if first:
            self._send_first(load, first, now)

    def _plan(self, load: ReplicaLoad, now: float) -> int:
        """Give up what the controller does, and return how many rows it would take."""
        queue = self.intake.queue
        start = load.start(now) if load.flights else now
        drop, take = load.controller.plan(start + self._way_back.seconds, queue)
        if take < 1 and (drop < 1 or self._may_try(load, now)):
            drop, take = 0, 1  # a plan to do nothing would be made again and again
        if drop:
            # where the replica has long been idle, it is not for others that they are late
            alone = not load.flights and now - load.used_at > load.predicted(1)
            self.intake.shed(drop, EXPIRED if alone else SHED, now)
        if take > 1 and len(self.fleet.loads) > 1:
            take = self.fleet.share(load, min(take, queue.rows))
        return take

    def _may_try(self, load: ReplicaLoad, now: float) -> bool:
        """Whether to learn if the model is faster by now, although all is hopeless."""
        pause = max(TRIAL_SECONDS, TRIAL_PAUSE * load.predicted(1))
        return not load.flights and now - load.used_at >= pause

    def _waits(self, load: ReplicaLoad, now: float) -> bool:
        """Whether the rows that wait should do so for others to come; if so, the alarm
        ends that."""
        intake = self.intake
        rows, cap, latency = intake.queue.rows, load.controller.cap, load.controller.latency
        until = now
        if rows < cap:
            until = self._wait.until(now, rows, intake.arrived, latency)
        if until <= now:
            return False
        # no row may become late by this, though others join it and the timer is late
        joined = load.predicted(min(2 * rows, cap)) + load.spread
        latest = intake.queue.head - self._way_back.seconds - joined - TICK
        if load.start(now) >= latest:
            return False
        self._alarm.ring_at(min(until, latest), now)
        return True

    def _send_alone(self, load: ReplicaLoad, now: float) -> None:
        parts, suspicion = self._trials.take(now)
        if parts:
            self._send(load, parts, now).suspicion = suspicion

    def _send_first(self, load: ReplicaLoad, parts: list[Part], now: float) -> None:
        """Send rows that no replica had before."""
        flight = self._send(load, parts, now)
        if self._wait.active:
            self._wait.taken(now, self.intake.queue.rows)
        if self.intake.shared:
            self.intake.shares.sent(flight.rows)
        if self.fleet.may_copy:
            self._hedging.sent(flight.rows, load.controller.cap)
            self._try_neglected(flight, now)

    def _send(
        self, load: ReplicaLoad, parts: list[Part], now: float, *, hedged: bool = False
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
        flight = Flight(rows, buffers, layout, self._done, parts, load)
        flight.hedged = hedged
        self.in_flight.add(flight)
        self.intake.admission.changed = now
        load.sent(flight, now)
        load.replica.submit(flight)
        return flight

    # -- second replicas ------------------------------------------------------------------

    def _hedge(self, now: float) -> None:
        """Give what takes too long to a second replica that has nothing to do."""
        hedging, fleet = self._hedging, self.fleet
        if fleet.may_copy:
            hedging.watch(fleet.loads, now)
        for _ in range(len(hedging.waiting)):
            late = hedging.waiting.popleft()
            if late not in self.in_flight:
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
            copy = self._send(load, wanted, now, hedged=True)
            self.stats.hedged_rows += copy.rows

    # -- what comes back ------------------------------------------------------------------

    def _done(self, flight: Batch, result: BatchResult) -> None:
        assert isinstance(flight, Flight)
        now = self._now()
        load = flight.load
        self.in_flight.remove(flight)
        load.answered(flight, now)
        self.intake.admission.changed = now
        if type(result) is list:
            self._succeeded(flight, result, now)
            if flight.suspicion is not None:
                self._trials.succeeded(flight)
        else:
            assert isinstance(result, BatchFailure)
            self._trials.failed(flight, result, self.in_flight)
        if self._waits_for_replica or self._hedging.waiting:
            self._alarm.ring_soon()
        if self._idle is not None:
            self._tell_idle()

    def _succeeded(self, flight: Flight, outputs: list[Output], now: float) -> None:
        stats, load, wait = self.stats, flight.load, self._wait
        rows, seconds = flight.rows, flight.seconds
        stats.batches += 1
        stats.rows += rows
        stats.batch_rows.observe(rows)
        stats.service_seconds.observe(seconds)
        tells = rows >= FEW or now - load.recorded_at >= OFTEN or load.recorded < NEW
        if tells:
            load.record(rows, seconds, now)
        latency = load.controller.latency
        if wait.active or (latency is not None and latency.fixed > wait.least_cost):
            wait.answering(now, rows, self.intake.arrived, latency)
        if seconds > AHEAD * self._way_back.settling and self._waits_for_replica:
            self._send_all(now)
        self._settle(flight, outputs)
        if tells or wait.active:
            settled = self._now()
            self._way_back.settled(settled - now, load.controller.objective)
            wait.answered(settled)

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
