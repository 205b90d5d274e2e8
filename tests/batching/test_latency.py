from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.batching.latency import ENOUGH, RESIDUALS, LatencyModel

SIZES = (1, 8, 32, 64)
PER_ROW, FIXED = 0.001, 0.01


def line(rows: float, speed: float = 1.0) -> float:
    return (PER_ROW * rows + FIXED) / speed


class Load:
    """Batches of random sizes with a little noise, the same for the same seed."""

    def __init__(self, batches: int, seed: int = 1, noise: float = 0.05) -> None:
        self.random = random.Random(seed)
        self.noise = noise
        self.model = LatencyModel()
        self.run(batches)

    def run(self, batches: int, speed: float = 1.0) -> None:
        for _ in range(batches):
            rows = self.random.randint(1, 64)
            factor = self.random.uniform(1 - self.noise, 1 + self.noise)
            self.model.record(rows, line(rows, speed) * factor)

    def error(self, speed: float = 1.0) -> float:
        """How far the worst prediction is off, as a part of what is true."""
        return max(abs(self.model.seconds(r) / line(r, speed) - 1.0) for r in SIZES)


# -- the line --------------------------------------------------------------------------


def test_before_any_batch_nothing_is_known() -> None:
    model = LatencyModel()
    assert not model.known and model.largest == 0
    assert (model.seconds(1), model.seconds(4096), model.spread) == (0.0, 0.0, 0.0)
    assert model.residuals() == [0.0]
    assert "0 batches" in repr(model)


@given(
    per_row=st.floats(1e-7, 0.1),
    fixed=st.floats(0.0, 0.5),
    first=st.integers(1, 100),
    more=st.lists(st.integers(1, 1000), max_size=80),
)
def test_an_exact_line_is_recovered(
    per_row: float, fixed: float, first: int, more: list[int]
) -> None:
    model = LatencyModel()
    for rows in [first, 2 * first, *more]:
        model.record(rows, per_row * rows + fixed)
    for rows in (first, 2 * first, 1000):
        assert model.seconds(rows) == pytest.approx(per_row * rows + fixed, rel=0.01)
    largest = max(2 * first, *more, 2)
    assert model.per_row * largest == pytest.approx(
        per_row * largest, rel=0.01, abs=1e-6 * fixed
    )
    assert (model.largest, model.batches) == (largest, len(more) + 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_line_is_recovered(seed: int) -> None:
    load = Load(400, seed, noise=0.2)
    assert load.model.per_row == pytest.approx(PER_ROW, rel=0.1)
    assert load.model.fixed == pytest.approx(FIXED, rel=0.25)
    assert load.error() < 0.15


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.floats(0.0, 100.0, allow_subnormal=False)),
        min_size=1,
        max_size=80,
    )
)
def test_no_prediction_is_negative(history: list[tuple[int, float]]) -> None:
    model = LatencyModel()
    for rows, seconds in history:
        model.record(rows, seconds)
        assert model.known
        assert 0.0 <= model.per_row < math.inf and 0.0 <= model.fixed < math.inf
        assert 0.0 <= model.spread < math.inf
        assert len(model.residuals()) >= 1


def test_what_falls_with_size_is_taken_for_constant() -> None:
    model = LatencyModel()
    for rows in (1, 10, 20) * 5:
        model.record(rows, 0.05 - 0.001 * rows)
    assert model.per_row == 0.0
    assert 0.03 < model.fixed < 0.05


def test_of_one_size_no_slope_can_be_told_and_the_last_one_is_kept() -> None:
    model = LatencyModel()
    model.record(8, 0.02)
    assert (model.per_row, model.fixed) == (0.0, 0.02)
    load = Load(50, noise=0.0)
    for _ in range(3000):  # the memory of other sizes fades
        load.model.record(8, line(8))
    assert load.error() < 0.01
    for _ in range(3000):
        noise = load.random.uniform(0.95, 1.05)
        load.model.record(load.random.randint(300, 301), line(300) * noise)
    assert load.model.per_row == pytest.approx(PER_ROW, rel=0.3)


@given(
    per_row=st.sampled_from([0.0, 0.001, 0.01]),
    seconds=st.floats(-0.1, 1.0),
    bound=st.integers(1, 120),
)
def test_rows_within_are_the_most_that_the_line_allows(
    per_row: float, seconds: float, bound: int
) -> None:
    model = LatencyModel()
    for rows in (1, 64, 8):
        model.record(rows, per_row * rows + 0.02)
    rows = model.rows_within(seconds, bound)
    assert 1 <= rows <= bound
    assert rows == 1 or model.seconds(rows) <= seconds + 1e-9
    assert rows == bound or model.seconds(rows + 1) > seconds - 1e-9


