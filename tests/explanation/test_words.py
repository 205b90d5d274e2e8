from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.explanation.words import count, duration, percent, rate, seconds, sentence


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "less than 0.1 %"),
        (0.0583, "5.8 %"),
        (0.5, "50.0 %"),
        (0.99999, "more than 99.9 %"),
        (1.0, "100 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@given(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True))
def test_a_part_is_neither_all_nor_none(share: float) -> None:
    assert percent(share) not in ("0 %", "0.0 %", "100 %", "100.0 %")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.0, "0 ms"),
        (0.0003, "0.3 µs"),
        (0.05, "50 µs"),
        (0.4, "0.4 ms"),
        (18.2345, "18.2 ms"),
        (999.4, "999 ms"),
        (999.6, "1 s"),
        (61_000.0, "61 s"),
    ],
)
def test_duration(ms: float, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0.0, "0 rows/s"),
        (0.25, "0.25 rows/s"),
        (14.0, "14 rows/s"),
        (2362.6, "2,360 rows/s"),
    ],
)
def test_rate(per_second: float, text: str) -> None:
    assert rate(per_second) == text


@given(st.floats(0.001, 1e9))
def test_numbers_have_no_exponents(number: float) -> None:
    assert "e" not in rate(number)
    assert "e" not in duration(min(number, 900_000.0))


def test_counts_seconds_and_reasons() -> None:
    assert [count(1), count(0), count(18_204)] == ["1 row", "0 rows", "18,204 rows"]
    assert [count(1, "batch"), count(2, "batch")] == ["1 batch", "2 batches"]
    assert [seconds(0.01), seconds(45.2)] == ["1 s", "45 s"]
    assert [sentence(" it fell. \nmore"), sentence("")] == ["it fell", ""]
