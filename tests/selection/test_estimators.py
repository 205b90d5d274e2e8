from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.selection.estimators import Estimate, effective_size, estimate


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=50))
def test_effective_size_is_between_one_and_all(weights: list[float]) -> None:
    w = np.array(weights)
    size = effective_size(w)
    assert size == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert 1 - 1e-9 <= size <= len(w) + 1e-9


def test_effective_size_of_equal_weights_and_of_none() -> None:
    assert effective_size(np.full(40, 2.5)) == pytest.approx(40)
    assert effective_size(np.array([0.0, 3.0, 0.0])) == pytest.approx(1)
    assert effective_size(np.zeros(10)) == 0


def test_a_mean_and_a_ratio() -> None:
    top, bottom = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0])
    found = estimate({"m": (top, None), "r": (top, bottom)}, seed=1, resamples=200)
    assert found["m"].mean == pytest.approx(2.0)
    assert found["r"].mean == pytest.approx(0.75)
    assert 1.0 <= found["m"].low <= 2.0 <= found["m"].high <= 3.0


def test_the_seed_decides() -> None:
    values = np.random.default_rng(1).random(500)
    first = estimate({"m": (values, None)}, seed=5, resamples=300)
    assert estimate({"m": (values, None)}, seed=5, resamples=300) == first
    assert estimate({"m": (values, None)}, seed=6, resamples=300) != first


@pytest.mark.parametrize("n", [200, 25_000])
def test_the_interval_is_as_wide_as_the_standard_error_says(n: int) -> None:
    values = np.random.default_rng(2).random(n)
    found = estimate({"m": (values, None)}, seed=1, resamples=1000)["m"]
    error = values.std() / np.sqrt(n)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert found.low < values.mean() < found.high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(400):
        weights = rng.choice([0.0, 0.5, 2.0], size=150)
        losses = (rng.random(150) < 0.3).astype(float)
        found = estimate({"s": (weights * losses, weights)}, seed=trial, resamples=200)
        hits += found["s"].low <= 0.3 <= found["s"].high
    assert 0.90 <= hits / 400 <= 0.985


def test_a_resample_without_weight_says_nothing() -> None:
    top = np.array([0.0, 0.0, 1.0])
    assert estimate({"s": (top, top)}, seed=1, resamples=50)["s"] == Estimate(1, 1, 1)
