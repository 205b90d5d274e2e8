"""What is told of workers that ended: the verdicts, as the dispatcher comes to them."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeLoop, FakeReplica, ManualClock

from clipper.batching.fixed import Fixed
from clipper.batching.fleet import TRIAL_SECONDS
from clipper.values import FailureKind, RowError, Verdict

from .contract import Known
from .test_dispatcher import STOPPED, Bench
from .test_dispatcher_replicas import FIXED, PER_ROW, Yard, overdue

OPEN, POISON, OWN, UNKNOWN = Verdict.OPEN, Verdict.POISON, Verdict.OWN, Verdict.UNKNOWN
DEATHS = (FailureKind.CRASHED, FailureKind.HUNG)


class Court(Bench):
    """One replica, whose successors are itself; keeps the verdicts."""

    def __init__(self, clock: ManualClock, loop: FakeLoop, **more: Any) -> None:
        self.told: list[tuple[int, Verdict]] = []
        super().__init__(clock, loop, Fixed(1.0, 4), on_verdict=self.hear, **more)

    def hear(self, ended: Any, verdict: Verdict) -> None:
        assert set(ended) == {self.replica}
        self.told.append((len(ended), verdict))

    def batch(self, rows: int, slo: float = 10.0) -> None:
        for value in range(rows):
            self.job(value, slo)
        self.loop.turn()


@pytest.fixture
def court(clock: ManualClock, fake_loop: FakeLoop) -> Court:
    return Court(clock, fake_loop)


@pytest.mark.parametrize("kind", DEATHS)
def test_a_row_that_ends_two_workers_is_poison(court: Court, kind: FailureKind) -> None:
    court.batch(3)
    court.fail(kind)
    assert court.told == [(1, OPEN)]
    court.answer()
    court.fail(kind)
    assert court.told == [(1, OPEN), (1, OPEN), (2, POISON)]
    court.answer()
    assert len(court.told) == 3


def test_each_of_two_poison_rows_is_found(court: Court) -> None:
    court.batch(2)
    for _ in range(3):
        court.fail(FailureKind.CRASHED)
    assert [told for told in court.told if told != (1, OPEN)] == [(2, POISON)] * 2


@pytest.mark.parametrize("kind", DEATHS)
def test_where_no_row_does_it_alone_the_worker_ended_of_itself(
    court: Court, kind: FailureKind
) -> None:
    court.batch(3)
    court.fail(kind)
    court.answer()
    court.fail(FailureKind.RAISED)  # that is an answer as well
    assert court.told == [(1, OPEN)]
    court.answer()
    assert court.told == [(1, OPEN), (1, OWN)]


def test_a_suspect_that_came_back_untouched_is_tried_again(court: Court) -> None:
    court.batch(1)
    court.fail(FailureKind.CRASHED)
    court.fail(FailureKind.RETURNED)
    assert court.told == [(1, OPEN)]
    court.fail(FailureKind.CRASHED)
    assert court.told == [(1, OPEN), (1, OPEN), (2, POISON)]


def test_rows_that_nobody_waits_for_any_longer_leave_it_open(court: Court) -> None:
    court.batch(3, slo=1.0)
    court.up = False
    court.fail(FailureKind.CRASHED)
    court.clock.move(2.0)
    court.up = True
    court.dispatcher.reopen()
    court.loop.turn()
    assert court.told == [(1, OPEN), (1, UNKNOWN)]


@pytest.mark.parametrize("before", [True, False])
def test_a_version_that_is_taken_out_leaves_it_open(court: Court, before: bool) -> None:
    court.batch(3)
    if before:
        court.dispatcher.close(STOPPED)
    court.fail(FailureKind.CRASHED)
    court.dispatcher.close(STOPPED)
    while court.replica.batches:
        court.fail(FailureKind.RETURNED)
    assert court.told == [(1, OPEN), (1, UNKNOWN)]


def test_what_may_not_be_tried_again(clock: ManualClock, fake_loop: FakeLoop) -> None:
    court = Court(clock, fake_loop, retry=False)
    court.batch(2)
    court.fail(FailureKind.CRASHED)
    assert court.told == [(1, OPEN), (1, UNKNOWN)]
    waiter = court.job(1)
    court.loop.turn()
    court.fail(FailureKind.HUNG)
    assert court.told[2:] == [(1, OPEN), (1, POISON)]  # nothing else was in the batch
    assert waiter.output == RowError("model_hung", "it failed")


def test_other_failures_say_nothing(court: Court) -> None:
    for kind in (FailureKind.RAISED, FailureKind.WRONG_COUNT, FailureKind.RETURNED):
        court.batch(1)
        court.fail(kind)
    assert court.told == []


# -- hedged ------------------------------------------------------------------------------


@pytest.fixture
def told() -> list[tuple[list[int], Verdict]]:
    return []


@pytest.fixture
def yard(clock: ManualClock, fake_loop: FakeLoop, told: list[Any]) -> Yard:
    controllers = [Known(PER_ROW, FIXED) for _ in range(2)]

    def hear(ended: Any, verdict: Verdict) -> None:
        told.append(([yard.ready.index(replica) for replica in ended], verdict))

    yard = Yard(clock, fake_loop, *controllers, on_verdict=hear)
    return yard


def test_a_copy_that_survives_acquits_the_row(yard: Yard, told: list[Any]) -> None:
    overdue(yard)
    yard.broke(0, FailureKind.HUNG)
    assert told == [([0], OPEN)]
    yard.back(1)
    assert told == [([0], OPEN), ([0], OWN)]


def test_a_row_that_ends_both_is_poison(yard: Yard, told: list[Any]) -> None:
    overdue(yard)
    yard.broke(0, FailureKind.HUNG)
    yard.broke(1, FailureKind.HUNG)
    assert told == [([0], OPEN), ([1], OPEN), ([0, 1], POISON)]


def test_a_batch_that_hangs_ends_two_workers_at_most(yard: Yard, told: list[Any]) -> None:
    yard.earn()
    yard.ready = yard.ready[:1]
    yard.loop.turn()
    waiters = [yard.job(value) for value in range(2)]
    yard.loop.turn()
    yard.ready = (*yard.ready, FakeReplica())
    yard.dispatcher.reopen()
    yard.loop.advance(1.0)
    assert yard.with_replicas() == [[0.0, 1.0], []]  # however late it is
    yard.broke(0, FailureKind.HUNG)
    assert told == [([0], OPEN)]
    assert sorted(yard.with_replicas()) == [[0.0], [1.0]]
    yard.loop.advance(5.0)
    assert sorted(yard.with_replicas()) == [[0.0], [1.0]]  # suspects are never copied
    yard.broke(at := int(yard.with_replicas()[1] == [0.0]), FailureKind.HUNG)
    assert told[1:] == [([at], OPEN), ([0, at], POISON)]
    yard.back(1 - at)
    assert isinstance(waiters[0].output, RowError) and waiters[1].output == b"1"
    assert len(told) == 3


@pytest.mark.parametrize("first", [0, 1])
def test_a_row_of_a_batch_that_was_copied_alone(
    yard: Yard, told: list[Any], first: int
) -> None:
    """To learn of a replica that was passed over, it gets the first row of a batch."""
    yard.earn()
    yard.loop.advance(TRIAL_SECONDS)
    waiters = [yard.job(value) for value in range(3)]
    yard.loop.turn()
    rows = yard.with_replicas()
    assert sorted(map(len, rows)) == [1, 3]
    order = sorted((0, 1), key=lambda at: len(rows[at]), reverse=bool(first))
    for at in order:
        yard.broke(at, FailureKind.CRASHED)
    assert isinstance(waiters[0].output, RowError)  # the third worker is spared
    assert told == [([order[0]], OPEN), ([order[1]], OPEN), (order, POISON)]
    while any(replica.batches for replica in yard.ready):
        yard.back(next(n for n, replica in enumerate(yard.ready) if replica.batches))
    assert [waiter.output for waiter in waiters[1:]] == [b"1", b"2"]
    assert len(told) == 3


def test_a_late_death_under_what_was_answered_elsewhere(
    yard: Yard, told: list[Any]
) -> None:
    overdue(yard)
    yard.back(1)
    yard.broke(0, FailureKind.CRASHED)
    assert told == [([0], OPEN), ([0], OWN)]


def test_a_copy_that_comes_back_untouched_is_tried_again(
    yard: Yard, told: list[Any]
) -> None:
    overdue(yard)
    yard.broke(0, FailureKind.CRASHED)
    yard.broke(1, FailureKind.RETURNED)
    assert told == [([0], OPEN)]
    yard.back(next(n for n, replica in enumerate(yard.ready) if replica.batches))
    assert told == [([0], OPEN), ([0], OWN)]
