from __future__ import annotations

from collections.abc import Callable, Sequence
from math import e, exp, log, sqrt
from random import Random

import pytest

from clipper.selection.exp4 import LEAST_LOG_WEIGHT, Exp4, Exp4Options
from clipper.selection.policy import Arm, Observation, SelectionPolicy, State, Total
from clipper.selection.vote import Sample

from .contract import PolicyContract
from .streams import make_arms


class TestDefault(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp4()


class TestSteep(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp4(Exp4Options(gamma=1.0, answers=2, prior=3.0))


def answered(
    arms: tuple[Arm, ...], agreeing: Sequence[int], loss: float, propensity: float
) -> Observation:
    chosen = tuple(arms[i] for i in agreeing)
    return Observation(arms, {}, chosen, propensity, loss)


def weights(policy: Exp4, state: State, count: int) -> list[float]:
    return list(policy.weights(state, make_arms(count)))


def test_those_that_agreed_gain_by_the_logged_propensity() -> None:
    policy, arms = Exp4(Exp4Options(gamma=0.3)), make_arms(3)
    state = policy.observe(policy.init(), answered(arms, [0, 2], 0.25, 0.6))
    gain = exp(0.3 / 3 * 0.75 / 0.6)
    total = 2 * gain + 1
    expected = [gain / total, 1 / total, gain / total]
    assert weights(policy, state, 3) == pytest.approx(expected)


def test_fewer_answers_than_arms_make_greater_steps() -> None:
    policy, arms = Exp4(Exp4Options(gamma=0.3, answers=2)), make_arms(3)
    state = policy.observe(policy.init(), answered(arms, [0], 0.0, 0.6))
    found = weights(policy, state, 3)
    assert found[0] / found[1] == pytest.approx(exp(0.3 / 2 / 0.6))


def test_it_explores_as_much_as_it_says() -> None:
    assert Exp4(Exp4Options(gamma=0.25)).exploration == 0.25


@pytest.mark.parametrize(
    "seen",
    [
        Observation(make_arms(2), {make_arms(2)[0]: 0.0}),
        Observation(make_arms(2), {}, ("gone:1#1",), 0.5, 0.0),
        Observation(make_arms(2), {}, make_arms(2)[:1], 0.5, None),
    ],
)
def test_without_an_answer_of_its_own_it_learns_nothing(seen: Observation) -> None:
    policy = Exp4()
    assert not policy.full_information
    assert policy.observe(policy.init(), seen) == policy.init()


@pytest.mark.parametrize("propensity", [1e-12, 0.0])
def test_a_propensity_of_next_to_nothing_moves_an_exponent_by_1(propensity: float) -> None:
    policy, arms = Exp4(), make_arms(2)
    state = policy.observe(policy.init(), answered(arms, [0], 0.0, propensity))
    found = weights(policy, state, 2)
    assert found[0] / found[1] == pytest.approx(exp(1))
    same = policy.observe(policy.init(), answered(arms, [0], 1.0, propensity))
    assert weights(policy, same, 2) == [0.5, 0.5]


def test_a_member_that_was_wrong_for_ever_comes_back() -> None:
    policy, arms, state = Exp4(Exp4Options(gamma=0.5)), make_arms(2), Exp4().init()
    for _ in range(5000):
        state = policy.observe(state, answered(arms, [0], 0.0, 0.75))
    assert state["weights"][arms[1]] == LEAST_LOG_WEIGHT
    assert min(weights(policy, state, 2)) > 0
    for _ in range(200):
        state = policy.observe(state, answered(arms, [1], 0.0, 0.25))
    assert weights(policy, state, 2)[1] > 0.9


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": 1.1}, {"answers": 1}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Exp4Options(**options)  # type: ignore[arg-type]


# Theory

Advice = Callable[[int, Sequence[float], Random], tuple[list[int], int]]


def random_truth(rights: Sequence[float], answers: int) -> Advice:
    """Each expert is right with its own probability, else gives any other answer."""

    def advise(turn: int, w: Sequence[float], rng: Random) -> tuple[list[int], int]:
        truth = rng.randrange(answers)
        said = [
            truth if rng.random() < right else (truth + rng.randrange(1, answers)) % answers
            for right in rights
        ]
        return said, truth

    return advise


def contrary(turn: int, w: Sequence[float], rng: Random) -> tuple[list[int], int]:
    """Experts answer 0 or 1 by turns; what the weights favour is wrong, but that the last
    expert is right twice in three times."""
    said = [(turn >> index) & 1 for index in range(len(w))]
    ones = sum(weight for weight, answer in zip(w, said, strict=True) if answer)
    return said, said[-1] if turn % 3 else int(ones < 0.5)


@pytest.mark.parametrize(
    ("experts", "answers", "advice"),
    [
        (5, 2, random_truth([0.5, 0.55, 0.6, 0.65, 0.75], 2)),
        (5, 4, random_truth([0.3, 0.4, 0.5, 0.6, 0.7], 4)),
        (4, 2, contrary),
    ],
)
def test_the_regret_is_bounded_on_average(
    experts: int, answers: int, advice: Advice
) -> None:
    rounds, seeds, arms = 2000, 12, make_arms(experts)
    gamma = min(1.0, sqrt(answers * log(experts) / ((e - 1) * rounds)))
    policy = Exp4(Exp4Options(gamma=gamma, answers=answers))
    sample, regret = Sample(policy.exploration), 0.0
    for seed in range(seeds):
        rng, state = Random(seed), policy.init()
        mine, theirs = 0, [0] * experts
        for turn in range(rounds):
            w = policy.weights(state, arms)
            said, truth = advice(turn, w, rng)
            found = sample.combine([b"%d" % answer for answer in said], w, rng)
            right = int(found.output) == truth
            mine += right
            for index, answer in enumerate(said):
                theirs[index] += answer == truth
            seen = answered(arms, found.agreeing, 1.0 - right, found.propensity)
            state = policy.observe(state, seen)
        regret += (max(theirs) - mine) / seeds
    assert regret <= 2.63 * sqrt(rounds * answers * log(experts))


# Users and beginnings


def test_the_population_fades_as_a_user_learns() -> None:
    policy, arms = Exp4(Exp4Options(gamma=0.5, prior=4.0)), make_arms(2)
    population, own = policy.init(), policy.init()
    for _ in range(20):
        population = policy.observe(population, answered(arms, [0], 0.0, 0.5))
    found = []
    for _ in range(30):
        found.append(weights(policy, policy.blend(population, own), 2)[0])
        own = policy.observe(own, answered(arms, [1], 0.0, 0.5))
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.99 and found[-1] < 0.01
    mine = Exp4(Exp4Options(prior=0.0))
    assert mine.blend(population, own) == own


def test_it_begins_with_the_means_that_are_known() -> None:
    policy, arms = Exp4(), make_arms(3)
    state = policy.begin({arms[0]: Total(100, 90.0), arms[1]: Total(100, 10.0)})
    first, second, third = weights(policy, state, 3)
    assert second > third > first
    assert weights(policy, policy.begin({}), 2) == [0.5, 0.5]
