from __future__ import annotations

from math import log, sqrt

import pytest

from clipper.selection.policy import Observation, SelectionPolicy, State
from clipper.selection.ucb1 import UCB1, UCB1Options

from .contract import ARMS, PolicyContract


class TestUCB1(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return UCB1()


class TestExploring(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return UCB1(UCB1Options(epsilon=0.1, exploration=0.5))


def state_of(*totals: tuple[float, float]) -> State:
    return {"totals": {arm: list(total) for arm, total in zip(ARMS, totals, strict=False)}}


def test_unvisited_arms_come_first_and_share() -> None:
    assert UCB1().probabilities(state_of((1, 0.0)), ARMS[:3], None) == [0.0, 0.5, 0.5]


def test_the_bound_is_that_of_the_paper() -> None:
    # Means of the rewards 0.6 after 90 and 0.3 after 10 of 100 observations.
    low, high = 0.6 + sqrt(2 * log(100) / 90), 0.3 + sqrt(2 * log(100) / 10)
    assert low < high
    state = state_of((90, 36.0), (10, 7.0))
    assert UCB1().probabilities(state, ARMS[:2], None) == [0.0, 1.0]
    calm = UCB1(UCB1Options(exploration=0.1))
    assert calm.probabilities(state, ARMS[:2], None) == [1.0, 0.0]


def test_ties_share() -> None:
    state = state_of((4, 2.0), (4, 2.0), (4, 3.0))
    assert UCB1().probabilities(state, ARMS[:3], None) == [0.5, 0.5, 0.0]


def test_epsilon_gives_every_arm_support() -> None:
    policy = UCB1(UCB1Options(epsilon=0.2))
    state = state_of((9, 0.0), (9, 9.0))
    assert policy.probabilities(state, ARMS[:2], None) == pytest.approx([0.9, 0.1])


def test_only_arms_that_there_are_count_as_rounds() -> None:
    state = state_of((5, 2.0), (5, 2.1), (1e6, 0.0))
    same = state_of((5, 2.0), (5, 2.1))
    arms = ARMS[:2]
    assert UCB1().probabilities(state, arms, None) == UCB1().probabilities(same, arms, None)


def test_an_arm_in_use_is_found_again_after_its_return() -> None:
    policy, state = UCB1(), UCB1().init()
    for arms in (ARMS[:2], ARMS[1:3], ARMS[:2]):
        for arm in arms:
            state = policy.observe(state, Observation(arms, {arm: 1.0}, (arm,), 1.0, 1.0))
    assert state["totals"][ARMS[0]] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"exploration": -1.0}, "exploration must lie between"),
        ({"exploration": float("inf")}, "exploration must lie between"),
        ({"epsilon": -0.1}, "epsilon must lie between 0 and 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        UCB1Options(**options)


def test_the_padding_is_that_of_the_paper() -> None:
    assert UCB1().padding(10.0) == pytest.approx(sqrt(2 * log(10.0)))
    assert UCB1(UCB1Options(exploration=0.5)).padding(10.0) == pytest.approx(
        0.5 * sqrt(2 * log(10.0))
    )


@pytest.mark.parametrize("exploration", [0.0, 1e6])
def test_exploration_reaches_from_nothing_to_a_million(exploration: float) -> None:
    assert UCB1Options(exploration=exploration).exploration == exploration


@pytest.mark.parametrize("exploration", [-0.001, 1e6 + 0.5, float("nan")])
def test_other_exploration_is_refused(exploration: float) -> None:
    with pytest.raises(ValueError, match=r"^exploration must lie between 0 and 1000000$"):
        UCB1Options(exploration=exploration)
