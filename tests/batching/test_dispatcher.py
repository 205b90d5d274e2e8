from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fakes import FakeLoop, FakeReplica, ManualClock

from clipper.batching.aimd import AIMD
from clipper.batching.controller import Backlog, Plan
from clipper.batching.dispatcher import Dispatcher
from clipper.batching.fixed import Fixed
from clipper.batching.job import EXPIRED, Block, Job
from clipper.batching.outcomes import ABANDONED, SHED
from clipper.inputs import InputType, encode_python
from clipper.values import FailureKind, RowError

from .test_queue import Waiter

STOPPED = RowError("unavailable", "stopped")


class Bench:
    """A dispatcher with one replica of doubles, in manual time."""

    def __init__(self, clock: ManualClock, loop: FakeLoop, controller: Any, **more: Any):
        self.clock = clock
        self.loop = loop
        self.replica = FakeReplica()
        self.ready = (self.replica,)
        self.up = True
        self.dispatcher = Dispatcher(
            InputType.DOUBLES,
            controller,
            lambda: self.ready if self.up else (),
            clock=clock,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            **more,
        )
        self.stats = self.dispatcher.stats

    def job(self, value: float, slo: float = 10.0, waiter: Waiter | None = None) -> Waiter:
        waiter = waiter or Waiter()
        row = encode_python(InputType.DOUBLES, [value])
        self.dispatcher.intake.submit(Job(*row, self.clock.now() + slo, waiter))
        return waiter

    def block(self, values: list[float], slo: float = 10.0) -> tuple[Waiter, Block]:
        waiter = Waiter()
        payload = encode_python(InputType.DOUBLES, values).payload
        block = Block(payload, len(values), None, self.clock.now() + slo, waiter)
        self.dispatcher.intake.submit(block)
        return waiter, block

    def answer(self, seconds: float = 0.001) -> None:
        self.replica.answer(lambda row: b"%d" % row[0], seconds)
        self.loop.turn()

    def fail(self, kind: FailureKind) -> None:
        self.replica.fail(kind)
        self.loop.turn()


@pytest.fixture
def bench(clock: ManualClock, fake_loop: FakeLoop) -> Bench:
    return Bench(clock, fake_loop, Fixed(1.0, 4))


# -- the plain way ---------------------------------------------------------------------


def test_what_comes_in_one_turn_rides_in_one_batch(bench: Bench) -> None:
    waiters = [bench.job(value) for value in (1, 2, 3)]
    assert bench.replica.seen == []
    bench.loop.turn()
    assert bench.replica.seen == [[[1.0], [2.0], [3.0]]]
    bench.answer(seconds=0.25)
    assert [waiter.output for waiter in waiters] == [b"1", b"2", b"3"]
    assert (bench.stats.batches, bench.stats.rows) == (1, 3)
    assert bench.stats.service_seconds.sum == 0.25
    assert bench.dispatcher.in_flight == set()


def test_a_second_batch_goes_ahead_only_when_it_is_full(bench: Bench) -> None:
    waiters = [bench.job(value) for value in range(10)]
    bench.loop.turn()
    assert [len(rows) for rows in bench.replica.seen] == [4, 4]
    assert bench.dispatcher.intake.queue.rows == 2
    bench.answer(seconds=0.01)
    assert [len(rows) for rows in bench.replica.seen] == [4, 4]
    waiters.append(bench.job(10))  # it may still join the two
    bench.answer(seconds=0.01)
    assert [len(rows) for rows in bench.replica.seen] == [4, 4, 3]
    bench.answer()
    assert [waiter.output for waiter in waiters] == [b"%d" % i for i in range(11)]


def test_where_batches_cost_next_to_nothing_any_goes_ahead(bench: Bench) -> None:
    bench.job(0)
    bench.loop.turn()
    bench.answer(seconds=0.0001)
    for value in (1, 2):
        bench.job(value)
        bench.loop.turn()
    assert bench.replica.seen[1:] == [[[1.0]], [[2.0]]]


