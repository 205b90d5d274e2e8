from __future__ import annotations

from math import erf, exp, lgamma, log, sqrt
from typing import Any

import numpy as np
import pytest

from clipper.selection.policy import SelectionPolicy, State
from clipper.selection.thompson import FLOOR, Thompson, ThompsonOptions

from .contract import ARMS, PolicyContract


class TestBernoulli(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Thompson()


class TestGaussian(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Thompson(ThompsonOptions(model="gaussian"))


class TestDiscounted(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Thompson(ThompsonOptions(discount=0.99))


def probabilities(policy: Thompson, *totals: tuple[float, float]) -> list[float]:
    """Of arms with these counts and sums of losses; a count of 0 is an unknown arm."""
    arms = [f"arm{index}:1#1" for index in range(len(totals))]
    table = {arm: [*map(float, of)] for arm, of in zip(arms, totals, strict=True) if of[0]}
    state: State = {"totals": table}
    return list(policy.probabilities(state, arms, None))


def beta_below(a: int, b: int, c: int, d: int) -> float:
    """P(X < Y) of X ~ Beta(a, b) and Y ~ Beta(c, d) with whole numbers, exactly."""

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return sum(
        exp(log_beta(a + i, b + d) - log(d + i) - log_beta(1 + i, d) - log_beta(a, b))
        for i in range(c)
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0), (0, 0)),
        ((0, 0), (1, 1)),
        ((1, 0), (2, 1)),
        ((10, 0), (30, 29)),
        ((50, 20), (70, 31)),
        ((1000, 100), (300, 40)),
        ((20000, 300), (30000, 500)),
        ((100000, 300), (2, 0)),
    ],
)
def test_two_arms_agree_with_the_closed_form(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    (n, lost), (m, other) = first, second
    exact = beta_below(1 + lost, 1 + n - lost, 1 + other, 1 + m - other)
    assert probabilities(Thompson(), first, second)[0] == pytest.approx(exact, abs=3e-5)


@pytest.mark.parametrize("counts", [(0, 0), (1, 5), (100, 3), (10**7, 10**7), (10**7, 0)])
@pytest.mark.parametrize("gap", [0.0, 0.5, 3.0])
def test_two_normal_arms_agree_with_the_closed_form(
    counts: tuple[int, int], gap: float
) -> None:
    """`gap` is the distance of the means in standard deviations of their difference."""
    deviation = 0.5 * sqrt(1 / (counts[0] + 1) + 1 / (counts[1] + 1))
    means = (0.5, 0.5 + gap * deviation)
    policy = Thompson(ThompsonOptions(model="gaussian"))
    # An unknown arm has mean 1/2 and count 0; others are given so that they have the mean.
    totals = [(n, mean * (n + 1) - 0.5) for n, mean in zip(counts, means, strict=True) if n]
    totals += [(0, 0.0)] * (2 - len(totals))
    known = [0.5 if not n else (lost + 0.5) / (n + 1) for n, lost in totals]
    exact = 0.5 * (1 + erf((known[1] - known[0]) / deviation / sqrt(2)))
    assert probabilities(policy, *totals)[0] == pytest.approx(exact, abs=3e-5)


@pytest.mark.parametrize("model", ["bernoulli", "gaussian"])
@pytest.mark.parametrize(
    "totals",
    [
        [(3, 1), (4, 1.5), (5, 2), (0, 0), (9, 2.7)],
        [(30, 0.4), (25, 0.2), (40, 39.5), (1, 1)],
        [(1e7, 1e6), (1e7, 1e6 + 800), (5, 0.1)],
        [(10 + arm, 3 + 0.1 * arm) for arm in range(32)],
    ],
)
def test_more_arms_agree_with_sampling(
    model: Any, totals: list[tuple[float, float]]
) -> None:
    rng, draws = np.random.default_rng(5), 400_000
    count, lost = np.array(totals, float).T
    if model == "bernoulli":
        sampled = rng.beta(1 + lost, 1 + count - lost, (draws, len(totals)))
    else:
        deviation = 0.5 / np.sqrt(count + 1)
        sampled = rng.normal((lost + 0.5) / (count + 1), deviation, (draws, len(totals)))
    share = np.bincount(sampled.argmin(axis=1), minlength=len(totals)) / draws
    found = np.array(probabilities(Thompson(ThompsonOptions(model=model)), *totals))
    error = 4.5 * np.sqrt(found * (1 - found) / draws) + 1e-4
    assert (np.abs(share - found) < error).all()


@pytest.mark.parametrize("model", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("scale", [1, 100, 10**4, 10**7, 10**14])
def test_any_counts_give_valid_probabilities(model: Any, scale: int) -> None:
    policy = Thompson(ThompsonOptions(model=model))
    for arms in (2, 5, 32):
        totals = [(scale * (1 + arm % 3), scale * (arm % 5) / 5) for arm in range(arms - 1)]
        found = probabilities(policy, *totals, (0, 0.0))
        assert sum(found) == pytest.approx(1)
        assert min(found) >= FLOOR / 2


def test_arms_of_the_same_evidence_are_equally_probable() -> None:
    for count in (2, 3, 8, 32):
        found = probabilities(Thompson(), *[(7, 2.5)] * count)
        assert found == pytest.approx([1 / count] * count, abs=1e-12)


def test_a_smaller_deviation_explores_less() -> None:
    totals = [(20, 8.0), (20, 10.0)]
    bold = Thompson(ThompsonOptions(model="gaussian", sigma=1.0))
    calm = Thompson(ThompsonOptions(model="gaussian", sigma=0.1))
    assert probabilities(calm, *totals)[0] > probabilities(bold, *totals)[0] > 0.5


def test_arms_keep_their_order() -> None:
    state = {"totals": {ARMS[0]: [9.0, 1.0], ARMS[1]: [9.0, 8.0]}}
    first = Thompson().probabilities(state, ARMS[:2], None)
    assert first[0] > 0.99
    assert Thompson().probabilities(state, ARMS[1::-1], None) == pytest.approx(first[::-1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "poisson"}, "model must be bernoulli or gaussian"),
        ({"sigma": 0.0}, "sigma must lie between"),
        ({"discount": 0.0}, "discount must be above 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ThompsonOptions(**options)
