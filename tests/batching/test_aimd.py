from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.batching.aimd import AIMD, BACKOFF, STEP
from clipper.batching.controller import BatchController, Plan

from .contract import ControllerContract, FakeBacklog, serve


class TestAIMD(ControllerContract):
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        return AIMD(objective, bound)


def learned(seconds_per_row: float, objective: float = 0.1, bound: int = 4096) -> AIMD:
    """A controller that found its cap under load."""
    controller = AIMD(objective, bound)
    serve(controller, lambda size: size * seconds_per_row, 200, 10_000)
    return controller


def test_it_doubles_while_that_fits_and_then_goes_to_the_objective() -> None:
    sizes = serve(AIMD(0.1, 4096), lambda size: size * 0.001, 11, 10_000)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 98, 98, 98, 98]


def test_it_climbs_when_the_model_became_faster() -> None:
    controller = learned(0.001)
    before = controller.cap
    sizes = serve(controller, lambda size: size * 0.0005, 100, 10_000)
    assert sizes[0] == before
    assert sizes[-1] > 1.8 * before
    assert all(b - a <= STEP for a, b in pairwise(sizes))


def test_it_settles_below_the_objective() -> None:
    controller = learned(0.001)
    sizes = serve(controller, lambda size: size * 0.001, 100, 10_000)
    assert min(sizes) >= 85 and max(sizes) <= 100 + STEP


def test_it_stays_where_a_batch_takes_nearly_the_whole_objective() -> None:
    controller = learned(0.001)
    before = controller.cap
    serve(controller, lambda size: size * 0.001, 100, 10_000)
    assert controller.cap == before


def test_it_is_bounded_on_both_sides() -> None:
    assert serve(AIMD(0.1, 5), lambda size: 0.0, 6, 100) == [1, 2, 4, 5, 5, 5]
    slow = learned(0.001)
    serve(slow, lambda size: 9.0, 100, 10_000)
    assert slow.cap == 1


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0.0, 1.0)), max_size=50))
def test_only_a_batch_that_was_half_full_raises_the_cap(
    history: list[tuple[int, float]],
) -> None:
    controller = AIMD(0.1, 64)
    for size, seconds in history:
        before = controller.cap
        controller.record(size, seconds)
        assert controller.cap <= before or 2 * size >= before


def test_the_cap_outlives_an_idle_hour() -> None:
    controller = learned(0.001)
    before = controller.cap
    serve(controller, lambda size: size * 0.001, 1000, 3)
    assert controller.cap == before