def test_without_work_nothing_is_sent(bench: Bench) -> None:
    bench.dispatcher.reopen()
    bench.loop.turn()
    assert bench.replica.seen == []


def test_blocks_are_cut_to_the_batch_size_and_join_jobs(bench: Bench) -> None:
    single = bench.job(9)
    waiter, _ = bench.block([0, 1, 2, 3, 4])
    bench.loop.turn()
    assert bench.replica.seen == [[[9.0], [0.0], [1.0], [2.0]], [[3.0], [4.0]]]
    bench.answer()
    assert single.output == b"9" and not waiter.told
    bench.answer()
    assert waiter.rows == [b"0", b"1", b"2", b"3", b"4"]


def test_rows_of_other_shapes_share_a_batch(bench: Bench) -> None:
    for value in ([1.0, 2.0], [[1.0], [2.0]], [3.0]):
        row = encode_python(InputType.DOUBLES, value)
        bench.dispatcher.intake.submit(Job(*row, bench.clock.now() + 9, Waiter()))
    bench.loop.turn()
    assert bench.replica.seen == [[[1.0, 2.0], [[1.0], [2.0]], [3.0]]]


def test_the_controller_learns_from_whole_batches(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    controller = AIMD(1.0, 100)
    bench = Bench(clock, fake_loop, controller)
    for value in range(20):
        bench.job(value)
    fake_loop.turn()
    while bench.replica.batches:
        bench.answer()
    assert [len(rows) for rows in bench.replica.seen] == [1, 1, 2, 2, 4, 4, 6]
    assert bench.dispatcher.intake.queue.rows == 0


def test_a_promoted_job_overtakes(clock: ManualClock, fake_loop: FakeLoop) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 1))
    for value in (1, 2, 3):
        bench.job(value)
    late = Job(*encode_python(InputType.DOUBLES, [9.0]), clock.now() + 20, Waiter())
    bench.dispatcher.intake.submit(late)
    assert late.join(Waiter(), clock.now() + 1)
    fake_loop.turn()
    assert late.join(Waiter(), clock.now() + 0.5)  # in flight: nothing to move
    assert bench.replica.seen == [[[9.0]], [[1.0]]]
    assert bench.dispatcher.intake.queue.rows == 2


# -- what is given up ------------------------------------------------------------------


def test_expired_and_abandoned_rows_are_settled_and_counted(bench: Bench) -> None:
    bench.up = False
    expired = bench.job(1, slo=1.0)
    abandoned = Waiter()
    gone = Job(b"\0" * 8, None, bench.clock.now() + 9, abandoned)
    bench.dispatcher.intake.submit(gone)
    gone.leave(abandoned)
    waiter, _ = bench.block([1, 2, 3], slo=1.0)
    alive = bench.job(5)
    bench.clock.move(2.0)
    bench.up = True
    bench.loop.turn()
    assert expired.output == EXPIRED and gone.settled and not abandoned.told
    assert waiter.rows == [EXPIRED] * 3
    assert (bench.stats.expired_rows, bench.stats.abandoned_rows) == (4, 1)
    bench.answer()
    assert alive.output == b"5"


def test_of_a_block_only_the_rows_that_waited_count_as_expired(bench: Bench) -> None:
    waiter, _ = bench.block([float(i) for i in range(10)], slo=1.0)
    bench.loop.turn()
    bench.clock.move(2.0)
    bench.answer()
    bench.answer()
    assert bench.stats.expired_rows == 2
    assert waiter.rows == [b"%d" % i for i in range(8)] + [EXPIRED] * 2


