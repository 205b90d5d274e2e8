"""What theory promises of the policies that choose one arm, with seeds and by playing."""

from __future__ import annotations

from math import exp, isfinite, log, pi, sqrt
from random import Random

import pytest

from clipper.selection.discounted_ucb import DiscountedUCB, DiscountedUCBOptions
from clipper.selection.epsilon_greedy import EpsilonGreedy, EpsilonGreedyOptions
from clipper.selection.exp3 import Exp3, Exp3Options, ExponentialWeights, WeightsOptions
from clipper.selection.exp3_ix import Exp3IX
from clipper.selection.policy import Observation, SingleChoice, State
from clipper.selection.thompson import Thompson
from clipper.selection.ucb1 import UCB1

from .streams import Stream, adversarial, bernoulli, draw, make_arms, play, switching

SEEDS = 50
STREAMS = ("adversarial", "bernoulli", "switching")


def make_stream(name: str, arms: int, rounds: int) -> Stream:
    means = [0.5] * (arms - 1) + [0.2]
    if name == "adversarial":
        return adversarial
    return bernoulli(means) if name == "bernoulli" else switching(means, rounds // 8)


def mean_regret(policy: SingleChoice, stream: Stream, arms: int, rounds: int) -> float:
    """The regret that the bounds are about: mean loss less that of the best single arm."""
    runs = [play(policy, stream, arms, rounds, seed) for seed in range(SEEDS)]
    lost = sum(run.lost[-1] for run in runs)
    best = min(sum(run.by_arm[arm] for run in runs) for arm in range(arms))
    return (lost - best) / SEEDS


# Bounds on the regret against any stream. They hold for every number of rounds; fewer than
# 10,000 keep the tests short.


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("arms", [2, 5, 10])
def test_exp3_loses_no_more_than_its_bound(arms: int, stream: str) -> None:
    rounds = 2000
    policy = Exp3(Exp3Options(horizon=rounds))
    regret = mean_regret(policy, make_stream(stream, arms, rounds), arms, rounds)
    assert regret <= sqrt(2 * rounds * arms * log(arms))


def test_exp3_keeps_its_bound_for_10000_rounds() -> None:
    policy = Exp3(Exp3Options(horizon=10_000))
    regret = mean_regret(policy, make_stream("bernoulli", 5, 10_000), 5, 10_000)
    assert regret <= sqrt(2 * 10_000 * 5 * log(5))


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("arms", [2, 5, 10])
def test_exp3_in_the_gain_form_loses_no_more_than_its_bound(arms: int, stream: str) -> None:
    rounds = 2000
    policy = Exp3(Exp3Options(form="gain", horizon=rounds))
    regret = mean_regret(policy, make_stream(stream, arms, rounds), arms, rounds)
    assert regret <= 2.63 * sqrt(rounds * arms * log(arms))


@pytest.mark.parametrize("policy", [Exp3(), Exp3IX()], ids=["exp3", "exp3_ix"])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_falling_rate_costs_at_most_sqrt_2(policy: SingleChoice, stream: str) -> None:
    rounds, arms = 2000, 5
    regret = mean_regret(policy, make_stream(stream, arms, rounds), arms, rounds)
    assert regret <= 2 * sqrt(rounds * arms * log(arms))


def test_exp3_ix_is_sure_of_its_bound_in_every_single_run() -> None:
    """Neu 2015, theorem 1: with probability 1 - delta at most
    2 sqrt(2 K T ln K) + (sqrt(2 K T / ln K) + 1) ln(2 / delta)."""
    rounds, arms, delta = 2000, 5, 0.01
    bound = 2 * sqrt(2 * arms * rounds * log(arms))
    bound += (sqrt(2 * arms * rounds / log(arms)) + 1) * log(2 / delta)
    policy = Exp3IX(WeightsOptions(horizon=rounds))
    for name in STREAMS:
        for seed in range(10):
            run = play(policy, make_stream(name, arms, rounds), arms, rounds, seed)
            assert run.lost[-1] - min(run.by_arm) <= bound


# Logarithmic regret against losses with fixed means.


@pytest.mark.parametrize(
    ("policy", "rounds", "seeds"),
    [
        (UCB1(), 4000, 20),
        (Thompson(), 1000, 10),
        (EpsilonGreedy(EpsilonGreedyOptions(gap=0.4, scale=1.0)), 4000, 20),
    ],
    ids=["ucb1", "thompson", "epsilon_greedy"],
)
def test_regret_is_logarithmic(policy: SingleChoice, rounds: int, seeds: int) -> None:
    means = [0.1, 0.5, 0.6, 0.7]
    gaps = [mean - means[0] for mean in means]
    early = late = 0.0
    for seed in range(seeds):
        run = play(policy, bernoulli(means), len(means), 4 * rounds, seed)
        early += sum(gaps[arm] for arm in run.chosen[:rounds]) / seeds
        late += sum(gaps[arm] for arm in run.chosen[rounds:]) / seeds
    # Three times the rounds would add 3 times the regret if it were linear, once the
    # regret if it grew by the square root; ln(4 T) / ln(T) is about 1.2.
    assert late < 0.4 * early
    bound = sum(8 * log(4 * rounds) / gap + (1 + pi**2 / 3) * gap for gap in gaps if gap)
    assert early + late < bound


# Streams that change.


def test_what_forgets_loses_less_where_arms_change() -> None:
    stream, arms, rounds = switching([0.1, 0.6, 0.7], 1000), 3, 6000

    def lost(policy: SingleChoice) -> float:
        return sum(play(policy, stream, arms, rounds, seed).lost[-1] for seed in range(10))

    never = DiscountedUCB(DiscountedUCBOptions(discount=1.0))
    assert lost(DiscountedUCB()) < 0.8 * lost(never)
    assert lost(Exp3(Exp3Options(share=1e-3))) < 0.8 * lost(Exp3(Exp3Options()))


@pytest.mark.parametrize(
    ("policy", "rounds"),
    [
        (Exp3(Exp3Options(share=1e-3)), 1_000_000),
        (Exp3(Exp3Options(form="gain", share=1e-3)), 100_000),
        (Exp3IX(WeightsOptions(share=1e-3)), 100_000),
    ],
    ids=["loss", "gain", "ix"],
)
def test_after_a_million_losses_an_arm_comes_back(
    policy: ExponentialWeights, rounds: int
) -> None:
    arms = make_arms(3)
    bad = Observation(arms, {arms[0]: 1.0}, arms[:1], 0.5, 1.0)
    good = Observation(arms, {arms[1]: 0.0}, arms[1:2], 0.9, 0.0)
    state = policy.init()
    for _ in range(rounds // 2):
        state = policy.observe(state, bad)
        state = policy.observe(state, good if policy.name == "exp3" else bad)
    assert all(isfinite(loss) for loss in state["losses"].values())
    assert policy.probabilities(state, arms, None)[0] < 0.1
    for seed in range(5):
        turns = turns_to_return(policy, {**state, "losses": dict(state["losses"])}, seed)
        assert turns < 1 / policy.options.share


def turns_to_return(policy: SingleChoice, state: State, seed: int) -> int:
    """Rounds in which the first of three arms is good, until it is mostly chosen."""
    arms, rng = make_arms(3), Random(seed)
    for turn in range(100_000):
        probabilities = policy.probabilities(state, arms, None)
        if probabilities[0] > 0.5:
            return turn
        index = draw(probabilities, rng.random())
        loss = float(index > 0)
        state = policy.observe(
            state,
            Observation(
                arms, {arms[index]: loss}, (arms[index],), probabilities[index], loss
            ),
        )
    return 100_000


# Feedback that comes late and in any order.


@pytest.mark.parametrize(
    "policy",
    [
        Exp3(Exp3Options(eta=0.002)),
        Exp3(Exp3Options(form="gain", gamma=0.02)),
        Exp3IX(WeightsOptions(eta=0.002)),
    ],
    ids=["loss", "gain", "ix"],
)
def test_the_propensity_that_counts_is_the_logged_one(policy: ExponentialWeights) -> None:
    arms, means, rng = make_arms(4), (0.2, 0.5, 0.9, 0.6), Random(7)
    state, waiting = policy.init(), []
    rate = policy.rate(4, 0.0)
    expected = [0.0] * 4
    for turn in range(1200):
        probabilities = policy.probabilities(state, arms, None)
        index = draw(probabilities, rng.random())
        loss = float(rng.random() < means[index])
        waiting.append((index, loss, probabilities[index]))
        if turn >= 200:
            late, known, propensity = waiting.pop(rng.randrange(len(waiting)))
            seen = Observation(arms, {arms[late]: known}, (arms[late],), propensity, known)
            state = policy.observe(state, seen)
            expected[late] += policy.estimate(known, propensity, rate)
    weights = [exp(-rate * (loss - min(expected))) for loss in expected]
    even = policy.mixture(4, 0.0)
    assert policy.probabilities(state, arms, None) == pytest.approx(
        [(1 - even) * weight / sum(weights) + even / 4 for weight in weights]
    )


def test_estimated_losses_are_unbiased() -> None:
    """Within 3 standard errors, also where the propensities change all the time."""
    policy, arms, means = Exp3(Exp3Options(eta=0.05)), make_arms(3), (0.3, 0.5, 0.6)
    rng, rounds, runs = Random(11), 100, 1000
    sums: list[list[float]] = [[], [], []]
    for _ in range(runs):
        state, estimated = policy.init(), [0.0] * 3
        for _ in range(rounds):
            probabilities = policy.probabilities(state, arms, None)
            index = draw(probabilities, rng.random())
            loss = float(rng.random() < means[index])
            estimated[index] += policy.estimate(loss, probabilities[index], 0.05)
            arm = arms[index]
            seen = Observation(arms, {arm: loss}, (arm,), probabilities[index], loss)
            state = policy.observe(state, seen)
        for found, value in zip(sums, estimated, strict=True):
            found.append(value / rounds)
    for found, mean in zip(sums, means, strict=True):
        average = sum(found) / runs
        variance = sum((value - average) ** 2 for value in found) / (runs - 1)
        assert abs(average - mean) < 3 * sqrt(variance / runs)
