from __future__ import annotations

import weakref

import pytest
from fakes import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from clipper.attainment import WINDOW, ApplicationStats, Recent
from clipper.batching.job import EXPIRED
from clipper.batching.outcomes import REFUSED, SHED, DispatcherStats
from clipper.values import RowError


class Counted:
    """Stats that rows are counted in as an application does it."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.stats = ApplicationStats(clock.now())

    def answer(self, rows: int = 1) -> None:
        self.turn()
        self.stats.predictions += rows
        self.stats.latency.observe_many(0.002, rows)

    def fail(self, error: RowError) -> None:
        self.turn()
        self.stats.fail(error)

    def turn(self) -> None:
        if self.clock.now() >= self.stats.turns_at:
            self.stats.turn(self.clock.now())

    @property
    def recent(self) -> Recent:
        return self.stats.recent(self.clock.now())


@pytest.fixture
def counted(clock: ManualClock) -> Counted:
    return Counted(clock)


def test_before_anything_was_asked(counted: Counted, clock: ManualClock) -> None:
    assert (counted.recent.rows, counted.recent.attainment) == (0, None)
    clock.move(1000.0)
    assert (counted.recent.rows, counted.recent.attainment) == (0, None)
    assert counted.recent.latency.quantile(0.5) is None


def test_what_came_is_recent_for_one_to_two_windows(
    counted: Counted, clock: ManualClock
) -> None:
    clock.move(10.0)
    counted.answer(3)
    counted.fail(EXPIRED)
    recent = counted.recent
    assert (recent.seconds, recent.rows, recent.attainment) == (10.0, 4, 0.75)
    assert recent.failures == {"deadline_exceeded": 1}
    assert recent.latency.count == 3
    clock.move(WINDOW)
    assert (counted.recent.seconds, counted.recent.rows) == (10.0 + WINDOW, 4)
    clock.move(WINDOW)
    assert (counted.recent.seconds, counted.recent.rows) == (10.0 + WINDOW, 0)
    assert counted.recent.attainment is None
    assert counted.stats.predictions == 3  # since the start


def test_a_row_after_a_pause_is_all_that_is_recent(
    counted: Counted, clock: ManualClock
) -> None:
    counted.answer(100)
    clock.move(10 * WINDOW + 5.0)
    counted.fail(REFUSED)
    recent = counted.recent
    assert (recent.predictions, recent.failures) == (0, {"overloaded": 1})
    assert recent.attainment == 0.0
    assert recent.seconds == pytest.approx(WINDOW + 5.0)


def test_overloads_are_told_apart_by_their_cause(counted: Counted) -> None:
    for error in (REFUSED, REFUSED, SHED, EXPIRED):
        counted.fail(error)
    assert counted.recent.overloads == {REFUSED.cause: 2, SHED.cause: 1}
    assert counted.recent.failures["overloaded"] == 3


def test_a_model_is_watched_from_when_it_was_linked(
    counted: Counted, clock: ManualClock
) -> None:
    model, other = DispatcherStats(), DispatcherStats()
    model.rows = 1000
    clock.move(5.0)
    counted.stats.follow([model], clock.now())
    clock.move(5.0)
    model.rows, model.refused_rows, model.shed_rows = 1010, 4, 1
    lately = counted.recent.models[model]
    assert (lately.seconds, lately.rows, lately.refused, lately.offered) == (5.0, 10, 4, 15)
    counted.stats.follow([model, other], clock.now())
    assert counted.recent.models[model].rows == 10
    assert counted.recent.models[other].seconds == 0.0
    counted.stats.follow([other], clock.now())
    assert set(counted.recent.models) == {other}


def test_of_models_that_come_and_go_unasked_the_latest_are_kept(
    counted: Counted, clock: ManualClock
) -> None:
    """An application that nobody asks may have had ever so many versions."""
    deployed = [DispatcherStats() for _ in range(20)]
    gone = [weakref.ref(stats) for stats in deployed]
    while deployed:
        counted.stats.follow(deployed[:1], clock.now())
        del deployed[0]
        clock.move(WINDOW)
    assert sum(stats() is not None for stats in gone) <= 3


def test_what_others_asked_of_a_model_is_not_taken_for_what_came_lately(
    counted: Counted, clock: ManualClock
) -> None:
    """Nobody asked this application, so its window did not turn; the rows of another one
    are of unknown age."""
    model = DispatcherStats()
    counted.stats.follow([model], clock.now())
    clock.move(10 * WINDOW + 1.0)
    model.rows = 5000
    lately = counted.recent.models[model]
    assert (lately.seconds, lately.rows) == (0.0, 0)
    clock.move(2.0)
    model.rows = 5020
    lately = counted.recent.models[model]
    assert (lately.seconds, lately.rows) == (2.0, 20)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(0, 5)), max_size=50))
def test_the_window_holds_all_of_its_time_and_nothing_before(
    steps: list[tuple[float, int]],
) -> None:
    clock = ManualClock(now=0.0)
    counted = Counted(clock)
    times: list[float] = []
    for pause, rows in steps:
        clock.move(pause)
        counted.answer(rows)
        times += [clock.now()] * rows
    recent = counted.recent
    begun = clock.now() - recent.seconds
    assert recent.seconds <= 2 * WINDOW + 1e-6
    assert recent.seconds >= min(clock.now(), WINDOW) - 1e-6
    sure = sum(time > begun + 1e-6 for time in times)
    near = sum(abs(time - begun) <= 1e-6 for time in times)
    assert sure <= recent.predictions <= sure + near
    assert recent.latency.count == recent.predictions