def test_who_joins_while_dead_work_is_dropped_is_not_failed_with_it(bench: Bench) -> None:
    """A connection that is answered submits its next request from inside that call."""
    late = Job(b"\0" * 8, None, bench.clock.now() + 1, Waiter())
    joined = Waiter()
    bench.up = False
    bench.job(1, slo=0.5, waiter=Waiter(lambda: late.join(joined, bench.clock.now() + 9)))
    bench.dispatcher.intake.submit(late)
    bench.clock.move(2.0)
    bench.up = True
    bench.loop.turn()
    assert not joined.told
    bench.answer()
    assert joined.output == b"0"
    assert bench.stats.expired_rows == 1


class Shedding(Fixed):
    """Gives up the first rows of every backlog."""

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(max(0, backlog.rows - 2), 2)


def test_rows_that_the_controller_gives_up_are_shed_at_once(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Shedding(1.0, 2))
    bench.job(-1)
    fake_loop.turn()
    bench.answer()  # just now: whoever is given up is so because of others
    expired = bench.job(0, slo=0.0)
    shed = [bench.job(1), bench.job(2)]
    waiter, _ = bench.block([3, 4, 5])
    fake_loop.turn()
    assert expired.output == EXPIRED
    assert [w.output for w in shed] == [SHED, SHED]
    bench.answer()
    assert waiter.rows is not None and waiter.rows.count(SHED) == bench.stats.shed_rows - 2
    assert bench.dispatcher.intake.queue.rows == 0


def test_a_controller_that_plans_nothing_does_not_stop_the_server(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    class Idle(Fixed):
        def plan(self, now: float, backlog: Backlog) -> Plan:
            return Plan(0, 0)

    bench = Bench(clock, fake_loop, Idle(1.0, 2))
    waiter = bench.job(1)
    fake_loop.turn()
    bench.answer()
    assert waiter.output == b"1"


def test_what_an_idle_replica_could_not_do_in_time_is_not_for_others(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Shedding(1.0, 2))
    waiters = [bench.job(value) for value in range(4)]
    fake_loop.turn()
    assert [w.output for w in waiters] == [EXPIRED, EXPIRED, None, None]
    assert (bench.stats.expired_rows, bench.stats.shed_rows) == (2, 0)


def test_dead_work_does_not_pile_up_while_no_replica_has_room(bench: Bench) -> None:
    bench.up = False
    for _ in range(50):
        bench.job(1, slo=1.0)
        bench.loop.turn()
        bench.clock.move(0.5)
    assert bench.dispatcher.intake.queue.rows <= 3
    assert bench.stats.expired_rows >= 47


# -- failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FailureKind.RAISED, "model_failed"),
        (FailureKind.WRONG_COUNT, "model_failed"),
        (FailureKind.CRASHED, "model_crashed"),
        (FailureKind.HUNG, "model_hung"),
    ],
)
def test_a_batch_that_must_not_be_retried_fails_its_rows(
    clock: ManualClock, fake_loop: FakeLoop, kind: FailureKind, code: str
) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 4), retry=False)
    single = bench.job(1)
    waiter, _ = bench.block([1, 2])
    bench.loop.turn()
    bench.fail(kind)
    assert single.output == RowError(code, "it failed")
    assert waiter.rows == [single.output] * 2
    assert bench.stats.failed_batches[kind] == 1 and bench.stats.batches == 0
    assert bench.dispatcher.in_flight == set()


@pytest.mark.parametrize(
    ("kind", "again", "code"),
    [
        (FailureKind.WRONG_COUNT, FailureKind.WRONG_COUNT, "model_failed"),
        (FailureKind.HUNG, FailureKind.HUNG, "model_hung"),
        (FailureKind.HUNG, FailureKind.CRASHED, "model_crashed"),
        (FailureKind.CRASHED, FailureKind.WRONG_COUNT, "model_failed"),
    ],
)
def test_one_bad_row_does_not_fail_its_neighbours(
    bench: Bench, kind: FailureKind, again: FailureKind, code: str
) -> None:
    bad, *good = [bench.job(value) for value in range(4)]
    bench.loop.turn()
    bench.fail(kind)
    bench.fail(again)  # the first row, alone
    while bench.replica.batches:
        bench.answer()
    assert bad.output == RowError(code, "it failed")
    assert all(isinstance(waiter.output, bytes) for waiter in good)
    assert [len(rows) for rows in bench.replica.seen] == [4, 1, 1, 1, 1]


