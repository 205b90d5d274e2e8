"""The door to the queue, without what gives batches to replicas."""

from __future__ import annotations

import pytest
from fakes import FakeLoop, FakeReplica, ManualClock

from clipper.batching.alarm import Alarm
from clipper.batching.fleet import Fleet
from clipper.batching.intake import Intake
from clipper.batching.job import EXPIRED, Job
from clipper.batching.outcomes import ABANDONED, FULL, REFUSED, SHED, DispatcherStats
from clipper.batching.way_back import LEAST_WIRE, WayBack
from clipper.values import UNIFORM, RowError

from .contract import Known
from .test_fairness import From
from .test_load import Flight
from .test_queue import Waiter, block

GONE = RowError("unavailable", "gone")


class Door:
    """An intake with one replica that takes 10 ms and 1 ms for each row."""

    def __init__(self, clock: ManualClock, loop: FakeLoop, limit: int = 100) -> None:
        self.clock = clock
        self.rings = 0
        self.alarm = Alarm(self._ring, loop.call_soon, loop.call_later)
        self.stats = DispatcherStats()
        self.fleet = Fleet(Known(0.001, 0.01))
        self.fleet.renew([FakeReplica()])
        self.load = self.fleet.loads[0]
        self.load.record(1, 0.011, clock.now())
        self.intake = Intake(
            self.alarm, self.fleet, WayBack(), self.stats, clock.now, limit
        )

    def _ring(self) -> None:
        self.alarm.soon = False
        self.rings += 1

    def busy(self) -> None:
        """The replica was given ten rows: it is free in 20 ms."""
        flight = Flight(10, [], UNIFORM, lambda batch, result: None, [], self.load)
        self.load.sent(flight, self.clock.now())
        self.intake.admission.changed = self.clock.now()

    def job(self, slo: float = 10.0, waiter: Waiter | None = None) -> tuple[Job, Waiter]:
        waiter = waiter or From("flood")
        job = Job(b"p", None, self.clock.now() + slo, waiter)
        self.intake.submit(job)
        return job, waiter


@pytest.fixture
def door(clock: ManualClock, fake_loop: FakeLoop) -> Door:
    return Door(clock, fake_loop)


def test_all_that_comes_in_one_turn_rings_once(door: Door, fake_loop: FakeLoop) -> None:
    for _ in range(3):
        door.job()
    fake_loop.turn()
    assert door.rings == 1
    assert (door.intake.waiting_rows, door.intake.arrived) == (3, 3)


def test_it_is_foretold_anew_when_a_replica_was_given_a_batch(door: Door) -> None:
    assert not door.job(slo=0.0001)[1].told  # the replica is idle
    door.intake.queue.take(1, 1000, 0.0)
    door.busy()
    first = 0.020 + 0.011 + LEAST_WIRE
    assert door.job(slo=first - 0.0001)[1].output == REFUSED
    assert door.intake.admission.changed is None
    assert not door.job(slo=first + 0.0001)[1].told
    rate = 1.0 / door.load.rate
    assert door.job(slo=first + rate - 0.0001)[1].output == REFUSED  # behind the other
    assert not door.job(slo=first + rate + 0.0001)[1].told
    assert door.stats.refused_rows == 2 and door.intake.arrived == 3


def test_a_pause_of_the_loop_makes_nothing_late_that_was_not(door: Door) -> None:
    door.job()
    door.busy()
    door.clock.move(5.0)  # the answer waits in the socket all the while
    assert not door.job(slo=0.001)[1].told


