"""The dispatcher with more work than it can do in time, and with time to wait for more."""

from __future__ import annotations

from typing import Any

from fakes import FakeLoop, FakeReplica, ManualClock

from clipper.batching.aimd import AIMD
from clipper.batching.alarm import TICK
from clipper.batching.controller import Backlog, Plan
from clipper.batching.outcomes import FULL, REFUSED, SHED
from clipper.batching.wait import FixedWait
from clipper.batching.way_back import MOST_WIRE

from .contract import Known
from .test_dispatcher import Bench
from .test_dispatcher_replicas import FIXED, PER_ROW, Yard
from .test_load import at
from .test_queue import Waiter

# -- what comes too late ---------------------------------------------------------------


def busy(clock: ManualClock, loop: FakeLoop, **more: Any) -> Yard:
    """One replica of known speed that has just been given ten rows."""
    yard = Yard(clock, loop, Known(PER_ROW, FIXED), **more)
    yard.send(0)
    yard.back(0)
    for value in range(10):
        yard.job(value)
    loop.turn()
    return yard


def test_what_could_only_wait_in_vain_is_refused_at_once(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = busy(clock, fake_loop)
    first = 0.020 + 0.011 + MOST_WIRE  # what runs, its own batch, and the way back
    assert yard.job(1, slo=first - 1e-5).output == REFUSED
    assert yard.stats.refused_rows == 1
    waiter, each = yard.job(2, slo=first + 1e-5), 0.020 / 10
    assert not waiter.told
    assert yard.job(3, slo=first + each - 1e-5).output == REFUSED  # behind the other
    assert not yard.job(4, slo=first + each + 1e-5).told
    rows, _ = yard.block([1.0, 2.0], slo=0.01)
    assert rows.rows == [REFUSED] * 2 and yard.stats.refused_rows == 4


def test_while_a_replica_is_idle_nothing_is_refused(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = busy(clock, fake_loop)
    yard.back(0)
    assert not yard.job(1, slo=0.001).told
    assert yard.stats.refused_rows == 0


def test_behind_a_replica_that_hangs_rows_are_refused(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = busy(clock, fake_loop)
    told = []
    for _ in range(100):
        fake_loop.advance(0.05)
        told.append(yard.job(1, slo=0.2))
        fake_loop.turn()
    assert [waiter.output for waiter in told].count(REFUSED) > 80


def test_an_answer_from_who_has_left_opens_no_door(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = Yard(clock, fake_loop, *[Known(PER_ROW, 10.0, objective=20.0) for _ in range(2)])
    for _ in range(2):
        yard.send(1, slo=100.0)
    for which in (0, 1):
        yard.back(which)
    for _ in range(2):
        yard.send(1, slo=100.0)
    assert [len(replica.batches) for replica in yard.ready] == [1, 1]
    leaver = yard.ready[0]
    yard.ready = yard.ready[1:]
    yard.dispatcher.reopen()
    fake_loop.turn()
    leaver.answer(lambda row: b"%d" % row[0])
    assert yard.job(1, slo=0.5).output == REFUSED


def test_a_replica_that_comes_opens_the_door(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = busy(clock, fake_loop)
    assert yard.job(1, slo=0.005).output == REFUSED
    yard.ready = (*yard.ready, FakeReplica())
    yard.dispatcher.reopen()
    fake_loop.turn()
    assert not yard.job(1, slo=0.005).told


class Hopeless(Known):
    """Gives up all that waits."""

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(backlog.rows, 0)


def test_who_asks_again_when_refused_does_not_keep_the_loop(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = Yard(clock, fake_loop, Hopeless(PER_ROW, FIXED))
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        yard.job(1, slo=0.001, waiter=Waiter(ask))

    ask()
    yard.dispatcher._dispatch()
    assert asked == 2  # that the first cannot be in time was seen, and no more


def test_a_queue_has_its_limit(clock: ManualClock, fake_loop: FakeLoop) -> None:
    yard = busy(clock, fake_loop, limit=3)
    waiting = [yard.job(value) for value in range(3)]
    assert yard.job(4).output == FULL
    assert not any(waiter.told for waiter in waiting)


class Spy(Known):
    """Remembers when batches were to begin."""

    def plan(self, now: float, backlog: Backlog) -> Plan:
        self.begins = now
        return super().plan(now, backlog)


def test_a_batch_is_planned_for_when_it_begins_and_the_way_back_is_kept_free(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    spy = Spy(PER_ROW, FIXED, cap=4)
    yard = Yard(clock, fake_loop, spy)
    yard.send(0)
    yard.back(0)
    for begins in (0.0, 0.014):  # at once, and after four rows
        for value in range(4):
            yard.job(value)
        fake_loop.turn()
        assert spy.begins == at(begins + MOST_WIRE)


class Sluggish(Bench):
    """A model that has become too slow for its objective, and knows it."""

    def __init__(self, clock: ManualClock, loop: FakeLoop) -> None:
        controller = AIMD(0.02, 64)
        for _ in range(40):
            controller.record(1, 0.05)
        super().__init__(clock, loop, controller)

    def ask(self) -> Waiter:
        waiter = self.job(1, slo=0.02)
        self.loop.turn()
        return waiter


def test_where_nothing_can_be_in_time_a_row_is_tried_now_and_then(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Sluggish(clock, fake_loop)
    tried = bench.ask()
    assert not tried.told and len(bench.replica.batches) == 1
    clock.move(0.05)
    bench.answer(0.05)
    assert bench.ask().output == SHED  # not again so soon
    clock.move(0.19)
    assert bench.ask().told
    clock.move(0.02)
    assert not bench.ask().told and len(bench.replica.batches) == 1


def test_by_such_trials_it_is_learned_that_the_model_is_fast_again(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Sluggish(clock, fake_loop)
    outputs = []
    for _ in range(60):
        waiter = bench.ask()
        if bench.replica.batches:
            clock.move(0.001)
            bench.answer(0.001)
        outputs.append(waiter.output)
        clock.move(0.25)
    assert outputs[-40:] == [b"1"] * 40
    assert not bench.ask().told and not bench.ask().told


# -- batches that wait -----------------------------------------------------------------


def waiting(clock: ManualClock, loop: FakeLoop, seconds: float) -> Yard:
    """One replica that has answered a batch, where others wait that long."""
    yard = Yard(clock, loop, Known(PER_ROW, FIXED, cap=4), wait=FixedWait(seconds))
    for value in range(4):
        yard.job(value)
    loop.turn()
    yard.back(0)
    return yard


def test_a_batch_waits_to_become_fuller(clock: ManualClock, fake_loop: FakeLoop) -> None:
    yard = waiting(clock, fake_loop, 0.005)
    yard.send(1)
    fake_loop.advance(0.003)
    yard.send(2)
    fake_loop.advance(0.0019)
    assert yard.with_replicas() == [[]]
    fake_loop.advance(0.0002)
    assert yard.with_replicas() == [[1.0, 2.0]]


def test_a_full_batch_waits_for_nothing(clock: ManualClock, fake_loop: FakeLoop) -> None:
    yard = waiting(clock, fake_loop, 5.0)
    for value in range(6):
        yard.send(value)
    assert yard.with_replicas() == [[0.0, 1.0, 2.0, 3.0]]


def test_no_row_becomes_late_by_a_wait(clock: ManualClock, fake_loop: FakeLoop) -> None:
    """Two rows may have come by then, the timer be late, and the way back takes time."""
    yard, needed = waiting(clock, fake_loop, 5.0), MOST_WIRE + FIXED + 2 * PER_ROW
    yard.send(1, slo=needed + TICK + 0.004)
    fake_loop.advance(0.0039)
    assert yard.with_replicas() == [[]]
    fake_loop.advance(TICK + 0.0001)
    assert yard.with_replicas() == [[1.0]]
    yard.back(0)
    yard.send(2, slo=needed + TICK - 1e-5)
    assert yard.with_replicas() == [[2.0]]


def behind_a_full_batch(clock: ManualClock, loop: FakeLoop) -> Yard:
    yard = waiting(clock, loop, 0.005)
    for value in range(4):
        yard.send(value)
    yard.send(9)
    return yard


def test_what_comes_while_a_batch_runs_may_wait_for_company(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = behind_a_full_batch(clock, fake_loop)
    fake_loop.advance(0.001)
    yard.back(0)
    assert yard.with_replicas() == [[]]
    fake_loop.advance(0.0051)
    assert yard.with_replicas() == [[9.0]]


def test_what_waited_for_a_replica_is_not_kept_any_longer(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = behind_a_full_batch(clock, fake_loop)
    fake_loop.advance(1.0)
    yard.back(0)
    assert yard.with_replicas() == [[9.0]]


def test_a_batch_that_goes_ahead_of_another_answer_does_not_wait(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    yard = Yard(clock, fake_loop, Known(PER_ROW, 0.0, cap=4), wait=FixedWait(0.005))
    yard.send(1)
    fake_loop.advance(0.0051)
    yard.send(2)
    assert yard.with_replicas() == [[1.0, 2.0]]
