from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.selection.draw import Odds, Seats, as_logged, draw_once

WEIGHTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(
    lambda weights: sum(weights) > 1e-3
)


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_what_has_no_probability_is_never_drawn(weights: list[float], u: float) -> None:
    odds = Odds(weights)
    assert math.isclose(sum(odds.probabilities), 1.0, rel_tol=1e-9)
    assert odds.probabilities[odds.draw(u)] > 0


@given(WEIGHTS, st.floats(0, 1, exclude_max=True) | st.just(math.nextafter(1.0, 0.0)))
def test_one_draw_is_that_of_what_is_compiled(weights: list[float], u: float) -> None:
    odds = Odds(weights)
    assert draw_once(odds.probabilities, u) == odds.draw(u)


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


# -- users that stay ---------------------------------------------------------------------

UIDS = [f"user{n}" for n in range(4000)]
NAMES = ("a", "b", "c", "d")
SPREAD = 4 * math.sqrt(0.25 / len(UIDS))  # four standard deviations of a share of them


def normal(weights: Sequence[float]) -> list[float]:
    return Odds(weights).probabilities


def places(weights: Sequence[float], names: Sequence[str] = NAMES) -> list[str]:
    """Where each user stays."""
    seats = Seats(7, names[: len(weights)], normal(weights))
    return [names[seats.draw(uid)] for uid in UIDS]


def moved(before: Sequence[str], after: Sequence[str]) -> float:
    return sum(a != b for a, b in zip(before, after, strict=True)) / len(before)


def variation(before: Sequence[float], after: Sequence[float]) -> float:
    """The total variation between the odds: the share that must move."""
    pairs = zip(normal(before), normal(after), strict=True)
    return sum(abs(p - q) for p, q in pairs) / 2


SHARES = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


def test_users_stay_and_are_as_many_as_the_odds_say() -> None:
    weights = (0.5, 0.0, 0.2, 0.3)
    assert places(weights) == places(weights)
    counts = Counter(places(weights))
    for name, weight in zip(NAMES, weights, strict=True):
        assert abs(counts[name] / len(UIDS) - weight) < SPREAD
    assert counts["b"] == 0


def test_applications_place_their_users_apart() -> None:
    one, other = (Seats(salt, ("a", "b"), (0.5, 0.5)) for salt in (1, 2))
    differing = sum(one.draw(uid) != other.draw(uid) for uid in UIDS)
    assert abs(differing / len(UIDS) - 0.5) < SPREAD


def test_a_user_stays_with_a_name_wherever_it_stands() -> None:
    assert places([0.2, 0.3, 0.5], "abc") == places([0.5, 0.2, 0.3], "cab")


@settings(max_examples=20, deadline=None)
@given(SHARES, st.integers(0, 3), st.floats(0, 1))
def test_as_few_users_move_as_can_when_one_weight_changes(
    weights: list[float], index: int, weight: float
) -> None:
    changed = [*weights]
    changed[index] = weight
    before, after = places(weights), places(changed)
    assert abs(moved(before, after) - variation(weights, changed)) < SPREAD
    name = NAMES[index]  # nobody moves between two others
    assert all(name in (a, b) for a, b in zip(before, after, strict=True) if a != b)


@settings(max_examples=20, deadline=None)
@given(SHARES, SHARES)
def test_users_move_only_to_where_more_is_to_be_had(
    weights: list[float], changed: list[float]
) -> None:
    before, after = places(weights), places(changed)
    least = variation(weights, changed)
    assert moved(before, after) < 2 * least / (1 + least) + SPREAD
    gain = dict(
        zip(
            NAMES,
            (q / p for p, q in zip(normal(weights), normal(changed), strict=True)),
            strict=True,
        )
    )
    assert all(
        gain[b] > gain[a] * (1 - 1e-9) for a, b in zip(before, after, strict=True) if a != b
    )


def test_a_name_that_goes_leaves_the_others_as_they_were() -> None:
    before, after = places([0.2, 0.3, 0.5], "abc"), places([0.2, 0.5], "ac")
    assert all(a == b for a, b in zip(before, after, strict=True) if a != "b")


@pytest.mark.parametrize("weights", [(1.0, 1e-300), (5e-324, 1.0), (1.0,)])
def test_users_are_placed_under_any_odds(weights: Sequence[float]) -> None:
    first = 0 if weights[0] == 1.0 else 1
    assert set(places(weights)) == {NAMES[first]}


@given(st.floats(1e-6, 1.0))
def test_a_logged_propensity_survives_being_logged(probability: float) -> None:
    assert as_logged(as_logged(probability)) == as_logged(probability)
    assert math.isclose(as_logged(probability), probability, rel_tol=1e-6)


def test_users_keep_their_seats_from_one_release_to_the_next() -> None:
    seats = Seats("salt", ["a", "b", "c"], [0.5, 0.3, 0.2])
    assert [seats.draw(f"user{i}") for i in range(20)] == [
        0,
        1,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        0,
    ]


def test_a_number_at_the_end_of_one_is_the_next() -> None:
    assert [draw_once([0.25, 0.25, 0.5], u) for u in (0.0, 0.25, 0.5)] == [0, 1, 2]
    assert [Odds([1, 1, 2]).draw(u) for u in (0.0, 0.25, 0.5)] == [0, 1, 2]


def test_seats_have_one_probability_for_each_name() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Seats("salt", ["a", "b"], [1.0])