def test_a_part_of_a_batch_that_overruns_lowers_the_cap() -> None:
    """Where even fewer rows take too long, a full batch certainly would."""
    controller = learned(0.001)
    before = controller.cap
    serve(controller, lambda size: 0.5, 10, before // 2)
    assert controller.cap < before * 0.5


# -- with a fixed cost and noise -------------------------------------------------------


@settings(deadline=None)
@given(
    per_row=st.floats(1e-4, 5e-3),
    share=st.floats(0.0, 0.6),  # of the objective, that any batch takes
)
def test_it_settles_where_the_line_meets_the_objective(
    per_row: float, share: float
) -> None:
    fixed = share * 0.1
    right = (0.1 - fixed) / per_row
    controller = AIMD(0.1, 4096)
    sizes = serve(controller, lambda size: per_row * size + fixed, 120, 1500)
    assert all(0.85 * right - 1 <= size <= 1.02 * right + 1 for size in sizes[60:])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fixed", [0.0, 0.02])
def test_it_settles_in_spite_of_noise(seed: int, fixed: float) -> None:
    rng = random.Random(seed)
    controller = AIMD(0.1, 4096)
    sizes = serve(
        controller, lambda n: (0.001 * n + fixed) * rng.uniform(0.95, 1.05), 400, 10_000
    )
    mean = sum(sizes[100:]) / 300
    assert mean == pytest.approx((0.1 - fixed) / 0.001, rel=0.15)
    assert max(sizes[100:]) * 0.001 + fixed <= 0.1


def test_where_a_model_varies_much_few_batches_overrun() -> None:
    rng = random.Random(4)
    took: list[float] = []

    def vary(size: int) -> float:
        took.append((0.001 * size + 0.01) * rng.choice([0.9, 0.9, 0.9, 1.0, 1.2]))
        return took[-1]

    sizes = serve(AIMD(0.1, 4096), vary, 1100, 10_000)
    assert sum(seconds > 0.1 for seconds in took[100:]) <= 20
    assert sum(sizes[100:]) >= 60 * 1000


def test_it_follows_an_objective_that_changes() -> None:
    controller = learned(0.001)
    controller.objective = 0.05
    serve(controller, lambda size: size * 0.001, 30, 10_000)
    assert 42 <= controller.cap <= 50
    controller.objective = 0.1
    serve(controller, lambda size: size * 0.001, 60, 10_000)
    assert 85 <= controller.cap <= 100


# -- what batches that were not full tell ----------------------------------------------


def experienced(seed: int) -> tuple[AIMD, random.Random]:
    """A controller that has seen batches of all sizes."""
    controller, rng = AIMD(0.1, 4096), random.Random(seed)
    serve(controller, seconds, 50, 10_000)
    for _ in range(200):
        size = rng.randint(1, controller.cap)
        controller.record(size, seconds(size))
    assert 80 <= controller.cap <= 90
    return controller, rng


def seconds(size: int) -> float:
    return 0.001 * size + 0.01


@pytest.mark.parametrize("seed", range(3))
def test_the_cap_falls_with_the_speed_even_though_batches_stay_small(seed: int) -> None:
    controller, rng = experienced(seed)
    for _ in range(20):
        size = rng.randint(10, 38)
        controller.record(size, 2 * seconds(size))
        assert 2 * seconds(size) < controller.objective
    assert controller.cap == pytest.approx(40, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_it_also_falls_after_a_time_of_full_batches_alone(seed: int) -> None:
    controller, rng = AIMD(0.1, 4096), random.Random(seed)
    serve(controller, seconds, 200, 10_000)
    for _ in range(30):
        size = rng.randint(10, 30)
        controller.record(size, 2 * seconds(size))
    assert controller.cap == pytest.approx(40, rel=0.15)


def test_batches_that_took_too_little_to_tell_leave_the_cap_alone() -> None:
    controller = learned(0.001)
    before = controller.cap
    for _ in range(100):
        controller.record(5, 0.03)  # six times as slow, but far from the objective
    assert controller.cap == before


def test_one_small_batch_that_overruns_says_nothing_and_two_in_a_row_do() -> None:
    controller = learned(0.001)
    before = controller.cap
    for _ in range(5):
        controller.record(10, 0.5)
        assert controller.cap == before
        controller.record(10, 0.01)
        assert controller.cap == before
    controller.record(10, 0.5)
    controller.record(10, 0.5)
    assert controller.cap == int(before * BACKOFF)


def test_a_full_batch_that_overruns_is_believed_at_once() -> None:
    controller = learned(0.001)
    before = controller.cap
    controller.record(before, 0.11)
    assert controller.cap == int(before * BACKOFF)


def test_half_full_batches_raise_the_cap_where_the_line_allows_it() -> None:
    """Deadlines keep batches below the cap where there is too much to do."""
    controller = learned(0.001)
    controller.objective = 0.2
    for _ in range(200):
        size = controller.cap * 2 // 3
        controller.record(size, size * 0.001)
    assert 170 <= controller.cap <= 200


def test_a_slow_first_batch_does_not_keep_the_cap_low() -> None:
    controller = AIMD(0.1, 4096)
    controller.record(1, 0.5)  # a model that is loaded on its first call
    sizes = serve(controller, lambda size: size * 0.001, 60, 10_000)
    assert sizes[4] >= 8 and sizes[-1] >= 85


def test_rows_that_cannot_be_in_time_are_given_up() -> None:
    controller = learned(0.001)
    backlog = FakeBacklog([0.0005] * 7 + [9.0] * 300)
    assert controller.plan(0.0, backlog) == Plan(7, controller.cap)
