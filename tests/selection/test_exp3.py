from __future__ import annotations

from math import e, exp, log, sqrt
from typing import Any

import pytest

from clipper.selection.exp3 import BEGIN_ROUNDS, Exp3, Exp3Options
from clipper.selection.policy import Arm, Observation, SelectionPolicy, State, Total

from .contract import ARMS, PolicyContract


class TestLoss(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3()


class TestGain(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3(Exp3Options(form="gain", horizon=10_000))


class TestGainWithoutHorizon(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3(Exp3Options(form="gain"))


class TestShare(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3(Exp3Options(share=1e-3))


class TestSteep(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3(Exp3Options(eta=10.0, share=1e-3, prior=0.0))


def feed(
    policy: SelectionPolicy,
    state: State,
    arms: tuple[Arm, ...],
    arm: Arm,
    loss: float,
    propensity: float,
) -> State:
    return policy.observe(state, Observation(arms, {arm: loss}, (arm,), propensity, loss))


def test_the_loss_form() -> None:
    policy, arms = Exp3(Exp3Options(eta=0.3)), ARMS[:3]
    state = feed(policy, policy.init(), arms, arms[1], 0.5, 0.2)
    state = feed(policy, state, arms, arms[2], 1.0, 0.4)
    weights = [1.0, exp(-0.3 * 0.5 / 0.2), exp(-0.3 * 1.0 / 0.4)]
    assert policy.probabilities(state, arms, None) == pytest.approx(
        [weight / sum(weights) for weight in weights]
    )


def test_the_gain_form() -> None:
    policy, arms = Exp3(Exp3Options(form="gain", gamma=0.3)), ARMS[:3]
    state = feed(policy, policy.init(), arms, arms[1], 0.25, 0.2)
    weights = [1.0, exp(0.3 / 3 * 0.75 / 0.2), 1.0]
    assert policy.probabilities(state, arms, None) == pytest.approx(
        [0.7 * weight / sum(weights) + 0.1 for weight in weights]
    )


def test_the_share_is_spread_after_every_round() -> None:
    policy, arms = Exp3(Exp3Options(eta=0.3, share=0.1)), ARMS[:2]
    state, weights = policy.init(), [0.5, 0.5]
    for arm, loss in ((0, 1.0), (1, 0.5), (0, 1.0)):
        state = feed(policy, state, arms, arms[arm], loss, 0.5)
        weights[arm] *= exp(-0.3 * loss / 0.5)
        total = sum(weights)
        weights = [0.9 * weight / total + 0.05 for weight in weights]
        assert policy.probabilities(state, arms, None) == pytest.approx(weights)


def test_rates() -> None:
    best = sqrt(2 * log(5) / (5 * 1000))
    assert Exp3(Exp3Options(horizon=1000)).rate(5, 7.0) == pytest.approx(best)
    assert Exp3().rate(5, 999.0) == pytest.approx(best)
    assert Exp3(Exp3Options(share=1e-3)).rate(5, 1e6) == pytest.approx(best)
    gamma = sqrt(5 * log(5) / ((e - 1) * 1000))
    assert Exp3(Exp3Options(form="gain", horizon=1000)).mixture(5, 0.0) == pytest.approx(
        gamma
    )
    assert Exp3(Exp3Options(form="gain")).rate(5, 999.0) == pytest.approx(gamma / 5)
    assert Exp3(Exp3Options(form="gain")).mixture(5, 0.0) == 1.0


def test_the_rate_that_falls_applies_to_all_losses() -> None:
    policy, arms = Exp3(), ARMS[:2]
    state = policy.init()
    for _ in range(10):
        state = feed(policy, state, arms, arms[0], 0.5, 0.5)
    rate = sqrt(2 * log(2) / (2 * 11))
    first, second = policy.probabilities(state, arms, None)
    assert first / second == pytest.approx(exp(-rate * 10))


def test_a_new_arm_starts_at_the_mean_weight() -> None:
    policy = Exp3(Exp3Options(eta=0.1))
    state = feed(policy, policy.init(), ARMS[:2], ARMS[0], 1.0, 0.05)
    before = policy.probabilities(state, ARMS[:2], None)
    found = policy.probabilities(state, ARMS[:3], None)
    assert found[2] == pytest.approx(1 / 3)
    assert found[0] / found[1] == pytest.approx(before[0] / before[1])
    # A loss of 0 changes nothing but that the newcomer is known from now on.
    state = feed(policy, state, ARMS[:3], ARMS[0], 0.0, 0.5)
    assert policy.probabilities(state, ARMS[:3], None) == pytest.approx(found)


def test_an_arm_that_was_away_gains_nothing_by_it() -> None:
    policy, arms = Exp3(Exp3Options(eta=0.1)), ARMS[:3]
    state = feed(policy, policy.init(), arms, arms[0], 1.0, 0.2)
    before = policy.probabilities(state, arms, None)
    for _ in range(200):
        for arm in arms[:2]:
            state = feed(policy, state, arms[:2], arm, 1.0, 0.5)
    assert policy.probabilities(state, arms, None) == pytest.approx(before)


def test_feedback_for_an_arm_that_left_counts_for_its_return() -> None:
    policy, arms = Exp3(Exp3Options(eta=0.1)), ARMS[:3]
    state = feed(policy, policy.init(), arms, arms[0], 0.0, 0.3)
    state = feed(policy, state, arms[:2], arms[2], 1.0, 0.1)
    first, second, third = policy.probabilities(state, arms, None)
    assert first == pytest.approx(second)
    assert third / first == pytest.approx(exp(-0.1 * 10))


def test_only_the_chosen_arm_counts() -> None:
    policy, arms = Exp3(), ARMS[:3]
    losses = dict.fromkeys(arms, 1.0)
    more = policy.observe(policy.init(), Observation(arms, losses, arms[:1], 0.5, 1.0))
    assert more == feed(policy, policy.init(), arms, arms[0], 1.0, 0.5)
    assert policy.observe(policy.init(), Observation(arms, losses)) == policy.init()


def test_a_user_starts_behind_by_at_most_the_prior() -> None:
    policy, arms = Exp3(Exp3Options(eta=0.5, prior=4.0)), ARMS[:3]
    population, own = policy.init(), policy.init()
    for _ in range(500):
        population = feed(policy, population, arms, arms[0], 1.0, 0.5)
    # The best of all is not there any more, and says nothing of the others.
    for _ in range(500):
        population = feed(policy, population, (*arms, "gone:1#1"), arms[1], 1.0, 0.5)
        population = feed(policy, population, (*arms, "gone:1#1"), arms[2], 1.0, 0.5)
    own = feed(policy, own, arms, arms[1], 1.0, 0.5)
    mixed = policy.blend(population, own)
    theirs = [population["losses"][arm] for arm in arms]
    behind = [min(loss - min(theirs), 4.0) for loss in theirs]
    weights = [exp(-0.5 * loss) for loss in (behind[0], behind[1] + 2.0, behind[2])]
    assert policy.probabilities(mixed, arms, None) == pytest.approx(
        [weight / sum(weights) for weight in weights]
    )


def test_it_begins_as_after_some_rounds_of_mean_losses() -> None:
    policy, arms = Exp3(Exp3Options(eta=0.01)), ARMS[:3]
    totals = {arms[0]: Total(60, 6.0), arms[1]: Total(40, 20.0), arms[2]: Total(0, 0.0)}
    state = policy.begin(totals)
    first, second, third = policy.probabilities(state, arms, None)
    assert second / first == pytest.approx(exp(-0.01 * 100 * 0.4))
    assert third == pytest.approx(1 / 3)
    many = {arm: Total(1e6, turn * 1e5) for turn, arm in enumerate(arms)}
    assert policy.begin(many)["losses"][arms[1]] == pytest.approx(BEGIN_ROUNDS * 0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "regret"}, "form must be loss or gain"),
        ({"eta": 0.0}, "eta must lie between"),
        ({"eta": 0.1, "horizon": 10}, "give eta or horizon, not both"),
        ({"eta": 0.1, "form": "gain"}, "eta belongs to the loss form"),
        ({"gamma": 0.1}, "gamma belongs to the gain form"),
        ({"gamma": 1.1, "form": "gain"}, "gamma must lie between"),
        ({"gamma": 0.1, "form": "gain", "horizon": 5}, "give gamma or horizon, not both"),
        ({"horizon": 0}, "horizon must lie between"),
        ({"share": 1.0}, "share must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Exp3Options(**options)
