"""What users have in common is found on streams on which it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.selection import crowd
from clipper.selection.crowd import (
    DIFFERENT,
    LEAST_JUDGED,
    LEAST_USERS,
    RATES,
    SAMPLED,
    SURE,
    USERS,
    Crowd,
    Prior,
    posterior,
)
from clipper.selection.hedge import Hedge
from clipper.selection.policy import MOST_LEFT, Arm, Observation, State

from .streams import make_arms

A, B, C = ARMS = make_arms(3)
GOOD, BAD = 0.1, 0.6  # how often an arm is wrong that suits a user, and another one


class Town:
    """Users under hedge, who learn in the order in which a server's do."""

    def __init__(self, arms: Sequence[Arm] = ARMS, seed: int = 0) -> None:
        self.arms = tuple(arms)
        self.policy = Hedge()
        made = self.policy.make_crowd()
        assert made is not None
        self.crowd: Crowd = made
        self.random = Random(seed)
        self.general: dict[Arm, float] = {}  # arms that are as often wrong for everybody
        self.population: State = self.policy.init()
        self.users: dict[str, State] = {}
        self.suits: dict[str, dict[Arm, float]] = {}
        self.said: list[Prior] = []

    def tell(self, uid: str, losses: Mapping[Arm, float]) -> None:
        seen = Observation(self.arms, losses)
        own = self.users.setdefault(uid, self.policy.init())
        self.crowd.judge(self.population, own, seen)
        self.population = self.policy.observe(self.population, seen)
        self.users[uid] = self.policy.observe(own, seen)
        self.suits[uid] = self.crowd.count(own, self.arms, self.suits.get(uid))

    def live(self, uid: str, suits: Arm, labels: int) -> None:
        """A user whom one arm suits gives so many labels."""
        for _ in range(labels):
            self.tell(uid, self.losses(suits))

    def losses(self, suits: Arm) -> dict[Arm, float]:
        wrong = {arm: GOOD if arm == suits else BAD for arm in self.arms} | self.general
        return {arm: float(self.random.random() < p) for arm, p in wrong.items()}

    def listen(self) -> None:
        prior = self.crowd.news(self.arms)
        if prior is not None:
            self.said.append(prior)
            self.population = self.policy.with_prior(self.population, prior)

    def weights(self, uid: str) -> dict[Arm, float]:
        state = self.policy.blend(self.population, self.users[uid])
        return dict(zip(self.arms, self.policy.weights(state, self.arms), strict=True))

    def shares(self) -> dict[Arm, float]:
        return self.crowd._shares(self.arms)


def mixed(users: int, shares: Mapping[Arm, float], labels: int = 20, seed: int = 0) -> Town:
    """Users of whom each arm suits a share, one after the other."""
    town = Town(seed=seed)
    types = town.random.choices(list(shares), list(shares.values()), k=users)
    for _ in range(labels):
        for number, suits in enumerate(types):
            town.live(f"u{number}", suits, 1)
        town.listen()
    return town


def right_soon(town: Town, suits: Arm, labels: int, users: int = 200) -> float:
    """The share of new users who have the most weight on what suits them. Nobody learns
    of them."""
    right = 0
    for _ in range(users):
        own = town.policy.init()
        for _ in range(labels):
            own = town.policy.observe(own, Observation(town.arms, town.losses(suits)))
        state = town.policy.blend(town.population, own)
        weights = town.policy.weights(state, town.arms)
        right += weights[town.arms.index(suits)] == max(weights)
    return right / users


# Users who differ


@pytest.mark.parametrize("seed", range(3))
def test_where_users_differ_it_finds_how_many_each_arm_suits(seed: int) -> None:
    true = {A: 0.6, B: 0.3, C: 0.1}
    town = mixed(200, true, seed=seed)
    rate, weights = town.said[-1]
    assert rate > 0
    assert sum(weights.values()) == pytest.approx(1)
    for arm in ARMS:
        assert weights[arm] == pytest.approx(true[arm], abs=0.1)


