"""The limit of a batch's service time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.workers.hang import HangRule


def test_without_experience_only_the_ceiling_holds() -> None:
    assert HangRule().limit(1) == 30.0
    assert HangRule(ceiling=5.0).limit(100) == 5.0


def test_the_example_stands_for_the_first_batches() -> None:
    rule = HangRule()
    rule.record_example(0.001)
    assert rule.limit(1) == 1.0
    rule.record_example(0.5)
    assert rule.limit(1) == pytest.approx(5.0)
    assert rule.limit(4) == pytest.approx(20.0)  # more rows than were ever seen
    assert rule.limit(400) == 30.0
    for _ in range(19):
        rule.record(4, 0.7)
    assert rule.limit(4) == pytest.approx(7.0)


def test_recent_batches_speak_for_themselves() -> None:
    rule = HangRule()
    rule.record_example(20.0)
    for _ in range(20):
        rule.record(10, 0.2)
    assert rule.limit(10) == pytest.approx(2.0)
    assert rule.limit(1) == pytest.approx(2.0)
    assert rule.limit(30) == pytest.approx(6.0)
    for _ in range(3):
        rule.record(10, 1.5)
    assert rule.limit(10) == pytest.approx(15.0)
    for _ in range(200):
        rule.record(10, 0.3)
    assert rule.limit(10) == pytest.approx(3.0)


def test_of_two_hundred_batches_the_two_slowest_do_not_count() -> None:
    rule = HangRule()
    for seconds in (*[0.2] * 197, 0.5, 1.0, 1.1):
        rule.record(1, seconds)
    assert rule.limit(1) == pytest.approx(10.0)
    rule.record(1, 0.2)
    assert rule.limit(1) == pytest.approx(10.0)


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1e6)), max_size=300),
    st.none() | st.floats(0, 1e6),
    st.integers(1, 10_000),
)
def test_always_between_floor_and_ceiling(
    batches: list[tuple[int, float]], example: float | None, rows: int
) -> None:
    rule = HangRule()
    if example is not None:
        rule.record_example(example)
    for size, seconds in batches:
        rule.record(size, seconds)
    assert 1.0 <= rule.limit(rows) <= rule.limit(rows * 2) <= 30.0


def test_an_example_of_many_rows_stands_for_as_many() -> None:
    rule = HangRule()
    rule.record_example(0.5, rows=10)
    assert rule.limit(1) == rule.limit(10) == 5.0
    assert rule.limit(20) == 10.0
