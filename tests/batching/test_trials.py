"""Batches that failed, and what is evaluated again for them, without a dispatcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fakes import FakeLoop, ManualClock

from clipper.batching.hedging import Hedging
from clipper.batching.job import EXPIRED, Job, Part
from clipper.batching.load import Flight
from clipper.batching.outcomes import ABANDONED, CODES
from clipper.batching.suspicion import Suspicion
from clipper.batching.trials import Trial, Trials
from clipper.values import DEADLY, UNIFORM, BatchFailure, FailureKind, RowError, Verdict

from .test_intake import GONE, Door
from .test_queue import Waiter, block

CRASHED, RAISED, RETURNED = FailureKind.CRASHED, FailureKind.RAISED, FailureKind.RETURNED


class Room(Door):
    """Trials with the intake of a door; keeps the verdicts."""

    def __init__(self, clock: ManualClock, loop: FakeLoop, retry: bool = True) -> None:
        super().__init__(clock, loop)
        self.loop = loop
        self.told: list[tuple[int, Verdict]] = []
        self.hedging = Hedging()
        self.trials = Trials(
            self.intake, self.hedging, self.alarm, self.stats, self._hear, retry=retry
        )

    def _hear(self, ended: Sequence[Any], verdict: Verdict) -> None:
        self.told.append((len(ended), verdict))

    def work(self, slo: float = 10.0) -> tuple[Job, Waiter]:
        waiter = Waiter()
        return Job(b"p", None, self.clock.now() + slo, waiter), waiter

    def flight(
        self,
        parts: Sequence[Part],
        suspicion: Suspicion | None = None,
        hedged: bool = False,
    ) -> Flight:
        rows = sum(part.rows for part in parts)
        made = Flight(rows, [], UNIFORM, lambda *_: None, list(parts), self.load)
        made.suspicion, made.hedged = suspicion, hedged
        return made

    def fail(self, flight: Flight, kind: FailureKind, *others: Flight) -> None:
        self.trials.failed(flight, BatchFailure(kind, "why"), others)


@pytest.fixture
def room(clock: ManualClock, fake_loop: FakeLoop) -> Room:
    return Room(clock, fake_loop)


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_is_counted_and_told_as_what_it_is(
    clock: ManualClock, fake_loop: FakeLoop, kind: FailureKind
) -> None:
    room = Room(clock, fake_loop, retry=False)
    job, waiter = room.work()
    room.fail(room.flight([job]), kind)
    assert {k: n for k, n in room.stats.failed_batches.items() if n} == {kind: 1}
    if kind is RETURNED:
        assert not waiter.told and room.intake.queue.rows == 1
    else:
        assert waiter.output == RowError(CODES[kind], "why")
    assert room.stats.retried_rows == (kind is RETURNED)
    room.fail(room.flight([room.work()[0]]), kind)
    assert room.stats.failed_batches[kind] == 2


def test_what_was_not_begun_with_waits_again(room: Room) -> None:
    job, many = room.work()[0], block(4, room.clock.now() + 5.0)
    room.fail(room.flight([job, many.cut(3)]), RETURNED)
    assert room.intake.queue.rows == 4 and not room.trials.waiting
    assert room.stats.retried_rows == 4
    assert room.told == []


def test_after_a_death_each_row_goes_out_alone_for_the_same_suspicion(room: Room) -> None:
    jobs = [room.work()[0] for _ in range(3)]
    room.fail(room.flight(jobs), CRASHED)
    assert [trial.parts for trial in room.trials.waiting] == [[job] for job in jobs]
    assert len({id(trial.suspicion) for trial in room.trials.waiting}) == 1
    assert room.stats.retried_rows == 3 and room.told == [(1, Verdict.OPEN)]
    room.loop.turn()
    assert room.rings == 1
    for _ in jobs:
        parts, suspicion = room.trials.take(room.clock.now())
        room.trials.succeeded(room.flight(parts, suspicion))
    assert room.told == [(1, Verdict.OPEN), (1, Verdict.OWN)]


def test_what_raised_is_tried_in_halves_and_suspected_of_nothing(room: Room) -> None:
    many = block(5, room.clock.now() + 5.0)
    room.fail(room.flight([many.cut(5)]), RAISED)
    halves = [trial.parts[0].rows for trial in room.trials.waiting]
    assert halves == [2, 3] and room.stats.retried_rows == 5
    assert [trial.suspicion for trial in room.trials.waiting] == [None, None]
    parts, suspicion = room.trials.take(room.clock.now())
    room.trials.succeeded(room.flight(parts, suspicion))
    assert room.told == []


def test_an_exception_of_a_suspect_is_an_answer(room: Room) -> None:
    job, waiter = room.work()
    room.fail(room.flight([job]), CRASHED)
    room.fail(room.flight(*room.trials.take(room.clock.now())), RAISED)
    assert waiter.output == RowError("model_failed", "why")
    assert room.told == [(1, Verdict.OPEN), (1, Verdict.OWN)]


def test_a_suspect_that_was_not_begun_with_stays_one(room: Room) -> None:
    job, waiter = room.work()
    room.fail(room.flight([job]), CRASHED)
    room.fail(room.flight(*room.trials.take(room.clock.now())), RETURNED)
    (trial,) = room.trials.waiting
    assert trial.parts == [job] and trial.suspicion is not None
    assert room.told == [(1, Verdict.OPEN)]
    room.fail(room.flight(*room.trials.take(room.clock.now())), CRASHED)
    assert waiter.output == RowError("model_crashed", "why")
    assert room.told[-1] == (2, Verdict.POISON)


# -- hedged ------------------------------------------------------------------------------


def test_what_another_replica_has_as_well_is_left_to_it(room: Room) -> None:
    (both, waiter), (mine, _) = room.work(), room.work()
    flight, copy = room.flight([both, mine], hedged=True), room.flight([both], hedged=True)
    room.hedging.copied([both])
    room.fail(flight, RAISED, room.flight([room.work()[0]]), copy)
    assert [trial.parts for trial in room.trials.waiting] == [[mine]]
    assert not waiter.told and copy.suspicion is None
    room.fail(copy, RAISED)
    assert waiter.output == RowError("model_failed", "why")


def test_what_nobody_else_seems_to_have_is_not_failed_all_the_same(room: Room) -> None:
    job, waiter = room.work()
    room.hedging.copied([job])
    room.fail(room.flight([job], hedged=True), CRASHED)
    assert not waiter.told and not room.trials.waiting
    assert room.told == [(1, Verdict.OPEN), (1, Verdict.OWN)]


def test_what_was_answered_elsewhere_is_over(room: Room) -> None:
    (done, waiter), (left, _) = room.work(), room.work()
    done.settle(b"1")
    room.fail(room.flight([done, left], hedged=True), CRASHED)
    assert [trial.parts for trial in room.trials.waiting] == [[left]]
    assert waiter.output == b"1"


@pytest.mark.parametrize("kind", DEADLY)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_row_that_was_alone_in_one_of_two_deaths_is_marked(
    room: Room, kind: FailureKind, rows: int
) -> None:
    jobs = [room.work()[0] for _ in range(rows)]
    flight, copy = room.flight(jobs, hedged=True), room.flight(jobs[:1], hedged=True)
    room.hedging.copied(jobs[:1])
    room.fail(flight, kind, copy)
    assert [job.attempts for job in jobs] == [1] * rows
    assert copy.suspicion is not None


def test_a_copy_that_came_back_untouched_leaves_its_suspicion_open(room: Room) -> None:
    job, waiter = room.work()
    flight, copy = room.flight([job], hedged=True), room.flight([job], hedged=True)
    room.hedging.copied([job])
    room.fail(flight, CRASHED, copy)
    job.settle(b"1")
    room.fail(copy, RETURNED)
    assert waiter.output == b"1" and not room.trials.waiting
    assert room.told == [(1, Verdict.OPEN), (1, Verdict.UNKNOWN)]


# -- what waits --------------------------------------------------------------------------


def test_of_a_trial_goes_out_what_somebody_still_waits_for(room: Room) -> None:
    now = room.clock.now()
    (alive, _), (late, waiter), (left, gone) = room.work(), room.work(1.0), room.work()
    left.leave(gone)
    suspicion = Suspicion([], 3)
    room.trials.waiting.append(Trial([late, alive, left], suspicion))
    assert room.trials.take(now + 1.0) == ([alive], suspicion)
    assert waiter.output == EXPIRED and left.settled
    assert (room.stats.expired_rows, room.stats.abandoned_rows) == (1, 1)
    assert (suspicion.left, suspicion.complete) == (1, False)
    assert ABANDONED.code == "cancelled" and not room.trials.waiting


def test_one_that_is_all_alive_stays_complete(room: Room) -> None:
    suspicion = Suspicion([], 2)
    room.trials.waiting.append(Trial([room.work()[0]], suspicion))
    room.trials.take(room.clock.now())
    assert (suspicion.left, suspicion.complete) == (2, True)


def test_closing_settles_what_waits_and_leaves_its_suspicion_open(room: Room) -> None:
    pairs = [room.work() for _ in range(3)]
    room.fail(room.flight([job for job, _ in pairs]), CRASHED)
    room.trials.close(GONE)
    assert [waiter.output for _, waiter in pairs] == [GONE] * 3
    assert not room.trials.waiting
    assert room.told == [(1, Verdict.OPEN), (1, Verdict.UNKNOWN)]


def test_nothing_is_tried_where_no_replica_will_come(room: Room) -> None:
    pairs = [room.work() for _ in range(2)]
    room.intake.close(GONE)
    room.fail(room.flight([job for job, _ in pairs]), CRASHED)
    assert [waiter.output for _, waiter in pairs] == [GONE] * 2
    assert not room.trials.waiting and room.stats.retried_rows == 0
    assert room.told == [(1, Verdict.OPEN), (1, Verdict.UNKNOWN)]
