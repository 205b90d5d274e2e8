from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.selection.draw import Odds, as_logged, sticky

WEIGHTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(
    lambda weights: sum(weights) > 1e-3
)


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_what_has_no_probability_is_never_drawn(weights: list[float], u: float) -> None:
    odds = Odds(weights)
    assert math.isclose(sum(odds.probabilities), 1.0, rel_tol=1e-9)
    assert odds.probabilities[odds.draw(u)] > 0


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    odds, rng = Odds([0.5, 0.0, 0.2, 0.3]), Random(1)
    drawn = [0, 0, 0, 0]
    for _ in range(20_000):
        drawn[odds.draw(rng.random())] += 1
    for count, probability in zip(drawn, odds.probabilities, strict=True):
        assert abs(count / 20_000 - probability) < 0.015


@pytest.mark.parametrize("weights", [[0.0], [-1.0, 2.0], [math.nan], [math.inf, 1.0]])
def test_what_is_no_distribution_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="not a distribution"):
        Odds(weights)


def test_the_last_one_takes_what_rounding_left() -> None:
    odds = Odds([1 / 3] * 3 + [0.0])
    assert odds.draw(math.nextafter(1.0, 0.0)) == 2


def test_a_sticky_draw_is_always_the_same_and_uniform_over_users() -> None:
    draws = [sticky(f"user{n}", 7) for n in range(10_000)]
    assert draws == [sticky(f"user{n}", 7) for n in range(10_000)]
    assert all(0 <= draw < 1 for draw in draws)
    assert abs(sum(draw < 0.1 for draw in draws) / 10_000 - 0.1) < 0.01
    assert sticky("user1", 7) != sticky("user1", 8)


@given(st.floats(1e-6, 1.0))
def test_a_logged_propensity_survives_being_logged(probability: float) -> None:
    assert as_logged(as_logged(probability)) == as_logged(probability)
    assert math.isclose(as_logged(probability), probability, rel_tol=1e-6)