# -- what is not of the line -----------------------------------------------------------


@pytest.mark.parametrize("rows", SIZES)
def test_one_outlier_hardly_bends_the_line(rows: int) -> None:
    load = Load(100)
    before = [load.model.seconds(r) for r in SIZES]
    load.model.record(rows, 100 * line(rows))
    load.model.record(8, line(8))  # it counts when it is clear that it was alone
    after = [load.model.seconds(r) for r in SIZES]
    assert all(abs(b / a - 1.0) < 0.2 for a, b in zip(before, after, strict=True))


def test_pauses_that_do_not_last_are_no_jump() -> None:
    load = Load(100)
    for _ in range(2):
        for _ in range(5):
            load.model.record(32, 10 * line(32))
        load.run(1)
        assert load.error() < 0.6
        load.run(20)


@pytest.mark.parametrize("speed", [0.5, 2.0])
@pytest.mark.parametrize("warm", [60, 100, 250, 1000])
def test_a_jump_is_followed_within_ten_batches(speed: float, warm: int) -> None:
    load = Load(warm)
    load.run(10, speed)
    assert load.error(speed) < 0.2
    assert len(load.model.residuals()) <= 10  # those of another speed say nothing
    load.run(200, speed)
    assert load.error(speed) < 0.05
    assert load.model.spread < 0.2 * line(64, speed)  # the jump is no noise


def test_a_jump_is_followed_after_any_number_of_batches() -> None:
    slow = []
    for warm, speed, seed in product(range(ENOUGH + 10, 100), (0.5, 2.0), range(2)):
        load = Load(warm, seed)
        load.run(20, speed)
        if load.error(speed) > 0.3:
            slow.append((warm, speed, seed))
    assert slow == []


def test_a_model_that_took_no_time_at_all_may_begin_to_take_some() -> None:
    model = LatencyModel()
    for seconds in [0.0] * 30 + [0.1] * 10:
        model.record(1, seconds)
    assert model.seconds(1) == pytest.approx(0.1, rel=0.2)


def test_a_jump_of_the_fixed_cost_alone_is_followed_too() -> None:
    load = Load(200)
    for _ in range(30):
        rows = load.random.randint(1, 64)
        load.model.record(rows, line(rows) + 0.1)
    for rows in SIZES:
        assert load.model.seconds(rows) == pytest.approx(line(rows) + 0.1, rel=0.15)


def test_a_slow_drift_is_followed() -> None:
    load = Load(100)
    for step in range(700):
        load.run(1, 1.0 - step / 1400)
    assert load.error(0.5) < 0.25


# -- quantiles -------------------------------------------------------------------------


def below(residuals: Sequence[float], seconds: float) -> float:
    return mean(residual <= seconds for residual in residuals)


def test_residuals_are_sorted_bounded_and_describe_the_noise() -> None:
    load = Load(3000, noise=0.2)
    residuals = load.model.residuals()
    assert len(residuals) == RESIDUALS
    assert residuals == sorted(residuals)
    assert abs(below(residuals, 0.0) - 0.5) < 0.1
    assert max(residuals) <= 0.25 * line(64)


def test_the_spread_is_what_nearly_all_batches_stay_below() -> None:
    load = Load(3000, noise=0.2)
    assert abs(below(load.model.residuals(), load.model.spread) - 0.95) < 0.02
    fresh = Load(0, seed=9, noise=0.2).random
    noise = []
    for _ in range(2000):
        rows = fresh.randint(1, 64)
        noise.append(line(rows) * fresh.uniform(0.8, 1.2) - load.model.seconds(rows))
    assert abs(below(noise, load.model.spread) - 0.95) < 0.05


def test_the_spread_follows_the_noise() -> None:
    load = Load(300, noise=0.02)
    before = load.model.spread
    load.noise = 0.2
    load.run(100)
    assert load.model.spread > 4 * before


def test_the_spread_of_a_model_without_noise_is_nothing() -> None:
    load = Load(300, noise=0.0)
    assert load.model.spread < 1e-6


@pytest.mark.parametrize("batches", [1, 5, 15])
def test_a_pause_early_on_is_not_taken_for_the_model(batches: int) -> None:
    model = LatencyModel()
    for _ in range(batches):
        model.record(4, line(4))
    model.record(4, 60.0)
    assert model.seconds(4) < 10 * line(4) and model.spread < 10 * line(4)
    for _ in range(10):
        model.record(4, line(4))
    assert model.seconds(4) < 2 * line(4)


def test_that_larger_batches_take_longer_is_learned_at_once() -> None:
    model = LatencyModel()
    for rows in (1, 64):
        model.record(rows, PER_ROW * rows)
    assert model.seconds(64) == pytest.approx(64 * PER_ROW)
