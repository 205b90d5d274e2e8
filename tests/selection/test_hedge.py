from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from math import exp, log, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.selection.crowd import RATES, Prior
from clipper.selection.hedge import BEGIN_ROUNDS, ETA, FEW, Hedge, HedgeOptions
from clipper.selection.policy import Arm, Observation, SelectionPolicy, State, Total

from .contract import ARMS, PolicyContract
from .streams import make_arms


class Contract(PolicyContract):
    def choice(
        self,
        policy: SelectionPolicy,
        arms: Sequence[Arm],
        arm: Arm,
        loss: float,
        propensity: float,
        context: object = None,
    ) -> Observation:
        """Feedback that tells this arm from the others: one loss alone tells of nothing."""
        losses = dict.fromkeys(arms, 0.5) | {arm: loss}
        return self.seen(
            policy, arms, losses, chosen=(arm,), propensity=propensity, loss=loss
        )


class TestDefault(Contract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Hedge()


class TestWithoutShare(Contract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Hedge(HedgeOptions(share=0.0, eta=1.0))


class TestHorizon(Contract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Hedge(HedgeOptions(horizon=1000, prior=2.0))


class TestWithoutPrior(Contract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Hedge(HedgeOptions(prior=0.0))

    def test_a_new_user_is_treated_like_the_population(self) -> None:
        policy = self.make()
        population = fold(policy, [[1.0, 0.0]] * 10)
        mixed = policy.blend(population, policy.init())
        assert weights(policy, mixed, 2) == [0.5, 0.5]


Losses = Sequence[Sequence["float | None"]]


def observation(losses: Sequence[float | None], names: Sequence[Arm] = ()) -> Observation:
    arms = tuple(names or make_arms(len(losses)))
    pairs = zip(arms, losses, strict=True)
    return Observation(arms, {arm: loss for arm, loss in pairs if loss is not None})


def fold(policy: SelectionPolicy, stream: Iterable[Sequence[float | None]]) -> State:
    state = policy.init()
    for losses in stream:
        state = policy.observe(state, observation(losses))
    return state


def weights(policy: SelectionPolicy, state: State, count: int) -> list[float]:
    assert isinstance(policy, Hedge)
    return list(policy.weights(state, make_arms(count)))


def lost(policy: Hedge, stream: Sequence[Sequence[float]]) -> list[float]:
    """The mean loss of the members by weight, round by round."""
    state, found = policy.init(), []
    for losses in stream:
        w = weights(policy, state, len(losses))
        found.append(float(np.dot(w, losses)))
        state = policy.observe(state, observation(losses))
    return found


def streams(known: bool = True) -> st.SearchStrategy[list[list[float | None]]]:
    loss: st.SearchStrategy[float | None] = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
    if not known:
        loss = st.none() | loss
    return st.integers(2, 5).flatmap(
        lambda count: st.lists(
            st.lists(loss, min_size=count, max_size=count), min_size=1, max_size=60
        )
    )


# Weights


def test_a_weight_falls_exponentially_with_the_losses() -> None:
    policy = Hedge(HedgeOptions(eta=0.3, share=0.0))
    state = fold(policy, [[1.0, 0.0, 0.25], [0.5, 0.5, 0.5], [1.0, 0.25, 0.0]])
    expected = np.exp(-0.3 * np.array([2.5, 0.75, 0.75]))
    assert weights(policy, state, 3) == pytest.approx(expected / expected.sum())


def test_a_share_of_the_weight_is_spread_after_each_round() -> None:
    policy, w = Hedge(HedgeOptions(eta=0.3, share=0.1)), np.full(3, 1 / 3)
    stream = [[1.0, 0.0, 0.25], [1.0, 0.5, 0.5], [0.0, 0.25, 1.0]]
    for losses in stream:
        w = w * np.exp(-0.3 * np.array(losses))
        w = 0.9 * w / w.sum() + 0.1 / 3
    assert weights(policy, fold(policy, stream), 3) == pytest.approx(w)


def test_a_member_whose_loss_is_unknown_keeps_its_weight() -> None:
    policy = Hedge(HedgeOptions(share=0.0))
    before = fold(policy, [[1.0, 0.5, 0.0, 0.75]] * 3)
    old = weights(policy, before, 4)
    new = weights(policy, policy.observe(before, observation([0.0, None, 1.0, None])), 4)
    assert new[1] == pytest.approx(old[1]) and new[3] == pytest.approx(old[3])
    assert new[0] / new[2] == pytest.approx(old[0] / old[2] * exp(ETA))


def test_nothing_known_changes_nothing() -> None:
    policy = Hedge()
    state = fold(policy, [[1.0, 0.0]])
    before = copy.deepcopy(state)
    assert policy.observe(state, observation([None, None])) == before
    stranger = Observation(make_arms(2), {"gone:1#1": 1.0})
    assert policy.observe(state, stranger) == before


def test_a_new_member_starts_at_the_mean_weight() -> None:
    policy = Hedge()
    state = fold(policy, [[1.0, 0.0, 0.5]] * 50)
    old, new = weights(policy, state, 3), weights(policy, state, 4)
    assert new[3] == pytest.approx(1 / 4)
    assert np.array(new[:3]) / sum(new[:3]) == pytest.approx(old)


def test_a_member_that_returns_is_where_it_was() -> None:
    policy = Hedge(HedgeOptions(share=0.0))
    state = fold(policy, [[1.0, 0.0, 0.5]] * 10)
    before = weights(policy, state, 3)
    for _ in range(40):
        state = policy.observe(state, observation([0.7, 0.7]))
    assert weights(policy, state, 3) == pytest.approx(before)


@pytest.mark.parametrize(
    "options",
    [
        {"eta": 0.0}, {"eta": 5e-324}, {"eta": float("nan")}, {"share": 1.0},
        {"share": -0.1}, {"horizon": 0}, {"eta": 0.1, "horizon": 10}, {"prior": -1.0},
        {"combine": "sum"},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r".*"):
        HedgeOptions(**options)  # type: ignore[arg-type]


# Theory


@settings(max_examples=200, deadline=None)
@given(streams())
def test_the_regret_is_bounded_for_every_sequence(stream: list[list[float]]) -> None:
    rounds, count = len(stream), len(stream[0])
    mine = sum(lost(Hedge(HedgeOptions(share=0.0, horizon=rounds)), stream))
    regret = mine - min(np.sum(stream, axis=0))
    assert regret <= sqrt(rounds * log(count) / 2) * (1 + 1e-9)


@pytest.mark.parametrize("count", [2, 5, 20])
def test_the_regret_is_bounded_against_an_adversary(count: int) -> None:
    rounds, arms = 1000, make_arms(count)
    policy = Hedge(HedgeOptions(share=0.0, horizon=rounds))
    state, mine, theirs = policy.init(), 0.0, np.zeros(count)
    for turn in range(rounds):
        w = np.array(policy.weights(state, arms))
        losses = np.full(count, 0.5) if turn % 3 == 0 else (w >= np.median(w)).astype(float)
        mine += float(w @ losses)
        theirs += losses
        state = policy.observe(state, observation(losses.tolist()))
    assert mine - theirs.min() <= sqrt(rounds * log(count) / 2) * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(streams(known=False), st.floats(0.01, 3))
def test_the_regret_over_the_rounds_in_which_a_member_is_known_is_bounded(
    stream: list[list[float | None]], eta: float
) -> None:
    policy, count = Hedge(HedgeOptions(share=0.0, eta=eta)), len(stream[0])
    state, excess, rounds = policy.init(), [0.0] * count, [0] * count
    for losses in stream:
        known = [i for i, loss in enumerate(losses) if loss is not None]
        w = weights(policy, state, count)
        total = sum(w[i] for i in known)
        mean = sum(w[i] / total * (losses[i] or 0.0) for i in known) if total else 0.0
        for i in known:
            excess[i] += mean - (losses[i] or 0.0)
            rounds[i] += 1
        state = policy.observe(state, observation(losses))
    for i in range(count):
        assert excess[i] <= (log(count) / eta + eta * rounds[i] / 8) * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(streams(), st.floats(0.01, 2), st.floats(1e-4, 0.5), st.randoms())
def test_the_regret_to_every_path_with_switches_is_bounded(
    stream: list[list[float]], eta: float, share: float, random: Random
) -> None:
    rounds, count = len(stream), len(stream[0])
    mine = sum(lost(Hedge(HedgeOptions(share=share, eta=eta)), stream))
    path, switches = [random.randrange(count)], 0
    for _ in range(rounds - 1):
        stay = random.random() < 0.8
        path.append(path[-1] if stay else random.randrange(count))
        switches += path[-1] != path[-2]
    theirs = sum(losses[arm] for losses, arm in zip(stream, path, strict=True))
    stays = rounds - 1 - switches
    cost = log(count) + switches * log(count / share) - stays * log(1 - share)
    assert mine - theirs <= (cost / eta + eta * rounds / 8) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_share_it_follows_the_best_member(seed: int) -> None:
    rng, count, phase, phases = np.random.default_rng(seed), 5, 500, 8
    best = [int(arm) for arm in rng.permutation(np.arange(phases) % count)]
    chance = np.full((phases * phase, count), 0.5)
    for index, arm in enumerate(best):
        chance[index * phase : (index + 1) * phase, arm] = 0.1
    stream = (rng.random(chance.shape) < chance).astype(float).tolist()
    oracle = sum(losses[best[turn // phase]] for turn, losses in enumerate(stream))
    regret = sum(lost(Hedge(), stream)) - oracle
    without = sum(lost(Hedge(HedgeOptions(share=0.0)), stream)) - oracle
    assert regret < without / 4
    assert regret < 0.06 * len(stream)


@pytest.mark.parametrize("count", [2, 5])
def test_a_million_losses_are_forgiven(count: int) -> None:
    policy, state = Hedge(), Hedge().init()
    bad = observation([1.0] + [0.0] * (count - 1))
    before = None
    while state != before:  # where nothing changes any more a million are as good as these
        before = copy.deepcopy(state)
        state = policy.observe(state, bad)
        assert state["totals"][bad.arms[0]][0] < 1e6
    least = weights(policy, state, count)[0]
    assert 0 < least < 0.01
    good = observation([0.0] + [1.0] * (count - 1))
    turns = 0
    while weights(policy, state, count)[0] < 0.9:
        state = policy.observe(state, good)
        turns += 1
    assert turns < 1 / policy.options.share / 10


def test_without_a_share_numbers_stay_finite() -> None:
    policy = Hedge(HedgeOptions(share=0.0, eta=100.0))
    state = fold(policy, [[1.0, 0.0]] * 100_000)
    found = weights(policy, state, 2)
    assert found == [0.0, 1.0] and np.isfinite(list(state["losses"].values())).all()


# Users


def preference(policy: Hedge, population: State, own: State) -> float:
    """How much more weight the first of two members has."""
    first, second = weights(policy, policy.blend(population, own), 2)
    return first - second


def test_a_users_own_evidence_outweighs_the_prior() -> None:
    policy = Hedge(HedgeOptions(prior=8.0))
    population = fold(policy, [[0.0, 1.0]] * 1000)
    assert preference(policy, population, policy.init()) > 0.9
    own, found = policy.init(), []
    for _ in range(40):
        own = policy.observe(own, observation([1.0, 0.0]))
        found.append(preference(policy, population, own))
    assert found[:20] == sorted(found[:20], reverse=True)
    # as many observations as the prior counts for balance it
    assert found[6] > 1e-3 and found[7] == pytest.approx(0, abs=0.05) and found[8] < 0
    assert found[-1] < -0.9


def test_a_prior_counts_for_no_more_than_there_was() -> None:
    policy = Hedge(HedgeOptions(prior=1000.0, share=0.0))
    population = fold(policy, [[0.0, 1.0]] * 3)
    own = fold(policy, [[1.0, 0.0]] * 4)
    assert preference(policy, population, own) < 0


def test_the_prior_follows_drift() -> None:
    policy = Hedge(HedgeOptions(share=0.01))
    population = fold(policy, [[0.0, 1.0]] * 5000 + [[1.0, 0.0]] * 500)
    own = fold(policy, [[0.5, 0.5]])
    assert preference(policy, population, own) < -0.9


def test_one_round_of_a_users_own_weighs_more_at_first() -> None:
    policy = Hedge(HedgeOptions(prior=0.0))
    state = fold(policy, [[1.0, 0.0]])
    general, personal = weights(policy, state, 2), policy.blend(policy.init(), state)
    assert weights(policy, personal, 2)[1] > 0.9 > general[1]


def test_a_member_that_the_population_does_not_know_counts_as_a_typical_one() -> None:
    policy = Hedge()
    population = fold(policy, [[0.0, 1.0]] * 100)
    own = fold(policy, [[0.5, 0.5, 0.5]])
    good, bad, new = weights(policy, policy.blend(population, own), 3)
    assert good > new > bad


# A prior that was learned


def learned(policy: Hedge, rate: float, *shares: float) -> State:
    """A population that the first of the members suits best, under a prior."""
    population = fold(policy, [[0.0] + [1.0] * (len(shares) - 1)] * 100)
    prior = Prior(rate, dict(zip(make_arms(len(shares)), shares, strict=True)))
    return policy.with_prior(population, prior)


@given(st.sampled_from(RATES[1:]), st.integers(1, int(FEW)), st.data())
def test_a_users_losses_count_over_the_prior(
    rate: float, rounds: int, data: st.DataObject
) -> None:
    policy = Hedge(HedgeOptions(share=0.0))
    prior = data.draw(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
    losses = data.draw(
        st.lists(
            st.lists(st.floats(0, 1), min_size=3, max_size=3),
            min_size=rounds,
            max_size=rounds,
        )
    )
    state = policy.blend(learned(policy, rate, *prior), fold(policy, losses))
    expected = np.array(prior) * np.exp(-rate * np.sum(losses, axis=0))
    assert weights(policy, state, 3) == pytest.approx(expected / expected.sum(), abs=1e-9)


def test_who_is_known_well_is_followed_as_everybody_is() -> None:
    policy = Hedge(HedgeOptions(share=0.0))
    own = fold(policy, [[0.5, 0.5 - 1e-4]] * 100_000)
    even = policy.blend(learned(policy, 8.0, 0.5, 0.5), own)
    assert weights(policy, even, 2) == pytest.approx(weights(policy, own, 2))
    # between the two the rate falls with the square root of the rounds
    own = fold(policy, [[0.5, 0.48]] * 200)
    first, second = weights(policy, policy.blend(learned(policy, 8.0, 0.5, 0.5), own), 2)
    assert log(second / first) == pytest.approx(8.0 * sqrt(FEW / 200) * 4.0)


def test_users_who_are_alike_are_of_the_population() -> None:
    policy = Hedge()
    population = learned(policy, 0.0, 0.1, 0.9)
    own = fold(policy, [[1.0, 0.0]] * 3)
    assert policy.blend(population, own) is population


def test_a_prior_can_be_had_by_users_with_one() -> None:
    own = fold(Hedge(), [[1.0, 0.0]])
    for options in (HedgeOptions(prior=0.0), HedgeOptions(personal=False)):
        assert Hedge(options).make_crowd() is None
    policy = Hedge(HedgeOptions(prior=0.0))
    without = policy.blend(fold(policy, [[0.0, 1.0]] * 100), own)
    assert policy.blend(learned(policy, 8.0, 1.0, 0.0), own) == without
    assert Hedge().make_crowd() is not None


def test_a_prior_does_not_outlast_another_policy() -> None:
    assert "prior" not in Hedge().begin({ARMS[0]: Total(5, 2.0)})
    assert Hedge().has_evidence(fold(Hedge(), [[1.0, 0.0]]))
    assert not Hedge().has_evidence(Hedge().init())


# Beginning after another policy


def test_it_begins_with_what_is_known() -> None:
    policy, arms = Hedge(), make_arms(3)
    totals = {arms[0]: Total(1e6, 3e5), arms[1]: Total(1e6, 1e5), arms[2]: Total(0, 0.0)}
    first, second, third = weights(policy, policy.begin(totals), 3)
    assert second > third > first > 0
    # no more than so many rounds have to be outweighed
    state = policy.begin(totals)
    for _ in range(int(0.2 * BEGIN_ROUNDS) + 1):
        state = policy.observe(state, observation([0.0, 1.0, 0.0]))
    assert weights(policy, state, 2)[0] > 0.5


def test_it_begins_from_few_rounds_as_after_them() -> None:
    policy, arms = Hedge(HedgeOptions(share=0.0)), make_arms(2)
    begun = policy.begin({arms[0]: Total(10, 10.0), arms[1]: Total(10, 0.0)})
    assert weights(policy, begun, 2) == pytest.approx(
        weights(policy, fold(policy, [[1.0, 0.0]] * 10), 2)
    )
    assert weights(policy, policy.begin({}), 2) == [0.5, 0.5]


def test_more_arms_than_are_kept_begin_with_the_last() -> None:
    policy = Hedge()
    totals = {f"m{i}:1#1": Total(1, 0.5) for i in range(200)}
    assert len(policy.begin(totals)["losses"]) == 128
    assert len(ARMS) == 8
