"""Histograms: every observation lies in one bucket, and quantiles near the truth."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.metrics import Histogram, size_buckets, time_buckets

BOUNDS = st.lists(
    st.floats(min_value=1e-6, max_value=1e6, allow_nan=False), min_size=1, unique=True
).map(sorted)
VALUES = st.lists(st.floats(min_value=0, max_value=2e6, allow_nan=False))


def filled(bounds: list[float], values: list[float]) -> Histogram:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram


@given(BOUNDS, VALUES)
def test_cumulative_counts_what_lies_at_or_below_each_bound(
    bounds: list[float], values: list[float]
) -> None:
    histogram = filled(bounds, values)
    cumulative = histogram.cumulative()
    assert [bound for bound, _ in cumulative] == [*bounds, math.inf]
    for bound, count in cumulative:
        assert count == sum(value <= bound for value in values)
    assert histogram.count == len(values)
    assert math.isclose(histogram.sum, math.fsum(values), rel_tol=1e-9, abs_tol=1e-9)


@given(BOUNDS, VALUES, st.integers(min_value=0, max_value=50))
def test_observe_many_is_observe_many_times(
    bounds: list[float], values: list[float], times: int
) -> None:
    once, many = Histogram(bounds), Histogram(bounds)
    for value in values:
        many.observe_many(value, times)
        for _ in range(times):
            once.observe(value)
    assert many.counts == once.counts
    assert math.isclose(many.sum, once.sum, rel_tol=1e-9, abs_tol=1e-9)


@given(BOUNDS, VALUES.filter(bool), st.floats(min_value=0, max_value=1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(
    bounds: list[float], values: list[float], q: float
) -> None:
    histogram = filled(bounds, values)
    true = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    at = bisect_left(bounds, true)
    lower = bounds[at - 1] if at else 0.0
    upper = bounds[at] if at < len(bounds) else lower  # past the last, its bound is told
    quantile = histogram.quantile(q)
    assert quantile is not None
    assert quantile >= lower * (1 - 1e-12)
    assert quantile <= upper * (1 + 1e-12)


@given(BOUNDS, VALUES.filter(bool), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_their_rank(
    bounds: list[float], values: list[float], one: float, other: float
) -> None:
    histogram = filled(bounds, values)
    low, high = (histogram.quantile(q) for q in sorted((one, other)))
    assert low is not None and high is not None
    assert low <= high * (1 + 1e-12)


def test_without_observations_there_is_no_quantile() -> None:
    assert Histogram([1.0]).quantile(0.5) is None


def test_a_quantile_is_interpolated_inside_its_bucket() -> None:
    histogram = filled([1.0, 2.0, 4.0], [3.0] * 4)
    assert histogram.quantile(0.5) == 3.0
    assert histogram.quantile(1.0) == 4.0


def test_a_value_on_a_bound_belongs_to_the_bucket_that_ends_there() -> None:
    assert filled([1.0, 2.0], [1.0]).counts == [1, 0, 0]


@pytest.mark.parametrize("buckets", [time_buckets(), size_buckets()])
def test_bounds_rise_and_are_plain_numbers(buckets: tuple[float, ...]) -> None:
    assert list(buckets) == sorted(set(buckets))
    assert all(len(repr(bound)) <= 8 for bound in buckets), "bounds are labels too"


def test_time_buckets_reach_from_50_microseconds_to_a_minute() -> None:
    assert time_buckets()[0] == 0.00005
    assert time_buckets()[-1] == 60.0
