from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.batching.controller import Plan
from clipper.batching.latency import LatencyModel
from clipper.batching.triage import MOST_DEADLINES, MOST_ROWS, choose

from .contract import FakeBacklog

NOW = 500.0
PER_ROW, FIXED = 0.001, 0.01


def seconds(rows: int, per_row: float = PER_ROW, fixed: float = FIXED) -> float:
    return per_row * rows + fixed


def model(
    per_row: float = PER_ROW, fixed: float = FIXED, noise: float = 0.0
) -> LatencyModel:
    latency, rng = LatencyModel(), random.Random(5)
    for _ in range(300):
        rows = rng.randint(1, 64)
        factor = rng.uniform(1.0 - noise, 1.0 + noise)
        latency.record(rows, seconds(rows, per_row, fixed) * factor)
    return latency


LATENCY = model()


def plan(slack: list[float], limit: int, latency: LatencyModel = LATENCY) -> Plan:
    return choose(latency, NOW, FakeBacklog([NOW + s for s in slack]), limit)


# Deadlines off every possible time of an answer by more than the arithmetic.
slacks = st.lists(st.integers(-20, 120).map(lambda ms: ms / 1e3 + 0.0005), min_size=1)
short = st.lists(st.integers(-20, 60).map(lambda ms: ms / 1e3 + 0.0005), min_size=1)


# -- without need ----------------------------------------------------------------------


@given(rows=st.integers(1, 200), limit=st.integers(1, 100), more=st.floats(0.001, 9.0))
def test_all_are_taken_when_the_head_has_the_time(
    rows: int, limit: int, more: float
) -> None:
    take = min(rows, limit)
    assert plan([seconds(take) + more] * rows, limit) == Plan(0, take)


def test_of_an_unknown_model_all_are_taken_even_if_late() -> None:
    assert plan([-5.0, 0.0, 1.0], 10, LatencyModel()) == Plan(0, 3)
    assert plan([-5.0] * 20, 10, LatencyModel()) == Plan(0, 10)


def test_the_head_needs_time_for_nearly_any_batch_that_is_slower_than_the_line() -> None:
    latency = model(noise=0.3)
    needed = latency.seconds(20) + latency.spread
    assert plan([needed + 0.0001] * 20, 20, latency) == Plan(0, 20)
    nearly = latency.seconds(20) + 0.2 * latency.spread
    assert plan([nearly] * 20, 20, latency).take < 20


# -- what is given up, and what is taken -----------------------------------------------


@given(slack=slacks, limit=st.integers(1, 64))
def test_only_rows_at_the_head_that_are_hopeless_are_given_up(
    slack: list[float], limit: int
) -> None:
    drop, take = plan(slack, limit)
    slack.sort()
    assert drop + take >= 1 and take <= limit and drop + take <= len(slack)
    if take:
        assert all(s < seconds(limit) for s in slack[:drop])
        assert all(s >= seconds(take) for s in slack[drop:])
    else:
        assert slack[-1] < seconds(1), "a row could have been in time"
        assert drop == len(slack)


@settings(deadline=None)
@given(slack=short, limit=st.integers(1, 40), fixed=st.sampled_from([0.0, 0.005, 0.02]))
def test_no_batch_size_gives_many_more_answers_in_time_per_second(
    slack: list[float], limit: int, fixed: float
) -> None:
    def rate(size: int, drop: int) -> float:
        took = seconds(size, fixed=fixed)
        return sum(s >= took for s in slack[drop : drop + size]) / took

    drop, take = plan(slack, limit, model(fixed=fixed))
    slack.sort()
    largest = min(limit, len(slack))
    best = max(
        rate(size, drop) for size in range(1, largest + 1) for drop in range(len(slack))
    )
    # sizes are a geometric grid, and one that fits the objective of all is not weighed
    if slack[0] < seconds(largest, fixed=fixed):
        assert (rate(take, drop) if take else 0.0) >= 0.75 * best


def test_many_later_rows_are_worth_more_than_one_urgent_row() -> None:
    patient = [0.05] * 40
    assert plan([0.0115, *patient], 40) == Plan(1, 40)


def test_many_urgent_rows_are_worth_a_smaller_batch() -> None:
    urgent, patient = [0.0205] * 10, [0.0745] * 4
    drop, take = plan([*urgent, *patient], 14)
    assert drop == 0 and 8 <= take <= 10


def test_a_row_that_is_late_as_often_as_not_has_a_chance() -> None:
    latency = model(noise=0.3)
    median = latency.residuals()[len(latency.residuals()) // 2]
    middle = latency.seconds(1) + median
    assert plan([middle + 0.0001], 1, latency) == Plan(0, 1)
    hopeless = latency.seconds(1) + latency.residuals()[0] - 0.0001
    assert plan([hopeless], 1, latency) == Plan(1, 0)


def test_rows_that_are_late_nearly_always_give_way_to_others() -> None:
    latency = model(noise=0.3)
    residuals = latency.residuals()
    rarely = latency.seconds(40) + residuals[len(residuals) // 10]
    assert plan([rarely] * 30 + [0.2] * 40, 40, latency) == Plan(30, 40)


def test_where_nothing_can_be_in_time_nothing_runs() -> None:
    assert plan([seconds(1) - 0.0001] * 7, 64) == Plan(7, 0)
    assert plan([-100.0], 64) == Plan(1, 0)


# -- long queues -----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [MOST_DEADLINES, MOST_DEADLINES + 1, 1000])
@pytest.mark.parametrize("hopeless", [0, 1, 101, 400])
def test_a_long_queue_is_thinned_and_nobody_given_up_who_has_a_chance(
    rows: int, hopeless: int
) -> None:
    slack = [0.005] * hopeless + [0.0705] * (rows - hopeless)
    drop, take = plan(slack, 64)
    assert drop == hopeless and 50 <= take <= 60


@pytest.mark.parametrize("rows", [8000, 100_000])
def test_a_batch_is_no_smaller_because_the_queue_is_longer(rows: int) -> None:
    assert 50 <= plan([0.005] * 100 + [0.0705] * rows, 64).take <= 60


@settings(deadline=None)
@given(seed=st.integers(0, 50), rows=st.integers(600, 5000))
def test_of_any_long_queue_only_hopeless_rows_are_given_up(seed: int, rows: int) -> None:
    rng = random.Random(seed)
    slack = sorted(rng.uniform(-0.1, 0.5) for _ in range(rows))
    drop, take = plan(slack, 64)
    assert take >= 1
    assert slack[drop - 1] < seconds(64) if drop else True
    assert slack[drop] >= seconds(take)


def test_a_queue_longer_than_is_looked_at_is_cleared_in_steps() -> None:
    slack = [0.0] * (2 * MOST_ROWS + 5) + [0.5] * 100
    dropped = 0
    for _ in range(4):
        drop, take = plan(slack[dropped:], 64)
        dropped += drop
        if take:
            break
    assert dropped == 2 * MOST_ROWS + 5 and take == 64
