"""The dispatcher with several replicas."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeLoop, FakeReplica, ManualClock

from clipper.batching.aimd import AIMD
from clipper.batching.fleet import TRIAL_SECONDS
from clipper.batching.hedging import PATIENCE
from clipper.values import FailureKind, RowError

from .contract import Known
from .test_dispatcher import Bench
from .test_queue import Waiter

FIXED, PER_ROW = 0.01, 0.001


class Yard(Bench):
    """A dispatcher with replicas of known speeds."""

    def __init__(
        self, clock: ManualClock, loop: FakeLoop, *controllers: Known, **more: Any
    ) -> None:
        super().__init__(clock, loop, controllers[0], **more)
        self.ready = tuple(FakeReplica() for _ in controllers)  # type: ignore[assignment]
        fleet = self.dispatcher.fleet
        fleet.renew(self.ready)
        for load, controller in zip(fleet.loads, controllers, strict=True):
            load.controller = controller
            load.used_at = clock.now()  # nobody is neglected yet

    def send(self, value: float, slo: float = 10.0) -> Waiter:
        waiter = self.job(value, slo)
        self.loop.turn()
        return waiter

    def back(self, which: int, seconds: float = 0.001) -> None:
        """A replica answers its oldest batch."""
        self.ready[which].answer(lambda row: b"%d" % row[0], seconds)
        self.loop.turn()

    def broke(self, which: int, kind: FailureKind) -> None:
        self.ready[which].fail(kind)
        self.loop.turn()

    def with_replicas(self) -> list[list[float]]:
        """The rows that each replica has now."""
        return [
            [row[0] for rows in r.seen[len(r.seen) - len(r.batches) :] for row in rows]
            for r in self.ready
        ]

    def earn(self, rows: int = 200) -> None:
        """Let so many rows pass, so that a few may be evaluated twice."""
        for value in range(rows):
            self.job(value)
            self.loop.turn()
            while any(replica.batches for replica in self.ready):
                for which, replica in enumerate(self.ready):
                    if replica.batches:
                        self.back(which)
        for load in self.dispatcher.fleet.loads:
            load.used_at = self.clock.now()


@pytest.fixture
def yard(clock: ManualClock, fake_loop: FakeLoop) -> Yard:
    """Two equal replicas."""
    return Yard(clock, fake_loop, Known(PER_ROW, FIXED), Known(PER_ROW, FIXED))


# -- which replica ---------------------------------------------------------------------


def test_work_goes_where_it_is_done_first(clock: ManualClock, fake_loop: FakeLoop) -> None:
    yard = Yard(clock, fake_loop, Known(10 * PER_ROW, FIXED), Known(PER_ROW, FIXED))
    yard.send(1)
    assert yard.with_replicas() == [[], [1.0]]
    yard.send(2)  # 20 ms with the slow one, 22 with the one that is busy
    assert yard.with_replicas() == [[2.0], [1.0]]
    yard.send(3)
    assert yard.with_replicas() == [[2.0], [1.0]]  # it waits for whoever is free first
    yard.back(1)
    assert yard.with_replicas() == [[2.0], [3.0]]


def test_idle_replicas_share_what_waits(clock: ManualClock, fake_loop: FakeLoop) -> None:
    yard = Yard(clock, fake_loop, Known(PER_ROW, 0.0), Known(PER_ROW, 0.0))
    for value in range(7):
        yard.job(value)
    fake_loop.turn()
    assert [len(rows) for rows in yard.with_replicas()] == [4, 3]


def test_where_another_batch_costs_more_than_it_saves_nothing_is_shared(yard: Yard) -> None:
    for value in range(7):
        yard.job(value)
    yard.loop.turn()
    assert sorted(len(rows) for rows in yard.with_replicas()) == [0, 7]


def test_what_was_learned_outlives_the_replica(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, AIMD(1.0, 64))
    for value in range(40):
        bench.job(value)
    fake_loop.turn()
    while bench.replica.batches:
        bench.answer(seconds=0.001)
    cap = bench.dispatcher.controller.cap
    assert cap >= 8
    bench.ready = (FakeReplica(), FakeReplica())  # type: ignore[assignment]
    for value in range(cap):
        bench.job(value)
    fake_loop.turn()
    assert [load.controller.cap for load in bench.dispatcher.fleet.loads] == [cap, cap]


def test_a_replica_that_was_passed_over_for_long_is_tried_with_a_copy(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = Yard(clock, fake_loop, Known(PER_ROW, FIXED), Known(PER_ROW, 20.0))
    yard.send(1)
    yard.back(0)
    clock.move(TRIAL_SECONDS)
    waiter = yard.send(2)
    assert yard.with_replicas() == [[2.0], [2.0]]
    assert yard.stats.hedged_rows == 1
    yard.back(0)
    assert waiter.output == b"2"
    yard.back(1)
    assert yard.dispatcher.in_flight == set()


def test_many_rows_of_one_query_are_too_many_for_a_trial(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = Yard(clock, fake_loop, Known(PER_ROW, FIXED), Known(PER_ROW, 20.0))
    clock.move(TRIAL_SECONDS)
    yard.block([1.0, 2.0])
    fake_loop.turn()
    assert yard.with_replicas() == [[1.0, 2.0], []]


# -- a second replica for what takes too long ------------------------------------------


def overdue(yard: Yard) -> Waiter:
    """One row that is with the first replica and takes too long."""
    yard.earn()
    waiter = yard.send(1)
    yard.send(2)
    yard.back(1)
    assert yard.with_replicas() == [[1.0], []]
    yard.loop.advance(FIXED + PER_ROW + PATIENCE - 0.0005)
    assert yard.with_replicas() == [[1.0], []]
    yard.loop.advance(0.0015)
    return waiter


def test_what_takes_too_long_is_given_to_a_second_replica_as_well(yard: Yard) -> None:
    waiter = overdue(yard)
    assert yard.with_replicas() == [[1.0], [1.0]]
    assert yard.stats.hedged_rows == 1
    yard.back(1)
    assert waiter.output == b"1"
    yard.back(0)  # a second answer is nobody's
    assert yard.dispatcher.in_flight == set() and yard.stats.hedged_rows == 1


def test_a_copy_is_not_sent_any_more_when_the_first_was_sooner(yard: Yard) -> None:
    yard.earn()
    yard.send(1)
    yard.send(2)
    assert yard.with_replicas() == [[1.0], [2.0]]
    yard.loop.advance(1.0)  # both are overdue, and none is idle
    yard.back(0)
    assert yard.with_replicas() == [[2.0], [2.0]]  # the other one's copy alone
    yard.back(0)
    yard.back(1)
    assert yard.with_replicas() == [[], []]


@pytest.mark.parametrize("kind", FailureKind)
def test_what_a_second_replica_has_does_not_fail_with_the_first(
    yard: Yard, kind: FailureKind
) -> None:
    waiter = overdue(yard)
    yard.broke(0, kind)
    assert not waiter.told and yard.with_replicas() == [[], [1.0]]
    yard.back(1)
    assert waiter.output == b"1"
    assert yard.stats.retried_rows == 0 and yard.dispatcher.in_flight == set()


def test_a_copy_that_fails_harms_nobody_and_when_both_fail_so_does_the_row(
    yard: Yard,
) -> None:
    waiter = overdue(yard)
    yard.broke(1, FailureKind.HUNG)
    assert not waiter.told
    yard.broke(0, FailureKind.HUNG)
    assert waiter.output == RowError("model_hung", "it failed")


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.HUNG])
def test_a_row_that_ends_two_workers_at_once_ends_no_third(
    yard: Yard, kind: FailureKind
) -> None:
    waiter = overdue(yard)
    yard.broke(0, kind)
    yard.broke(1, kind)
    assert isinstance(waiter.output, RowError)
    assert yard.with_replicas() == [[], []] and yard.dispatcher.in_flight == set()


def test_a_row_that_ended_a_worker_is_not_copied_when_it_takes_too_long(
    yard: Yard,
) -> None:
    yard.earn()
    waiter = yard.send(1)
    yard.send(2)
    yard.back(1)
    yard.broke(0, FailureKind.HUNG)
    yard.loop.advance(1.0)
    again = yard.with_replicas()
    assert sorted(again) == [[], [1.0]]
    yard.back(again.index([1.0]))
    assert waiter.output == b"1" and yard.stats.hedged_rows == 0


def test_what_was_answered_does_not_fail_with_the_late_flight(yard: Yard) -> None:
    waiter = overdue(yard)
    yard.back(1)
    yard.broke(0, FailureKind.CRASHED)
    assert waiter.output == b"1" and yard.with_replicas() == [[], []]


def test_rows_that_must_not_be_evaluated_twice_are_not(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = Yard(clock, fake_loop, Known(), Known(), retry=False)
    yard.earn()
    yard.send(1)
    fake_loop.advance(5.0)
    assert yard.with_replicas() == [[1.0], []] and yard.stats.hedged_rows == 0


def test_a_row_that_nothing_follows_is_given_to_a_second_replica_too(yard: Yard) -> None:
    yard.earn()
    yard.send(1)
    yard.loop.advance(1.0)
    assert yard.with_replicas() == [[1.0], [1.0]]


def test_what_waits_for_a_replica_that_fails_goes_to_another(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    fast, slow = Known(0.0, 0.05, cap=2), Known(0.0, 10.0, cap=2)
    yard = Yard(clock, fake_loop, fast, slow, retry=False)
    yard.send(1)
    waiting = yard.send(2, slo=5.0)
    assert yard.with_replicas() == [[1.0], []]  # it would be sooner than the idle one
    failing, other = yard.ready
    yard.ready = (other,)
    failing.fail(FailureKind.CRASHED)
    fake_loop.turn()
    assert other.seen == [[[2.0]]] and not waiting.told
