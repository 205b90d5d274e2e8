"""What worlds have found, each in the fewest steps that show it."""

from __future__ import annotations

import struct

from fakes import FakeLoop, FakeReplica, ManualClock

from clipper.batching.dispatcher import Dispatcher
from clipper.batching.fixed import Fixed
from clipper.batching.job import Job
from clipper.batching.latency import LatencyModel
from clipper.batching.triage import choose
from clipper.inputs import InputType
from clipper.values import FailureKind, Output, RowError


class Waiter:
    def __init__(self, source: str = "one") -> None:
        self.source = source
        self.output: Output | None = None

    def job_done(self, output: Output) -> None:
        self.output = output


class Pair:
    """A dispatcher with two replicas."""

    def __init__(self, clock: ManualClock, loop: FakeLoop, most: int = 2) -> None:
        self.clock, self.loop = clock, loop
        self.first, self.second = FakeReplica(), FakeReplica()
        self.ready: tuple[FakeReplica, ...] = (self.first, self.second)
        self.dispatcher = Dispatcher(
            InputType.DOUBLES,
            Fixed(1.0, most),
            lambda: self.ready,
            clock=clock,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
        )

    def job(self, value: float) -> Waiter:
        waiter = Waiter()
        deadline = self.clock.now() + 10.0
        self.dispatcher.intake.submit(Job(struct.pack("<d", value), None, deadline, waiter))
        return waiter

    def turn(self) -> None:
        self.loop.turn()


def test_the_rest_of_a_copied_batch_is_not_blamed_for_what_was_copied(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    pair = Pair(clock, fake_loop)
    bad, good = pair.job(1), pair.job(2)
    pair.turn()
    # nothing is known of the second replica: it is tried with a copy of one row
    assert pair.first.seen == [[[1.0], [2.0]]]
    assert pair.second.seen == [[[1.0]]]
    pair.first.fail(FailureKind.RAISED)
    pair.second.fail(FailureKind.RAISED)
    pair.turn()
    assert pair.first.seen[1:] + pair.second.seen[1:] == [[[2.0]]]
    (pair.first if pair.first.batches else pair.second).answer()
    assert isinstance(bad.output, RowError)
    assert good.output == b"[2.0]"


def copies_that_wait(pair: Pair) -> None:
    """Come to where both replicas are busy and late, and copies wait for them."""
    for _ in range(200):  # until the budget is enough for a copy
        pair.job(1), pair.job(2)
        pair.turn()
        for replica in pair.ready:
            while replica.batches:
                replica.answer()
        pair.clock.move(0.001)
    for _ in range(4):
        pair.job(1), pair.job(2)
        pair.turn()
    pair.loop.advance(0.1)
    assert pair.dispatcher._hedging.waiting


def test_a_closed_dispatcher_keeps_no_flight_that_waited_for_a_copy(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    pair = Pair(clock, fake_loop, most=1)
    copies_that_wait(pair)
    for replica in pair.ready:
        replica.fail(FailureKind.HUNG)
        replica.fail(FailureKind.RETURNED)
    pair.dispatcher.close(RowError("unavailable", "stopped"))
    assert not pair.dispatcher._hedging.waiting
    assert not pair.dispatcher.in_flight


def test_a_last_replica_leaves_no_flight_that_waits_for_a_copy(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    pair = Pair(clock, fake_loop, most=1)
    copies_that_wait(pair)
    pair.ready = (pair.first,)
    for replica in (pair.first, pair.second):
        while replica.batches:
            replica.answer()
    pair.turn()
    assert not pair.dispatcher._hedging.waiting
    assert not pair.dispatcher.in_flight


class Shared:
    """A dispatcher with one replica that several applications ask, flooded by "one"."""

    def __init__(self, clock: ManualClock, loop: FakeLoop, bound: int) -> None:
        self.clock, self.loop = clock, loop
        self.controller = Fixed(1.0, bound)
        self.replica = FakeReplica()
        ready = (self.replica,)
        self.dispatcher = Dispatcher(
            InputType.DOUBLES,
            self.controller,
            lambda: ready,
            clock=clock,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
        )
        self.dispatcher.intake.shared = True

    def job(self, source: str, budget: float = 10.0) -> Job:
        row = struct.pack("<d", 1.0)
        job = Job(row, None, self.clock.now() + budget, Waiter(source))
        self.dispatcher.intake.submit(job)
        return job

    def fill(self, rows: int) -> None:
        """Let the replica be busy with two batches, and that many rows of "one" wait."""
        bound = self.controller.cap
        for _ in range(2):
            for _ in range(bound):
                self.job("one")
            self.loop.turn()
        for _ in range(rows):
            self.job("one")

    def answer(self) -> None:
        self.replica.answer()
        self.loop.turn()


def test_what_goes_first_and_becomes_more_urgent_is_counted_once(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    shared = Shared(clock, fake_loop, 2)
    shared.fill(6)
    job = shared.job("other")
    assert shared.dispatcher.intake.shares.queue.rows == 1
    joined = Waiter("other")
    assert job.join(joined, clock.now() + 0.5)
    clock.move(1.0)  # whoever joined it has left again
    for waiter in list(job.waiters):
        job.leave(waiter)
    shared.dispatcher.intake.prune(clock.now())
    assert job.settled
    assert shared.dispatcher.intake.shares.queue.rows == 0
    assert shared.dispatcher.intake.queue.rows == 6


def test_what_went_first_and_had_no_room_counts_to_the_next_batch(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    shared = Shared(clock, fake_loop, 2)
    shared.fill(8)
    first = shared.job("other"), shared.job("another")
    queue = shared.dispatcher.intake.shares.queue
    assert queue.rows == 2
    shared.controller.bound = 1  # a batch has become smaller since
    shared.answer()
    (left,) = [job.source for job in first if job.queue is queue]
    shared.job(left)
    assert queue.rows == 1


class Deadlines:
    """A backlog of rows with these deadlines."""

    def __init__(self, deadlines: list[float]) -> None:
        self._deadlines = deadlines

    @property
    def rows(self) -> int:
        return len(self._deadlines)

    @property
    def head(self) -> float:
        return self._deadlines[0]

    def deadlines(self, limit: int) -> list[float]:
        return self._deadlines[:limit]


def test_of_a_long_queue_too_only_hopeless_rows_are_given_up() -> None:
    latency = LatencyModel()
    for rows in (1, 10, 100) * 10:
        latency.record(rows, 0.001 + 0.0001 * rows)
    hopeless, hopeful = [0.0005], [1.0] * 4000
    plan = choose(latency, 0.0, Deadlines(hopeless + hopeful), 100)
    assert plan.drop == 1
    assert plan.take >= 80
