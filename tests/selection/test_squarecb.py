from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.selection.policy import Observation, SelectionPolicy
from clipper.selection.squarecb import SquareCB

from .contract import PolicyContract
from .linear import regret

ARMS = ("a:1#1", "b:1#2", "c:1#3")


class TestSquareCB(PolicyContract):
    contexts = ([0.5, 1.0], [-3, 0], [1e6, -1e6])

    @staticmethod
    def make() -> SelectionPolicy:
        return SquareCB(SquareCB.Options(features=2))


class TestForgetting(TestSquareCB):
    @staticmethod
    def make() -> SelectionPolicy:
        return SquareCB(SquareCB.Options(features=2, discount=0.95, epsilon=0.1))


def learned(policy: SquareCB, losses: list[float], turns: int) -> Any:
    state = policy.init()
    for _ in range(turns):
        known = dict(zip(ARMS, losses, strict=True))
        state = policy.observe(state, Observation(ARMS, known, context=[0.0]))
    return state


def test_before_any_feedback_the_choice_is_uniform() -> None:
    policy = SquareCB(SquareCB.Options(features=1))
    assert policy.probabilities(policy.init(), ARMS, [1.0]) == pytest.approx([1 / 3] * 3)


@given(turns=st.integers(1, 40), scale=st.floats(0, 100), exponent=st.floats(0, 1))
def test_chances_fall_with_the_inverse_of_the_gap(
    turns: int, scale: float, exponent: float
) -> None:
    policy = SquareCB(
        SquareCB.Options(features=1, gamma_scale=scale, gamma_exponent=exponent)
    )
    state = learned(policy, [0.5, 0.2, 0.9], turns)
    costs = [loss * turns / (turns + 1) for loss in (0.5, 0.2, 0.9)]
    gamma = scale * turns**exponent
    first = 1 / (3 + gamma * (costs[0] - costs[1]))
    last = 1 / (3 + gamma * (costs[2] - costs[1]))
    expected = [first, 1 - first - last, last]
    assert policy.probabilities(state, ARMS, [0.0]) == pytest.approx(expected)


def test_arms_that_are_best_together_share() -> None:
    policy = SquareCB(SquareCB.Options(features=1))
    found = policy.probabilities(learned(policy, [0.2, 0.9, 0.2], 50), ARMS, [0.0])
    assert found[0] == pytest.approx(found[2]) and found[1] < 0.03


def test_predictions_are_clipped() -> None:
    policy = SquareCB(SquareCB.Options(features=1, gamma_exponent=0.0))
    state = policy.init()
    for context, losses in (([1.0], [0.0, 1.0, 0.5]), ([-1.0], [1.0, 0.0, 0.5])):
        for _ in range(200):
            known = dict(zip(ARMS, losses, strict=True))
            state = policy.observe(state, Observation(ARMS, known, context=context))
    # far out the line of the first is at -99, that of the second at 100
    found = policy.probabilities(state, ARMS, [200.0])
    assert found[1] == pytest.approx(1 / (3 + 10 * 1.0))
    assert found[2] == pytest.approx(1 / (3 + 10 * 0.5), rel=0.01)


def test_every_arm_keeps_its_share_of_epsilon() -> None:
    policy = SquareCB(SquareCB.Options(features=1, epsilon=0.3, gamma_scale=1e6))
    found = policy.probabilities(learned(policy, [0.0, 1.0, 1.0], 100), ARMS, [0.0])
    assert found == pytest.approx([0.8, 0.1, 0.1], abs=1e-6)


def test_a_newcomer_is_tried() -> None:
    policy = SquareCB(SquareCB.Options(features=1))
    state = learned(policy, [0.5, 0.5, 0.5], 500)
    found = policy.probabilities(state, (*ARMS, "d:1#9"), [0.0])
    assert found[3] > 0.9


def test_forgetting_bounds_how_sure_it_gets() -> None:
    policy = SquareCB(SquareCB.Options(features=1, discount=0.9))
    assert learned(policy, [0.0, 1.0, 1.0], 300)["rounds"] == pytest.approx(10.0)


def test_regret_on_a_linear_stream_is_sublinear() -> None:
    total = np.mean(
        [regret(SquareCB(SquareCB.Options(features=4)), seed) for seed in range(6)], axis=0
    )
    quarter, whole = total[len(total) // 4 - 1], total[-1]
    uniform = np.mean([regret(None, seed)[-1] for seed in range(6)])
    assert whole < 3 * quarter
    assert whole < 0.5 * uniform
