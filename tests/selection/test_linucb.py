from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipper.selection.linucb import LinUCB
from clipper.selection.policy import Observation, SelectionPolicy

from .contract import PolicyContract
from .linear import regret

ARMS = ("a:1#1", "b:1#2", "c:1#3")


class TestLinUCB(PolicyContract):
    contexts = ([0.5, 1.0], [-3, 0], [1e6, -1e6])

    @staticmethod
    def make() -> SelectionPolicy:
        return LinUCB(LinUCB.Options(features=2))


class TestForgetting(TestLinUCB):
    @staticmethod
    def make() -> SelectionPolicy:
        return LinUCB(LinUCB.Options(features=2, discount=0.95, epsilon=0.1, alpha=0.3))


def learned(policy: LinUCB, *losses: tuple[str, float, list[float]]) -> Any:
    state = policy.init()
    for arm, loss, context in losses:
        seen = Observation(ARMS, {arm: loss}, (arm,), 1.0, loss, context)
        state = policy.observe(state, seen)
    return state


def test_arms_without_evidence_share() -> None:
    policy = LinUCB(LinUCB.Options(features=1))
    assert policy.probabilities(policy.init(), ARMS, [1.0]) == pytest.approx([1 / 3] * 3)


def test_the_bound_is_that_of_the_paper() -> None:
    policy = LinUCB(LinUCB.Options(features=1, alpha=0.0))
    # at x = (2, 1), A = I + xx' and b = (1 - loss) x: theta'x = (1 - loss) 5/6
    state = learned(policy, (ARMS[0], 0.4, [2.0]), (ARMS[1], 0.5, [2.0]))
    assert policy.probabilities(state, ARMS, [2.0]) == [1.0, 0.0, 0.0]
    # the unknown arm's bound is alpha sqrt(5), the first one's 0.5 + alpha sqrt(5/6)
    for alpha, best in ((0.3, 0), (0.45, 2)):
        bold = LinUCB(LinUCB.Options(features=1, alpha=alpha))
        found = bold.probabilities(state, ARMS, [2.0])
        assert list(found).index(1.0) == best


def test_the_context_decides() -> None:
    policy = LinUCB(LinUCB.Options(features=1, alpha=0.1))
    state = learned(
        policy,
        *[(ARMS[0], 0.0, [1.0]), (ARMS[0], 1.0, [-1.0])] * 50,
        *[(ARMS[1], 1.0, [1.0]), (ARMS[1], 0.0, [-1.0])] * 50,
        *[(ARMS[2], 0.6, [1.0]), (ARMS[2], 0.6, [-1.0])] * 50,
    )
    assert policy.probabilities(state, ARMS, [1.0]) == [1.0, 0.0, 0.0]
    assert policy.probabilities(state, ARMS, [-1.0]) == [0.0, 1.0, 0.0]


def test_equal_evidence_is_a_tie_in_any_order_of_arms() -> None:
    policy = LinUCB(LinUCB.Options(features=2, epsilon=0.3))
    losses = [(arm, 0.3, [0.1, 0.7]) for arm in ARMS[:2] for _ in range(20)]
    losses += [(ARMS[2], 1.0, [0.1, 0.7])] * 40
    state = learned(policy, *losses)
    assert policy.probabilities(state, ARMS, [0.1, 0.7]) == pytest.approx([0.45, 0.45, 0.1])
    found = policy.probabilities(state, ARMS[::-1], [0.1, 0.7])
    assert found == pytest.approx([0.1, 0.45, 0.45])


def test_regret_on_a_linear_stream_is_sublinear() -> None:
    total = np.mean(
        [regret(LinUCB(LinUCB.Options(features=4, alpha=0.5)), seed) for seed in range(6)],
        axis=0,
    )
    quarter, whole = total[len(total) // 4 - 1], total[-1]
    uniform = np.mean([regret(None, seed)[-1] for seed in range(6)])
    assert whole < 2.5 * quarter
    assert whole < 0.2 * uniform


def test_a_discount_follows_a_drift() -> None:
    def late(discount: float) -> float:
        options = LinUCB.Options(features=4, alpha=0.5, discount=discount)
        curves = [regret(LinUCB(options), seed, drift=True) for seed in range(6)]
        return float(np.mean([curve[-1] - curve[len(curve) // 2] for curve in curves]))

    assert late(0.99) < 0.7 * late(1.0)