DIED = RowError("model_crashed", "it failed")
RAISED = RowError("model_failed", "it failed")


def test_after_a_death_the_rows_are_retried_each_alone(bench: Bench) -> None:
    single = bench.job(1)
    waiter, _ = bench.block([2, 3, 4])
    later = bench.job(5)
    bench.loop.turn()
    assert bench.replica.seen == [[[1.0], [2.0], [3.0], [4.0]], [[5.0]]]
    bench.replica.fail(FailureKind.CRASHED)
    bench.fail(FailureKind.RETURNED)
    assert bench.stats.retried_rows == 5
    assert bench.replica.seen[2:] == [[[1.0]], [[2.0]]]
    bench.answer()
    bench.fail(FailureKind.CRASHED)  # the second row kills
    while bench.replica.batches:
        bench.answer()
    assert bench.replica.seen[4:] == [[[3.0]], [[4.0]], [[5.0]]]
    assert single.output == b"1"
    assert waiter.rows == [DIED, b"3", b"4"]
    assert later.output == b"5"
    assert bench.dispatcher.intake.queue.rows == 0 and bench.dispatcher.in_flight == set()


HUNG = RowError("model_hung", "it failed")


@pytest.mark.parametrize(
    ("kind", "error"), [(FailureKind.CRASHED, DIED), (FailureKind.HUNG, HUNG)]
)
def test_a_row_that_ends_a_worker_alone_is_given_up(
    bench: Bench, kind: FailureKind, error: RowError
) -> None:
    waiter = bench.job(1)
    bench.loop.turn()
    bench.fail(kind)
    assert bench.replica.seen == [[[1.0]]] * 2
    bench.fail(kind)
    assert waiter.output == error and bench.replica.batches == []


def test_after_a_hang_the_neighbours_are_answered(bench: Bench) -> None:
    waiter, _ = bench.block([1, 2, 3])
    bench.loop.turn()
    bench.fail(FailureKind.HUNG)
    bench.answer()
    bench.fail(FailureKind.HUNG)
    bench.answer()
    assert waiter.rows == [b"1", HUNG, b"3"]


def test_an_exception_costs_only_the_rows_that_cause_it(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 100))
    jobs = [bench.job(value) for value in range(5)]
    waiter, _ = bench.block([float(value) for value in range(5, 16)])
    fake_loop.turn()
    while bench.replica.batches:
        if any(row[0] in (3.0, 9.0) for row in bench.replica.oldest()):
            bench.fail(FailureKind.RAISED)
        else:
            bench.answer()
    expected: list[Any] = [b"%d" % value for value in range(16)]
    expected[3] = expected[9] = RAISED
    assert [job.output for job in jobs] == expected[:5] and waiter.rows == expected[5:]
    assert len(bench.replica.seen) <= 1 + 2 * 2 * 4  # two rows, four levels


def test_a_function_that_must_not_run_twice_does_not(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 4), retry=False)
    for kind, error in ((FailureKind.RAISED, RAISED), (FailureKind.CRASHED, DIED)):
        waiter, _ = bench.block([1, 2])
        fake_loop.turn()
        bench.fail(kind)
        assert waiter.rows == [error] * 2


def test_rows_that_are_retried_are_dropped_when_nobody_needs_them(bench: Bench) -> None:
    expired, waiter = bench.job(1, slo=1.0), Waiter()
    gone = Job(b"\0" * 8, None, bench.clock.now() + 9, waiter)
    bench.dispatcher.intake.submit(gone)
    alive = bench.job(3)
    bench.loop.turn()
    bench.replica.fail(FailureKind.CRASHED)
    gone.leave(waiter)
    bench.clock.move(2.0)
    bench.loop.turn()
    bench.answer()
    assert expired.output == EXPIRED and alive.output == b"3"
    assert bench.replica.seen[1:] == [[[3.0]]]
    assert (bench.stats.expired_rows, bench.stats.abandoned_rows) == (1, 1)