def test_a_new_user_is_on_the_right_arm_sooner() -> None:
    town = Town(make_arms(5))
    general, *own = town.arms
    town.general = {general: 0.3}  # the best on average, and for nobody
    for number in range(200):
        town.live(f"u{number}", own[number % 4], 20)
    town.listen()
    assert town.said[-1].rate > 0
    found = [right_soon(town, own[0], labels) for labels in (3, 6)]
    del town.population["prior"]
    before = [right_soon(town, own[0], labels) for labels in (3, 6)]
    assert found[0] > before[0] + 0.2
    assert found[1] > before[1] + 0.2


def test_a_rare_taste_is_found_all_the_same() -> None:
    town = mixed(200, {A: 0.9, B: 0.05, C: 0.05})
    assert right_soon(town, C, labels=20, users=50) > 0.9


# Users who are alike


@pytest.mark.parametrize("seed", range(3))
def test_where_users_are_alike_a_new_one_is_one_of_the_population(seed: int) -> None:
    town = mixed(100, {B: 1.0}, seed=seed)
    assert town.said[-1].rate == 0
    town.live("new", B, 3)
    expected = town.policy.weights(town.population, ARMS)
    assert list(town.weights("new").values()) == expected
    assert max(expected) == expected[1]


def test_it_finds_out_when_users_come_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "JUDGED", 200)
    monkeypatch.setattr(crowd, "USERS", 200)
    town = mixed(100, {A: 1.0}, labels=10)
    assert town.said[-1].rate == 0
    for number in range(200):
        town.live(f"later {number}", ARMS[number % 3], 10)
    town.listen()
    assert town.said[-1].rate > 0
    assert min(town.said[-1].weights.values()) > 0.15


# Arms that come and go


def test_an_arm_that_comes_is_found_by_those_it_suits() -> None:
    town = Town(arms=(A, B))
    for number in range(60):
        town.live(f"u{number}", (A, B)[number % 2], 10)
    town.listen()
    assert set(town.said[-1].weights) == {A, B}
    town.arms = ARMS
    for number in range(60):
        town.live(f"u{number}", C, 30)
    town.listen()
    weights = town.said[-1].weights
    assert set(weights) == set(ARMS) and weights[C] > 0.7


def test_an_arm_that_goes_leaves_its_users_to_the_others() -> None:
    town = mixed(90, {A: 0.34, B: 0.33, C: 0.33}, labels=10)
    before = town.shares()
    town.arms = (A, B)
    town.listen()
    assert set(town.said[-1].weights) == {A, B}
    assert sum(town.said[-1].weights.values()) == pytest.approx(1)
    town.arms = ARMS  # and it is back
    assert town.shares() == pytest.approx(before)


def test_its_memory_is_bounded_and_arms_in_use_stay() -> None:
    town = Town(arms=(A, B))
    for number in range(20):
        town.live(f"u{number}", A, 3)
    for turn in range(500):
        town.arms = (A, B, f"m:{turn}#1")
        town.live(f"u{turn % 20}", A, 1)
        assert len(town.crowd._suits) <= len(town.arms) + MOST_LEFT
    assert {A, B} <= town.crowd._suits.keys()
    assert town.shares()[A] > 0.5


def test_users_who_leave_memory_are_counted_anew_and_not_for_ever() -> None:
    town = mixed(100, {A: 0.7, B: 0.3, C: 0.0}, labels=5)
    before = town.shares()
    for _ in range(100):
        for own in town.users.values():
            town.crowd.count(own, ARMS, None)
    assert sum(town.crowd._suits.values()) <= USERS * (1 + 1e-9)
    for arm in ARMS:
        assert town.shares()[arm] == pytest.approx(before[arm], abs=0.1)


