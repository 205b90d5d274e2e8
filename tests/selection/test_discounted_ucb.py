from __future__ import annotations

from math import log, sqrt

import pytest

from clipper.selection.discounted_ucb import DiscountedUCB, DiscountedUCBOptions
from clipper.selection.policy import Arm, Observation, SelectionPolicy, State, Total

from .contract import ARMS, PolicyContract


class TestDiscountedUCB(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return DiscountedUCB()


class TestForgetful(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return DiscountedUCB(DiscountedUCBOptions(discount=0.5, epsilon=0.1))


def feed(policy: DiscountedUCB, state: State, arm: Arm, loss: float) -> State:
    return policy.observe(state, Observation(ARMS[:2], {arm: loss}, (arm,), 1.0, loss))


def test_every_observation_discounts_all_arms() -> None:
    policy = DiscountedUCB(DiscountedUCBOptions(discount=0.5))
    state = policy.init()
    for arm, loss in ((ARMS[0], 1.0), (ARMS[1], 0.5), (ARMS[0], 0.0)):
        state = feed(policy, state, arm, loss)
    assert state["totals"] == {ARMS[1]: [0.5, 0.25], ARMS[0]: [1.25, 0.25]}


def test_the_bound_is_that_of_the_paper() -> None:
    policy = DiscountedUCB(DiscountedUCBOptions(exploration=0.6))
    low = 0.9 + 2 * sqrt(0.6 * log(100) / 80)
    for mean, sure in ((0.6, False), (0.5, True)):
        high = mean + 2 * sqrt(0.6 * log(100) / 20)
        state = {"totals": {ARMS[0]: [80.0, 8.0], ARMS[1]: [20.0, 20.0 * (1 - mean)]}}
        assert (low > high) is sure
        assert policy.probabilities(state, ARMS[:2], None) == [float(sure), 1.0 - sure]


def test_an_arm_whose_evidence_has_faded_is_as_good_as_new() -> None:
    policy = DiscountedUCB(DiscountedUCBOptions(discount=0.5))
    state = feed(policy, policy.init(), ARMS[1], 1.0)
    for _ in range(40):
        state = feed(policy, state, ARMS[0], 0.0)
    assert list(state["totals"]) == [ARMS[0]]
    assert policy.probabilities(state, ARMS[:2], None) == [0.0, 1.0]


def test_what_it_takes_over_can_be_forgotten() -> None:
    policy = DiscountedUCB(DiscountedUCBOptions(discount=0.99))
    state = policy.begin({ARMS[0]: Total(3e6, 1e6), ARMS[1]: Total(1e6, 9e5)})
    assert state["totals"][ARMS[0]] == pytest.approx([75, 25])
    assert state["totals"][ARMS[1]] == pytest.approx([25, 22.5])
    few = {ARMS[0]: Total(10, 5.0)}
    assert policy.begin(few)["totals"] == {ARMS[0]: [10.0, 5.0]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"discount": 0.0}, "discount must be above 0"),
        ({"discount": 1.01}, "discount must be above 0"),
        ({"exploration": -1.0}, "exploration must lie between"),
        ({"epsilon": 2.0}, "epsilon must lie between 0 and 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DiscountedUCBOptions(**options)