def test_a_full_queue_refuses_and_what_waits_in_vain_makes_room(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    door = Door(clock, fake_loop, limit=2)
    (_, first), (_, second) = door.job(slo=1.0), door.job(slo=5.0)
    assert door.job()[1].output == FULL
    clock.move(2.0)
    assert not door.job()[1].told
    assert first.output == EXPIRED and not second.told
    assert (door.stats.refused_rows, door.stats.expired_rows) == (1, 1)


def test_every_row_that_a_full_queue_refuses_counts(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    door = Door(clock, fake_loop, limit=3)
    assert not door.job()[1].told
    for _ in range(2):
        many = block(3, clock.now() + 10.0)
        door.intake.submit(many)
    assert door.stats.refused_rows == 6
    many = block(2, clock.now() + 10.0)
    door.intake.submit(many)
    assert door.intake.waiting_rows == 3, "it is just full"


def test_what_nobody_waits_for_is_told_that(door: Door) -> None:
    settled: list[object] = []

    class Owner:
        def job_settled(self, job: Job, output: object) -> None:
            settled.append(output)

    waiter = Waiter()
    job = Job(b"p", None, door.clock.now() + 1.0, waiter, b"key", Owner())
    door.intake.submit(job)
    job.leave(waiter)
    door.job(slo=2.0)
    door.intake.prune(door.clock.now())
    assert settled == [ABANDONED]


def test_an_empty_queue_takes_what_is_larger_than_its_limit(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    door = Door(clock, fake_loop, limit=2)
    many = block(5, clock.now() + 10.0)
    door.intake.submit(many)
    assert door.intake.waiting_rows == 5


def test_closed_it_settles_all_that_waits_comes_or_returns(door: Door) -> None:
    _, waiting = door.job()
    door.intake.share(True)
    others = [door.job(waiter=From("flood"))[1] for _ in range(4)]
    favoured = door.job(waiter=From("little"))[1]
    assert door.intake.shares.queue.rows == 1
    door.intake.close(GONE)
    assert [w.output for w in (waiting, *others, favoured)] == [GONE] * 6
    for waiter in (From("flood"), From("little")):
        assert door.job(waiter=waiter)[1].output == GONE
    returned = Waiter()
    door.intake.put_back(Job(b"p", None, 1e9, returned))
    assert returned.output == GONE
    door.intake.reopen()
    assert not door.job()[1].told
    assert door.intake.waiting_rows == 1


@pytest.mark.parametrize(("error", "counts"), [(SHED, (2, 0)), (EXPIRED, (0, 2))])
def test_what_is_given_up_is_told_and_counted_for_what_it_is(
    door: Door, error: RowError, counts: tuple[int, int]
) -> None:
    waiters = [door.job(slo=slo)[1] for slo in (1.0, 2.0, 3.0)]
    door.intake.shed(2, error, door.clock.now())
    assert [waiter.output for waiter in waiters] == [error, error, None]
    assert (door.stats.shed_rows, door.stats.expired_rows) == counts


def test_who_has_time_keeps_a_job_that_another_has_no_time_for(door: Door) -> None:
    """Two applications ask the same input: one has 5 ms, the other 500."""
    job, hasty = door.job(slo=0.005)
    patient, between = Waiter(), door.job(slo=0.1)[0]
    job.join(patient, door.clock.now() + 0.5)
    door.intake.shed(1, SHED, door.clock.now())
    assert (hasty.output, patient.told) == (SHED, False)
    assert door.intake.waiting_rows == 2 and door.stats.shed_rows == 0
    taken, _ = door.intake.queue.take(2, 1000, door.clock.now())
    assert taken == [between, job], "it goes by the deadline of who is left"


def test_all_who_have_no_more_time_than_what_is_given_up_are_told(door: Door) -> None:
    job, first = door.job(slo=0.005)
    second, third, patient = Waiter(), Waiter(), Waiter()
    now = door.clock.now()
    job.join(third, now + 0.1)
    job.join(second, now + 0.05)
    job.join(patient, now + 0.5)
    other = door.job(slo=0.1)[1]
    door.intake.shed(2, EXPIRED, now)
    told = [waiter.output for waiter in (first, second, third, other, patient)]
    assert told == [EXPIRED] * 4 + [None]
    assert door.stats.expired_rows == 1
    assert (job.deadline, job.expires) == (now + 0.5, now + 0.5)


def test_where_all_is_over_nothing_is_left_to_be_given_up(door: Door) -> None:
    waiter = door.job(slo=1.0)[1]
    door.clock.move(1.0)
    door.intake.shed(1, SHED, door.clock.now())
    assert waiter.output == EXPIRED and door.stats.shed_rows == 0


def test_who_is_told_and_asks_the_same_again_joins_who_is_left(door: Door) -> None:
    again = Waiter()
    hasty = Waiter(lambda: job.join(again, door.clock.now() + 0.2))
    job, _ = door.job(slo=0.005, waiter=hasty)
    job.join(Waiter(), door.clock.now() + 0.5)
    door.intake.shed(1, SHED, door.clock.now())
    assert hasty.output == SHED and not again.told
    assert door.intake.queue.deadlines(10) == [door.clock.now() + 0.2]


def test_a_job_that_all_leave_as_one_of_them_is_told_is_not_lost(door: Door) -> None:
    patient = Waiter()
    hasty = Waiter(lambda: job.leave(patient))
    job, _ = door.job(slo=0.005, waiter=hasty)
    job.join(patient, door.clock.now() + 0.5)
    door.intake.shed(1, SHED, door.clock.now())
    door.intake.prune(door.clock.now())
    assert job.settled and not patient.told
    assert door.stats.abandoned_rows == 1 and door.intake.waiting_rows == 0


def test_what_nobody_waits_for_is_dropped_from_both_queues(door: Door) -> None:
    door.intake.share(True)
    jobs = [door.job(waiter=From("flood")) for _ in range(4)]
    favoured, waiter = door.job(waiter=From("little"))
    assert door.intake.shares.queue.rows == 1
    jobs[0][0].leave(jobs[0][1])
    favoured.leave(waiter)
    door.intake.prune(door.clock.now())
    assert door.stats.abandoned_rows == 2
    assert door.intake.waiting_rows == 3 and door.intake.shares.queue.rows == 0


def test_who_joined_dropped_work_meanwhile_is_queued_again(door: Door) -> None:
    job, waiter = door.job()
    job.leave(waiter)
    dropped = door.intake.queue.prune(door.clock.now())
    assert dropped == [job]
    joined = Waiter()
    job.join(joined, door.clock.now() + 5.0)
    door.intake.drop(dropped, door.clock.now())
    assert not joined.told and door.intake.waiting_rows == 1


def test_what_is_put_back_or_let_in_first_rings(door: Door, fake_loop: FakeLoop) -> None:
    job, _ = door.job()
    (taken, *_), _ = door.intake.queue.take(1, 1000, door.clock.now())
    fake_loop.turn()
    assert (taken, door.rings) == (job, 1)
    door.intake.put_back(job)
    fake_loop.turn()
    assert door.rings == 2 and door.intake.waiting_rows == 1
    door.intake.share(True)
    for _ in range(3):
        door.job(waiter=From("flood"))
    fake_loop.turn()
    door.job(waiter=From("little"))
    fake_loop.turn()
    assert door.rings == 4 and door.intake.shares.queue.rows == 1
    assert door.intake.arrived == 5


def test_a_job_in_flight_is_not_promoted(door: Door) -> None:
    job, _ = door.job()
    door.intake.queue.take(1, 1000, door.clock.now())
    assert job.join(Waiter(), door.clock.now() + 0.5)
    assert door.intake.queue.deadlines(10) == []


def test_when_it_is_no_longer_shared_nobody_is_remembered(door: Door) -> None:
    door.intake.share(True)
    for _ in range(4):
        door.job(waiter=From("flood"))
    door.job(waiter=From("little"))
    door.intake.share(False)
    assert not door.intake.shares._let_in and door.intake.shares._waiting is None
    assert door.intake.waiting_rows == 5