async def test_drain_waits_for_rows_that_are_retried(bench: Bench) -> None:
    waiter = bench.job(1)
    bench.loop.turn()
    bench.up = False
    bench.fail(FailureKind.CRASHED)
    await drained(bench, lambda: bench.dispatcher.close(STOPPED))
    assert waiter.output == STOPPED


def test_a_batch_that_never_began_is_not_to_blame(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 4), retry=False)
    waiter = bench.job(1)
    fake_loop.turn()
    for _ in range(3):
        bench.fail(FailureKind.RETURNED)
    bench.answer()
    assert waiter.output == b"1"


def test_without_retry_a_crash_is_final(clock: ManualClock, fake_loop: FakeLoop) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 4), retry=False)
    waiter = bench.job(1)
    fake_loop.turn()
    bench.fail(FailureKind.CRASHED)
    assert waiter.output == RowError("model_crashed", "it failed")


def test_a_row_that_comes_back_too_late_is_dropped(bench: Bench) -> None:
    waiter = bench.job(1, slo=1.0)
    bench.loop.turn()
    bench.clock.move(2.0)
    bench.fail(FailureKind.CRASHED)
    assert waiter.output == EXPIRED
    assert bench.replica.batches == []


# -- the end ---------------------------------------------------------------------------


def test_closing_settles_what_waits_and_what_follows(bench: Bench) -> None:
    bench.up = False
    first = bench.job(1)
    waiter, _ = bench.block([1, 2])
    bench.dispatcher.close(STOPPED)
    assert first.output == STOPPED and waiter.rows == [STOPPED] * 2
    assert bench.job(2).output == STOPPED
    bench.dispatcher.reopen()
    bench.up = True
    again = bench.job(3)
    bench.loop.turn()
    bench.answer()
    assert again.output == b"3"


def test_closing_settles_rows_that_come_back(bench: Bench) -> None:
    waiter, _ = bench.block([1, 2, 3, 4, 5])
    bench.loop.turn()
    bench.dispatcher.close(STOPPED)
    bench.replica.fail(FailureKind.CRASHED)
    bench.answer()
    assert waiter.rows == [STOPPED] * 4 + [b"5"]


async def drained(bench: Bench, end: Any) -> None:
    """Drain, and bring the end about once the drain waits."""
    async with asyncio.timeout(30):
        waiting = [asyncio.create_task(bench.dispatcher.drain(60)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        end()
        await asyncio.gather(*waiting)


async def test_drain_returns_at_once_when_idle(bench: Bench) -> None:
    await bench.dispatcher.drain(60)


async def test_drain_waits_for_the_last_answer(bench: Bench) -> None:
    bench.job(1)
    bench.loop.turn()
    await drained(bench, bench.answer)


async def test_drain_ends_with_a_batch_that_fails(bench: Bench) -> None:
    bench.job(1)
    bench.loop.turn()
    await drained(bench, lambda: bench.fail(FailureKind.RAISED))


async def test_drain_ends_when_what_waits_is_dropped(bench: Bench) -> None:
    bench.up = False
    bench.job(1, slo=1.0)
    bench.clock.move(2.0)
    await drained(bench, bench.loop.turn)


async def test_drain_ends_with_close(bench: Bench) -> None:
    bench.up = False
    bench.job(1)
    await drained(bench, lambda: bench.dispatcher.close(STOPPED))


async def test_drain_gives_up_after_its_time(bench: Bench) -> None:
    waiter = bench.job(1)
    bench.loop.turn()
    await bench.dispatcher.drain(0.0)
    bench.answer()
    assert waiter.output == b"1"


def test_abandoned_is_told_apart_in_words() -> None:
    assert ABANDONED.code == "cancelled"
