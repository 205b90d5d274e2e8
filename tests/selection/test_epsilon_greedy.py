from __future__ import annotations

import pytest

from clipper.selection.epsilon_greedy import EpsilonGreedy, EpsilonGreedyOptions
from clipper.selection.policy import Observation, SelectionPolicy

from .contract import ARMS, PolicyContract


class TestEpsilonGreedy(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return EpsilonGreedy()


class TestFallingEpsilon(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return EpsilonGreedy(EpsilonGreedyOptions(gap=0.1, prior=0.0))


def probabilities(policy: EpsilonGreedy, *losses: float | None) -> list[float]:
    """After one loss of each arm, or none."""
    arms, state = ARMS[: len(losses)], policy.init()
    for arm, loss in zip(arms, losses, strict=True):
        if loss is not None:
            state = policy.observe(state, Observation(arms, {arm: loss}, (arm,), 0.5, loss))
    return list(policy.probabilities(state, arms, None))


def test_the_lowest_mean_is_favoured() -> None:
    policy = EpsilonGreedy(EpsilonGreedyOptions(epsilon=0.3))
    assert probabilities(policy, 0.5, 0.2, 0.9) == pytest.approx([0.1, 0.8, 0.1])


def test_ties_share() -> None:
    policy = EpsilonGreedy(EpsilonGreedyOptions(epsilon=0.2))
    assert probabilities(policy, 0.5, 1.0, 0.5, 1.0) == pytest.approx(
        [0.45, 0.05, 0.45, 0.05]
    )


def test_arms_without_evidence_come_first() -> None:
    policy = EpsilonGreedy(EpsilonGreedyOptions(epsilon=0.1))
    assert probabilities(policy, 0.0, None) == pytest.approx([0.05, 0.95])


def test_epsilon_falls_with_the_observations() -> None:
    policy = EpsilonGreedy(EpsilonGreedyOptions(gap=0.5, scale=1.0))
    state = policy.init()
    arms = ARMS[:2]
    assert policy.probabilities(state, arms, None) == [0.5, 0.5]
    for turn in range(199):
        arm = arms[turn % 2]
        loss = float(arm == arms[1])
        state = policy.observe(state, Observation(arms, {arm: loss}, (arm,), 0.5, loss))
    # 1 * 2 arms / (0.25 * 200 rounds), half of it for either arm
    assert policy.probabilities(state, arms, None) == pytest.approx([0.98, 0.02])


def test_feedback_without_a_decision_counts_all_arms() -> None:
    policy = EpsilonGreedy(EpsilonGreedyOptions(epsilon=0.0))
    arms = ARMS[:3]
    losses = dict(zip(arms, (0.9, 0.1, 0.5), strict=True))
    state = policy.observe(policy.init(), Observation(arms, losses))
    assert policy.probabilities(state, arms, None) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epsilon": 1.5}, "epsilon must lie between 0 and 1"),
        ({"epsilon": float("nan")}, "epsilon must lie between 0 and 1"),
        ({"gap": 0.0}, "gap must lie between"),
        ({"gap": 1e-300}, "gap must lie between"),
        ({"scale": 0.0}, "scale must be above 0"),
        ({"prior": -1.0}, "prior must lie between"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EpsilonGreedyOptions(**options)


def test_the_arm_of_the_least_mean_is_the_best_however_often_it_was_seen() -> None:
    policy = EpsilonGreedy(EpsilonGreedyOptions(epsilon=0.0))
    state = {"totals": {ARMS[0]: [10.0, 1.0], ARMS[1]: [1.0, 0.5]}}
    assert list(policy.probabilities(state, ARMS[:2], None)) == [1.0, 0.0]


@pytest.mark.parametrize(("gap", "scale"), [(1e-6, 1e6), (1.0, 0.001)])
def test_the_ends_of_its_options_are_taken(gap: float, scale: float) -> None:
    options = EpsilonGreedyOptions(gap=gap, scale=scale)
    assert (options.gap, options.scale) == (gap, scale)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gap": 9e-7}, r"^gap must lie between 0\.000001 and 1$"),
        ({"gap": 1.001}, "^gap must"),
        ({"scale": 0.0}, r"^scale must be above 0 and at most 1000000$"),
        ({"scale": 1e6 + 0.5}, "^scale must"),
    ],
)
def test_what_lies_beyond_them_is_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EpsilonGreedyOptions(**options)
