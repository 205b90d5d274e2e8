from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.batching.aimd import AIMD
from clipper.batching.controller import BatchController, Plan
from clipper.batching.quantile import (
    FIRST,
    QUANTILE,
    RENEWAL,
    SAMPLES,
    QuantileRegression,
    fit_quantile,
)

from .contract import ControllerContract, FakeBacklog, serve

OBJECTIVE = 0.1

Samples = list[tuple[int, float]]


class TestQuantileRegression(ControllerContract):
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        return QuantileRegression(objective, bound)


def seconds(rows: int) -> float:
    return 0.001 * rows + 0.01


def noisy(seed: int, count: int, most: int = 64) -> Samples:
    rng = random.Random(seed)
    sizes = [rng.randint(1, most) for _ in range(count)]
    return [(rows, seconds(rows) * rng.lognormvariate(0.0, 0.3)) for rows in sizes]


# -- the fit ---------------------------------------------------------------------------


def loss(samples: Samples, quantile: float, slope: float, fixed: float) -> float:
    distances = [y - (slope * x + fixed) for x, y in samples]
    return sum(d * (quantile if d > 0.0 else quantile - 1.0) for d in distances)


def least_loss(samples: Samples, quantile: float) -> float:
    """Some best line goes through two of the samples."""
    lines = [(0.0, y) for _, y in samples]
    for (x, y), (other_x, other_y) in combinations(samples, 2):
        if x != other_x:
            slope = (other_y - y) / (other_x - x)
            lines.append((slope, y - slope * x))
    return min(loss(samples, quantile, *line) for line in lines)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(30, 50),
    quantile=st.sampled_from([0.5, 0.9, 0.99]),
)
def test_no_line_has_a_smaller_loss(seed: int, count: int, quantile: float) -> None:
    samples = noisy(seed, count)
    least = least_loss(samples, quantile)
    assert loss(samples, quantile, *fit_quantile(samples, quantile)) <= 1.15 * least + 1e-6


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_this_share_of_the_samples_lies_below(quantile: float, seed: int) -> None:
    samples = noisy(seed, SAMPLES)
    slope, fixed = fit_quantile(samples, quantile)
    below = sum(y <= slope * x + fixed + 1e-9 for x, y in samples) / SAMPLES
    assert below == pytest.approx(quantile, abs=0.02)


def test_an_exact_line_is_found() -> None:
    slope, fixed = fit_quantile([(rows, seconds(rows)) for rows in range(1, 60)], 0.99)
    assert slope == pytest.approx(0.001, rel=1e-3)
    assert fixed == pytest.approx(0.01, rel=1e-2)


def test_of_one_size_there_is_only_the_quantile() -> None:
    slope, fixed = fit_quantile([(8, 0.01 * step) for step in range(101)], 0.99)
    assert (slope, fixed) == (0.0, pytest.approx(0.99))


def test_samples_without_any_time_do_no_harm() -> None:
    assert fit_quantile([(rows, 0.0) for rows in range(1, 9)], 0.99) == (0.0, 0.0)


# -- the controller --------------------------------------------------------------------


def fitted(samples: Samples, bound: int = 4096) -> QuantileRegression:
    controller = QuantileRegression(OBJECTIVE, bound)
    for rows, took in samples:
        controller.record(rows, took)
    return controller


def test_aimd_gathers_the_first_samples() -> None:
    controller, aimd = QuantileRegression(OBJECTIVE, 4096), AIMD(OBJECTIVE, 4096)
    for rows, took in noisy(1, FIRST - 1):
        controller.record(rows, took)
        aimd.record(rows, took)
        assert controller.cap == aimd.cap
    assert aimd.cap > 1


def test_then_the_cap_is_where_the_fitted_line_meets_the_objective() -> None:
    samples = noisy(1, FIRST)
    controller = fitted(samples)
    slope, fixed = fit_quantile(samples, QUANTILE)
    assert slope > 0.0
    assert slope * controller.cap + fixed <= OBJECTIVE
    assert slope * (controller.cap + 1) + fixed > OBJECTIVE
    controller.objective = 2 * OBJECTIVE
    assert slope * (controller.cap + 1) + fixed > 2 * OBJECTIVE


def test_the_fit_is_renewed_from_the_latest_samples() -> None:
    controller = fitted([(rows, seconds(rows)) for rows in range(1, FIRST + 1)])
    before = controller.cap
    assert before in (89, 90)
    faster = [(1 + step % 60, 0.5 * seconds(1 + step % 60)) for step in range(SAMPLES)]
    for rows, took in faster[: RENEWAL - 1]:
        controller.record(rows, took)
        assert controller.cap == before
    for rows, took in faster:
        controller.record(rows, took)
    assert controller.cap in (189, 190)  # nothing is left of the first ones


def test_where_larger_batches_take_no_longer_they_are_approached() -> None:
    controller = fitted([(8, 0.02)] * FIRST)
    assert controller.cap == 16
    controller = fitted([(1 + step % 8, 0.02) for step in range(FIRST)])
    assert controller.cap >= 16
    assert fitted([(8, 0.02)] * FIRST, bound=10).cap == 10


def test_a_model_that_never_meets_the_objective_gets_single_rows() -> None:
    assert fitted([(rows, 1.0 + rows) for rows in (1, 2) * FIRST]).cap == 1


def test_in_a_closed_loop_it_settles_near_the_objective() -> None:
    sizes = serve(QuantileRegression(OBJECTIVE, 4096), seconds, 400, 10_000)
    assert all(80 <= size <= 92 for size in sizes[-100:])


def test_nothing_is_given_up_before_its_time() -> None:
    controller = fitted(noisy(1, FIRST))
    backlog = FakeBacklog([-1.0] * 50 + [9.0] * 50)
    assert controller.plan(0.0, backlog) == Plan(0, controller.cap)