def test_after_a_restart_the_first_users_are_not_taken_for_all() -> None:
    true = {A: 0.6, B: 0.3, C: 0.1}
    town = mixed(200, true)
    (*_, said), town.said = town.said, []
    made = town.policy.make_crowd()
    assert made is not None
    town.crowd, town.suits = made, {}
    town.crowd.recall(said)
    town.listen()
    assert not town.said
    for turn in range(20):
        for number in range(6):
            town.live(f"v{number}", C, 1)
        town.listen()
        assert turn < 15 or town.said
    for _, weights in town.said:
        assert all(weights[arm] == pytest.approx(true[arm], abs=0.15) for arm in ARMS)


# Of much feedback it judges a sample


def follow(users: Sequence[Arm], labels: int, seed: int) -> Town:
    """A user for each of `users`, whom that arm suits; all give so many labels."""
    town = Town(seed=seed)
    for _ in range(labels):
        for number, suits in enumerate(users):
            town.live(f"u{number}", suits, 1)
    return town


def test_one_that_is_judged_counts_for_those_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where each piece of feedback loses as much, a sample must lose as much as all do,
    and forget as fast."""
    monkeypatch.setattr(crowd, "JUDGED", 1_000)
    town = Town()
    keep, expected = 1 - 1 / crowd.JUDGED, 0.0
    town.tell("ann", dict.fromkeys(ARMS, 1.0))  # nothing was known of her before
    for told in range(1, 6 * SURE + 1):
        town.tell("ann", dict.fromkeys(ARMS, 1.0))
        expected = keep * expected + 1.0
        near = pytest.approx([expected] * len(RATES), abs=2 * SAMPLED)
        assert town.crowd._lost == near  # but for the few that are still to be counted
        assert told > SURE or town.crowd._judged == told
    judged = SURE + 5 * SURE / SAMPLED
    assert town.crowd._judged == pytest.approx(judged, abs=1)
    assert expected > 0.9 * crowd.JUDGED  # and most was forgotten again


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kinds", [ARMS, (B,)])
def test_a_sample_finds_the_rate_that_all_find(
    kinds: Sequence[Arm], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [kinds[number % len(kinds)] for number in range(101)]
    sampling = follow(users, 30, seed).crowd
    monkeypatch.setattr(crowd, "SURE", 1_000_000)
    judging = follow(users, 30, seed).crowd
    assert judging._judged == judging._met > 3 * sampling._judged
    assert (sampling.rate > 0) is (judging.rate > 0) is (len(kinds) > 1)
    for found, all_lost in zip(sampling._lost, judging._lost, strict=True):
        share = all_lost / judging._judged
        error = sqrt((SAMPLED - 1) * judging._judged * share * (1 - share))
        assert found == pytest.approx(all_lost, abs=3 * error)


# What it says


def test_it_says_nothing_of_few_users_or_few_labels() -> None:
    town = Town()
    for _ in range(LEAST_JUDGED * 2):
        for number in range(LEAST_USERS - 1):
            town.live(f"u{number}", A, 1)
    assert town.crowd.news(ARMS) is None
    town.live("one more", B, 1)
    assert town.crowd.news(ARMS) is not None
    few = Town()
    for number in range(LEAST_JUDGED):
        few.live(f"u{number}", A, 1)  # of whom nothing was known before
    assert few.crowd.news(ARMS) is None


def test_it_says_a_prior_once() -> None:
    town = mixed(30, {A: 0.5, B: 0.5, C: 0.0}, labels=5)
    town.said.clear()
    town.listen()
    assert not town.said
    assert town.crowd.news((A,)) is None  # there is nothing to choose
    town.crowd.unsay()
    town.listen()
    town.listen()
    assert len(town.said) == 1


def test_what_it_says_differs_from_what_it_said() -> None:
    town, said = mixed(50, {A: 0.4, B: 0.3, C: 0.3}, labels=3), []
    for number in range(300):
        town.live(f"v{number}", ARMS[number % 3], 4)
        town.listen()
        said.append(len(town.said))
    assert all(new.differs(old) for old, new in zip(town.said, town.said[1:], strict=False))
    assert said[-1] - said[-100] < 40  # the more users there are the less each moves it


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (Prior(1.0, {A: 0.5, B: 0.5}), None, True),
        (Prior(1.0, {A: 0.5, B: 0.5}), Prior(2.0, {A: 0.5, B: 0.5}), True),
        (Prior(1.0, {A: 0.5, B: 0.5}), Prior(1.0, {B: 0.5, A: 0.5}), False),
        (Prior(1.0, {A: 0.5, B: 0.5}), Prior(1.0, {A: 0.505, B: 0.495}), False),
        (Prior(1.0, {A: 0.5, B: 0.5}), Prior(1.0, {A: 0.52, B: 0.48}), True),
        (Prior(1.0, {A: 0.5, B: 0.5}), Prior(1.0, {A: 0.5, C: 0.5}), True),
        # who is one of the population has no use for the weights
        (Prior(0.0, {A: 0.5, B: 0.5}), Prior(0.0, {C: 1.0}), False),
    ],
)
def test_priors_differ_if_choices_do(one: Prior, other: Prior, differs: bool) -> None:
    assert one.differs(other) is differs
    assert 0 < DIFFERENT < 0.02


# What tells nothing


@pytest.mark.parametrize("losses", [{}, {A: 1.0}, {"gone:1#1": 1.0}, {"gone:1#1": 0, A: 1}])
def test_what_tells_no_arms_apart_is_not_judged(losses: dict[Arm, float]) -> None:
    town = Town()
    town.live("ann", A, 1)
    town.crowd.judge(town.population, town.users["ann"], Observation(ARMS, losses))
    assert town.crowd._judged == 0


def test_a_user_of_whom_nothing_is_known_is_not_judged() -> None:
    town = Town()
    seen = Observation(ARMS, {A: 1.0, B: 0.0})
    town.crowd.judge(town.population, town.policy.init(), seen)
    assert town.crowd._judged == 0


def test_judging_and_counting_change_no_state() -> None:
    town = mixed(10, {A: 0.5, B: 0.5, C: 0.0}, labels=3)
    before = repr((town.population, town.users))
    for own in town.users.values():
        town.crowd.judge(town.population, own, Observation(ARMS, {A: 1.0, B: 0.0}))
        town.crowd.count(own, (C, "new:1#1"), None)
    assert repr((town.population, town.users)) == before


# Numbers

loss = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
told = st.tuples(
    st.integers(0, 4),
    st.dictionaries(st.sampled_from([*ARMS, "new:1#1", "gone:1#1"]), loss),
    st.lists(st.sampled_from([*ARMS, "new:1#1"]), min_size=1, unique=True),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(told, max_size=40))
def test_its_numbers_are_those_of_shares(
    stream: list[tuple[int, dict, list, bool]],
) -> None:
    town = Town()
    for user, losses, arms, leaves in stream:
        town.arms = tuple(arms)
        town.tell(f"u{user}", losses)
        if leaves:
            town.suits.pop(f"u{user}", None)
        shares = town.shares()
        assert all(share > 0 for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1)
        found = (*town.crowd._lost, *town.crowd._suits.values(), town.crowd._users)
        assert all(isfinite(number) and number >= 0 for number in found)
        assert town.crowd.rate in RATES


@given(
    st.lists(st.floats(0, 20), min_size=3, max_size=3),
    st.floats(0, 8),
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
)
def test_a_posterior_is_that_of_bayes(
    losses: list[float], rate: float, prior: list[float]
) -> None:
    weights = dict(zip(ARMS, prior, strict=True))
    found = np.exp(-np.array(posterior(losses, rate, weights, ARMS)))
    expected = np.array(prior) * np.exp(-rate * np.array(losses))
    assert found == pytest.approx(expected)


def test_an_arm_that_a_prior_does_not_know_suits_as_many_as_any() -> None:
    assert posterior([0, 0], 1.0, {}, (A, B)) == posterior([0, 0], 1.0, {A: 0.5}, (A, B))
    assert all(map(isfinite, posterior([0, 0], 1.0, {A: 0.0, B: 1.0}, (A, B))))
