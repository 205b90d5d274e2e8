"""Choices: drawn as they are logged, from what was learned, among arms that are open."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import ManualClock

from clipper.choosing import STALE, Choice, Chooser
from clipper.errors import InvalidInput
from clipper.learning import events
from clipper.learning.bloom import Bloom
from clipper.learning.chunks import encode_context
from clipper.learning.learner import Learner
from clipper.query_id import QueryIds
from clipper.records import PolicySettings
from clipper.selection.policy import Arm, Subject, generation_of
from clipper.selection.static import Static

ARMS = ("a:1#1", "b:1#2", "c:1#3")


class Shop:
    """A chooser over models that are up or down."""

    def __init__(self, policy: str, arms: tuple[Arm, ...] = ARMS, **options: Any) -> None:
        self.clock = ManualClock()
        self.learner = Learner(5, 1, PolicySettings(policy, options), Bloom(), 100)
        self.learner.users.counted = True
        self.ids = QueryIds(bytes(32), self.clock)
        self.chooser = Chooser(self.learner, self.ids, Random(7))
        self.models: dict[Arm, Any] = {arm: SimpleNamespace(connected=True) for arm in arms}
        self.chooser.set_arms(self.models)
        self.now = 0.0

    def choose(self, uid: str | None = None, context: Any = None) -> Choice:
        return self.chooser.choose(Subject(uid, context), self.now)

    def learn(
        self, losses: dict[Arm, float], uid: str | None = None, context: Any = None
    ) -> None:
        event = events.Feedback(
            arms=ARMS, losses=losses, chosen=ARMS[:1], loss=losses.get(ARMS[0]),
            context=context,
        )  # fmt: skip
        self.learner.apply(self.learner.population.seq + 1, uid, event)

    def connect(self, arm: Arm, connected: bool) -> None:
        self.models[arm].connected = connected
        self.chooser.forget()

    def set_policy(self, name: str, **options: Any) -> None:
        change = events.PolicyChange(
            self.learner.generation + 1, PolicySettings(name, options)
        )
        self.learner.apply(self.learner.population.seq + 1, None, change)
        self.chooser.forget()


def chi_square(counts: Counter[Arm | None], odds: dict[Arm, float], draws: int) -> float:
    assert sum(counts.values()) == draws
    return sum((counts[a] - draws * p) ** 2 / (draws * p) for a, p in odds.items() if p)


# -- propensity --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["exp3", "exp3_ix", "epsilon_greedy", "thompson"])
def test_draws_are_as_frequent_as_the_logged_propensity_says(policy: str) -> None:
    shop = Shop(policy)
    for loss in (0.2, 0.4, 0.9, 0.1):
        shop.learn({ARMS[0]: loss, ARMS[1]: 1 - loss, ARMS[2]: 0.5})
    for down in (None, ARMS[1]):
        if down is not None:
            shop.connect(down, False)
        counts: Counter[Arm | None] = Counter()
        logged: dict[Arm, float] = {}
        for _ in range(20_000):
            choice = shop.choose()
            assert choice.arm is not None and choice.arm != down
            counts[choice.arm] += 1
            logged[choice.arm] = choice.propensity
            assert choice.propensity == pytest.approx(
                choice.odds[choice.arms.index(choice.arm)], rel=1e-7
            )
        assert sum(logged.values()) == pytest.approx(1.0, abs=1e-6)
        assert chi_square(counts, logged, 20_000) < 20  # three arms: 1 in 20,000


def test_an_id_says_what_the_choice_says() -> None:
    shop = Shop("exp3")
    for _ in range(50):
        choice = shop.choose()
        token = shop.ids.read(choice.stamp.issue(shop.now).decode())
        assert choice.arm is not None
        assert token.arm == generation_of(choice.arm)
        assert token.propensity == choice.propensity
        assert token.policy_generation == choice.generation == 1
        shop.learn({choice.arm: 0.3})


def test_an_arm_that_cannot_be_asked_is_not_in_the_odds() -> None:
    shop = Shop("exp3")
    shop.connect(ARMS[0], False)
    assert shop.choose().arms == ARMS[1:]
    assert shop.choose().odds == pytest.approx([0.5, 0.5])
    shop.connect(ARMS[0], True)
    assert shop.choose().arms == ARMS


def test_if_none_can_be_asked_one_is_chosen_all_the_same() -> None:
    shop = Shop("ucb1")
    for arm in ARMS:
        shop.connect(arm, False)
    assert shop.choose().arms == ARMS
    assert shop.choose().model is not None


def test_an_ensemble_counts_those_that_are_there() -> None:
    shop = Shop("hedge")
    shop.connect(ARMS[2], False)
    choice = shop.choose()
    assert choice.index is None and choice.arms == ARMS[:2]
    assert choice.odds == pytest.approx([0.5, 0.5]) and choice.propensity == 1.0
    assert shop.ids.read(choice.stamp.issue(0.0).decode()).arm == 0


# -- what is compiled --------------------------------------------------------------------


def test_choices_are_made_once_for_the_same_odds() -> None:
    shop = Shop("static")
    assert shop.choose() is shop.choose()
    before = shop.choose()
    shop.learn({ARMS[0]: 1.0})
    assert shop.choose() is before  # static has learned nothing
    shop = Shop("hedge")
    before = shop.choose()
    shop.learn({ARMS[0]: 1.0, ARMS[1]: 0.0})
    assert shop.choose() is not before


def test_learning_counts_at_once() -> None:
    shop = Shop("epsilon_greedy", epsilon=0.0)
    for arm, loss in zip(ARMS, (1.0, 0.0, 1.0), strict=True):
        shop.learn({arm: loss})
    assert shop.choose().arm == ARMS[1]


def test_a_users_own_feedback_counts_at_once_and_that_of_others_soon() -> None:
    shop = Shop("epsilon_greedy", epsilon=0.1)
    for arm in ARMS:
        shop.learn({arm: 0.5}, "ann")
    first = shop.choose("ann").odds
    shop.learn({ARMS[0]: 0.0}, "ann")
    second = shop.choose("ann").odds
    assert second[0] > first[0]
    for _ in range(500):
        shop.learn({ARMS[1]: 0.0}, "bob")
    assert shop.choose("ann").odds is second
    shop.now += STALE
    assert shop.choose("ann").odds is not second
    shop.now -= 10 * STALE  # a clock that is not this one's
    assert shop.choose("ann").odds is not second


def test_users_without_feedback_are_of_the_population() -> None:
    shop = Shop("exp3")
    shop.learn({ARMS[0]: 1.0}, "ann")
    assert shop.choose("bob").odds is shop.choose().odds
    shop.learner.users.put("cy", None)  # on its way from the disk
    assert shop.choose("cy").odds is shop.choose().odds
    assert shop.choose("ann").odds is not shop.choose().odds


@pytest.mark.parametrize(("before", "after"), [("hedge", "exp3"), ("exp3", "hedge")])
def test_a_users_choice_follows_a_new_policy_at_once(before: str, after: str) -> None:
    shop = Shop(before)
    shop.learn(dict.fromkeys(ARMS, 0.5), "ann")
    shop.choose("ann")
    shop.set_policy(after)
    choice = shop.choose("ann")
    assert (choice.index is None) == (after == "hedge")
    assert choice.generation == 2


def test_a_users_choice_follows_the_arms_at_once() -> None:
    shop = Shop("exp3")
    shop.learn({ARMS[0]: 0.5}, "ann")
    assert shop.choose("ann").arms == ARMS
    shop.connect(ARMS[1], False)
    assert shop.choose("ann").arms == (ARMS[0], ARMS[2])
    new = {arm: SimpleNamespace(connected=True) for arm in ARMS[1:]}
    shop.chooser.set_arms(new)  # type: ignore[arg-type]
    choice = shop.choose("ann")
    assert choice.arms == ARMS[1:] and choice.models == tuple(new.values())


def test_a_choice_says_which_model_where_there_is_more_than_one() -> None:
    assert Shop("static").choose().told == b',"model":"a:1"'
    assert Shop("static", ARMS[:1]).choose().told == b""
    assert Shop("hedge").choose().told == b""


def test_weights_are_the_odds_as_they_stand() -> None:
    shop = Shop("hedge")
    shop.learn(dict(zip(ARMS, (0.0, 1.0, 1.0), strict=True)), "ann")
    weights = shop.chooser.weights()
    assert list(weights) == list(ARMS) and sum(weights.values()) == pytest.approx(1.0)
    assert list(weights.values()) == shop.choose().odds
    own = shop.chooser.weights(shop.learner.users.get("ann"))
    assert list(own.values()) == pytest.approx(shop.choose("ann").odds)
    assert Shop("linucb", features=1).chooser.weights() == {}


# -- context -----------------------------------------------------------------------------


def test_a_context_decides_for_its_query_alone() -> None:
    shop = Shop("linucb", features=1, alpha=0.0)
    for x in (-1.0, 1.0):
        for _ in range(20):
            losses = {ARMS[0]: (1 + x) / 2, ARMS[1]: (1 - x) / 2, ARMS[2]: 0.9}
            shop.learn(losses, context=[x])
    left, right = shop.choose(context=[-1]), shop.choose(context=[1])
    assert (left.arm, right.arm) == (ARMS[0], ARMS[1])
    assert (left.features, right.features) == (
        encode_context([-1.0]),
        encode_context([1.0]),
    )
    assert left.keep([-1.0]) is None  # the features stand for it
    assert shop.choose("ann", [-1]).arm == ARMS[0]


@pytest.mark.parametrize("context", [None, [], ["x"], [1, 2], {"a": 1}, [float("nan")]])
def test_a_context_that_means_nothing_is_refused(context: Any) -> None:
    with pytest.raises(InvalidInput, match="context"):
        Shop("squarecb", features=1).choose(context=context)


# -- sticky ------------------------------------------------------------------------------


def canary(share: float, **more: float) -> Shop:
    return Shop("canary", weights={"a": 1 - share - sum(more.values()), "b": share, **more})


def test_a_user_stays_with_a_version_as_its_weight_grows() -> None:
    uids = [f"user{n}" for n in range(3000)]
    before: set[str] = set()
    for share in (0.01, 0.05, 0.2, 0.5, 0.9, 1.0):
        shop = canary(share)
        now = {uid for uid in uids if shop.choose(uid).arm == ARMS[1]}
        assert before <= now
        assert len(now) / 3000 == pytest.approx(share, abs=0.03)
        assert all(shop.choose(uid).arm == ARMS[1] for uid in now)
        before = now


@pytest.mark.parametrize(
    ("stable", "moving"),
    [
        (0.7, 0.15),  # b alone weighs more: as few move as can
        (0.5, 0.2333),  # a gives to b: a few of c go along, the least is 0.2
    ],
)
def test_few_users_move_among_three_versions(stable: float, moving: float) -> None:
    uids = [f"user{n}" for n in range(3000)]
    before, after = (
        [shop.choose(uid).arm for uid in uids]
        for shop in (
            Shop("canary", weights={"a": 0.7, "b": 0.1, "c": 0.2}),
            Shop("canary", weights={"a": stable, "b": 0.3, "c": 0.2}, stable="a"),
        )
    )
    pairs = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert len(pairs) / 3000 == pytest.approx(moving, abs=0.03)
    assert all(b != ARMS[0] and a != ARMS[1] for a, b in pairs)


def test_sticky_propensities_are_those_over_all_users() -> None:
    shop = canary(0.3)
    counts = Counter(shop.choose(f"user{n}").arm for n in range(10_000))
    odds = {arm: shop.choose().odds[n] for n, arm in enumerate(ARMS[:2])}
    assert chi_square(counts, odds, 10_000) < 16
    assert {round(shop.choose(f"user{n}").propensity, 6) for n in range(50)} == {0.3, 0.7}


def test_nobody_in_particular_is_drawn_by_chance() -> None:
    shop = canary(0.5)
    assert {shop.choose().arm for _ in range(50)} == set(ARMS[:2])


# -- halted ------------------------------------------------------------------------------


def halt(shop: Shop, arm: Arm) -> None:
    generation = shop.learner.generation
    shop.learner.apply(
        shop.learner.population.seq + 1, None, events.Halt(arm, "why", generation)
    )
    shop.chooser.forget()


def test_an_arm_that_was_taken_out_is_not_chosen() -> None:
    shop = canary(0.5)
    halt(shop, ARMS[1])
    assert {shop.choose(f"user{n}").arm for n in range(50)} == {ARMS[0]}
    assert shop.choose().propensity == 1.0


def test_nor_if_it_is_the_only_one_that_is_up() -> None:
    shop = canary(0.5)
    halt(shop, ARMS[1])
    shop.connect(ARMS[0], False)
    assert ARMS[1] not in shop.choose("ann").arms


def test_if_all_were_taken_out_all_are_open() -> None:
    shop = canary(0.5)
    for arm in ARMS:
        halt(shop, arm)
    assert shop.choose().arms == ARMS


# -- fixed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "arms", "options", "fixed"),
    [
        ("static", ARMS, {}, True),
        ("static", ARMS, {"model": "b"}, True),
        ("canary", ARMS[:1], {"weights": {"a": 1.0}}, True),
        ("canary", ARMS, {"weights": {"a": 1.0}}, False),
        ("exp3", ARMS[:1], {}, False),
        ("linucb", ARMS[:1], {"features": 1}, False),
        ("majority", ARMS[:1], {}, False),
    ],
)
def test_what_is_fixed(
    policy: str, arms: tuple[Arm, ...], options: Any, fixed: bool
) -> None:
    assert Shop(policy, arms, **options).chooser.fixed is fixed


class Moody(Static):
    """Fails once it has learned something."""

    name = "moody"
    learns = True

    def observe(self, state: Any, seen: Any) -> Any:
        return {"learned": True}

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        if state:
            raise RuntimeError("not today")
        return super().probabilities(state, arms, context)


def test_a_policy_that_fails_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop("static")
    shop.learner.policy = Moody()
    shop.chooser.forget()
    shop.learner.population.state = {"learned": True}
    for _ in range(3):
        shop.learner.version += 1
        assert shop.choose().arm == ARMS[0]
    assert caplog.text.count("policy moody failed to choose") == 1


def test_a_policy_that_fails_to_name_its_shadows_has_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    shop = Shop("shadow")
    assert shop.chooser.shadows() == ARMS[1:]
    monkeypatch.setattr(shop.learner.policy, "shadows", broken)
    shop.chooser.forget()
    assert shop.chooser.shadows() == () and shop.choose().shadows == ()
    assert caplog.text.count("failed to choose") == 1


class Featured(Static):
    """Makes of a context what it is told to."""

    name = "featured"
    contextual = True
    made: Any = None

    def features(self, context: Any) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        return np.array([0.25, 0.25, 0.5]) if context is not None else [0.0, 1.0, 0.0]


def featured(made: Any) -> Shop:
    shop = Shop("static")
    shop.learner.policy = policy = Featured()
    policy.made = made
    shop.chooser.forget()
    return shop


@pytest.mark.parametrize("bad", [KeyError("x"), object()])
def test_a_policy_that_fails_at_a_context_chooses_without(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop = featured(bad)
    for _ in range(3):
        choice = shop.choose(context=[1.0])
        assert choice.features is None and choice.arm == ARMS[1]
        assert choice.keep([1.0]) == encode_context([1.0])
    assert caplog.text.count("policy featured failed to choose") == 1


def test_a_policy_may_refuse_a_context() -> None:
    with pytest.raises(InvalidInput, match="no use"):
        featured(InvalidInput("of no use")).choose(context=[1.0])


def test_features_and_odds_of_numpy_are_kept_as_plain_numbers() -> None:
    choice = featured({"x": np.float64(0.5), "y": np.array([1, 2])}).choose(context=[1.0])
    assert choice.features == encode_context({"x": 0.5, "y": [1, 2]})
    assert {type(p) for p in choice.odds} == {float} and sum(choice.odds) == 1.0
