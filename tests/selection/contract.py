"""What every selection policy promises, single choice or ensemble. A policy's test module
derives from PolicyContract and says how one is made."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper.selection.crowd import RATES, Prior
from clipper.selection.policy import (
    MOST_LEFT,
    Arm,
    Ensemble,
    Observation,
    SelectionPolicy,
    SingleChoice,
    State,
    Total,
)

ARMS: tuple[Arm, ...] = tuple(f"{name}:1#1" for name in "abcdefgh")
PLAIN = (str, int, float, bool, type(None))

LOSSES = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
PROPENSITIES = st.sampled_from([1.0, 0.5, 1e-3, 1e-6]) | st.floats(1e-6, 1)
PRIORS = st.builds(
    Prior,
    st.sampled_from(RATES) | st.floats(0, 8),
    st.dictionaries(
        st.sampled_from([*ARMS, "gone:1#1"]), st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
    ),
)
SOME_ARMS = st.lists(st.sampled_from(ARMS), min_size=1, unique=True).map(tuple)

# One class's tests run for every policy that derives from it, which is what is wanted.
SHARED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


def pack(state: State) -> bytes:
    """As the store keeps a state: plain values in msgpack, arrays as what they hold."""

    def array(value: Any) -> Any:
        assert isinstance(value, np.ndarray), f"a state holds a {type(value).__name__}"
        parts = (value.dtype.str, value.shape, value.tobytes())
        return msgspec.msgpack.Ext(1, msgspec.msgpack.encode(parts))

    return msgspec.msgpack.encode(state, enc_hook=array)


def unpack(data: bytes) -> State:
    def array(code: int, value: memoryview) -> Any:
        dtype, shape, content = msgspec.msgpack.decode(value)
        return np.frombuffer(content, dtype).reshape(shape).copy()

    return msgspec.msgpack.decode(data, ext_hook=array)


def leaves(state: State) -> Iterator[Any]:
    """The values in a state, without dicts and lists, checked to be what may be kept."""
    if type(state) is dict:
        assert all(type(key) is str for key in state), "keys of a state are strings"
        for value in state.values():
            yield from leaves(value)
    elif type(state) is list:
        for value in state:
            yield from leaves(value)
    else:
        assert isinstance(state, np.ndarray) or type(state) in PLAIN, (
            f"a state holds a {type(state).__name__}"
        )
        yield state


def check_state(state: State) -> None:
    """A state holds only what can be kept, and all numbers in it are finite."""
    for value in leaves(state):
        if isinstance(value, float | np.ndarray):
            assert np.isfinite(value).all(), "a state holds a number that is not finite"


def tables(state: State) -> Iterator[set[Arm]]:
    """The arms of each dict in a state that is keyed by arm."""
    if isinstance(state, dict):
        arms = {key for key in state if "#" in key}
        if arms:
            yield arms
        for value in state.values():
            yield from tables(value)
    elif isinstance(state, list):
        for value in state:
            yield from tables(value)


def shares(
    policy: SelectionPolicy, state: State, arms: Sequence[Arm], context: Any = None
) -> list[float]:
    """What a policy gives each arm, probability or weight, checked to be valid."""
    if isinstance(policy, SingleChoice):
        found = list(policy.probabilities(state, arms, context))
    else:
        assert isinstance(policy, Ensemble)
        found = list(policy.weights(state, arms))
    assert len(found) == len(arms)
    assert all(math.isfinite(share) for share in found)
    if not (isinstance(policy, Ensemble) and policy.combination == "pool"):
        assert min(found) >= 0
        assert math.fsum(found) == pytest.approx(1, abs=1e-9)
    return [float(share) for share in found]


class PolicyContract:
    """What a subclass may say beside `make`:

    `contexts`: contexts as queries bring them, for policies that look at them;
    `recovers`: an arm that was bad and is good now counts more again;
    `outputs`: outputs of arms and a label, for policies that learn from them.
    """

    contexts: ClassVar[Sequence[Any]] = (None,)
    recovers: ClassVar[bool] = True

    @staticmethod
    def make() -> SelectionPolicy:
        raise NotImplementedError

    @staticmethod
    def outputs(losses: Mapping[Arm, float]) -> tuple[Mapping[Arm, Any], Any]:
        """Outputs and the label under which the arms have about these losses."""
        return {arm: [loss / 2, 1 - loss, loss / 2] for arm, loss in losses.items()}, 1

    @pytest.fixture
    def policy(self) -> SelectionPolicy:
        return self.make()

    # Observations

    def features(self, policy: SelectionPolicy) -> list[Any]:
        return [policy.features(context) for context in self.contexts]

    def seen(
        self,
        policy: SelectionPolicy,
        arms: Sequence[Arm],
        losses: Mapping[Arm, float],
        *,
        chosen: tuple[Arm, ...] = (),
        propensity: float = 1.0,
        loss: float | None = None,
        context: Any = None,
    ) -> Observation:
        outputs, label = self.outputs(losses) if policy.needs_outputs else (None, None)
        return Observation(
            tuple(arms),
            MappingProxyType(dict(losses)),
            chosen,
            propensity,
            loss,
            context,
            outputs,
            label if losses else None,
        )

    def choice(
        self,
        policy: SelectionPolicy,
        arms: Sequence[Arm],
        arm: Arm,
        loss: float,
        propensity: float,
        context: Any = None,
    ) -> Observation:
        """Feedback on an answer that was this arm's alone."""
        return self.seen(
            policy,
            arms,
            {arm: loss},
            chosen=(arm,),
            propensity=propensity,
            loss=loss,
            context=context,
        )

    def observations(self, policy: SelectionPolicy) -> st.SearchStrategy[Observation]:
        """All kinds of valid feedback for this policy."""

        @st.composite
        def one(draw: st.DrawFn) -> Observation:
            arms = draw(SOME_ARMS)
            kinds = ["decision", "departed"]
            if policy.ensemble:
                kinds.append("reward")
            if policy.full_information:
                kinds.append("input")
            kind = draw(st.sampled_from(kinds))
            known = {arm: draw(LOSSES) for arm in arms if draw(st.booleans())}
            context = draw(st.sampled_from(self.features(policy)))
            if kind == "input":
                known = known or {arms[0]: draw(LOSSES)}
                return self.seen(policy, arms, known, context=context)
            chosen = (
                arms[: draw(st.integers(1, len(arms)))] if policy.ensemble else arms[:1]
            )
            loss, propensity = draw(LOSSES), draw(PROPENSITIES)
            losses = {} if kind == "reward" else known | dict.fromkeys(chosen, loss)
            return self.seen(
                policy,
                arms[1:] or ARMS[-1:] if kind == "departed" else arms,
                losses,
                chosen=chosen,
                propensity=propensity,
                loss=loss,
                context=context,
            )

        return one()

    def states(self, policy: SelectionPolicy) -> st.SearchStrategy[State]:
        """Any state that feedback can lead to."""

        def fold(stream: list[Observation]) -> State:
            state = policy.init()
            for seen in stream:
                state = policy.observe(state, seen)
            return state

        return st.lists(self.observations(policy), max_size=20).map(fold)

    # Choices

    @pytest.mark.parametrize("count", range(1, 9))
    def test_before_any_feedback_every_number_of_arms_has_valid_shares(
        self, policy: SelectionPolicy, count: int
    ) -> None:
        for context in self.features(policy):
            shares(policy, policy.init(), ARMS[:count], context)

    @SHARED
    @given(st.data())
    def test_in_any_state_shares_are_valid(self, data: st.DataObject) -> None:
        policy = self.make()
        state = data.draw(self.states(policy))
        check_state(state)
        newcomers = ("new:1#1", "new:2#1")
        for context in self.features(policy):
            for count in range(1, len(ARMS) + 1):
                shares(policy, state, ARMS[:count], context)
                shares(policy, state, list(ARMS[-count:]) + list(newcomers), context)
            shares(policy, state, newcomers, context)

    @SHARED
    @given(st.data())
    def test_choosing_changes_no_state(self, data: st.DataObject) -> None:
        policy = self.make()
        state, other = data.draw(self.states(policy)), data.draw(self.states(policy))
        before, before_other = pack(state), pack(other)
        for context in self.features(policy):
            first = shares(policy, state, ARMS, context)
            assert shares(policy, state, ARMS, context) == first
        if isinstance(policy, SingleChoice):
            assert set(policy.shadows(ARMS)) <= set(ARMS)
        if policy.personal:
            policy.blend(other, state)
        assert (pack(state), pack(other)) == (before, before_other)

    def test_features_are_json(self, policy: SelectionPolicy) -> None:
        for features in self.features(policy):
            msgspec.json.encode(features)

    # Feedback

    @SHARED
    @given(st.data())
    def test_observing_is_pure(self, data: st.DataObject) -> None:
        policy = self.make()
        state = data.draw(self.states(policy))
        kept = pack(state)
        seen = data.draw(self.observations(policy))
        same = seen._replace(losses=dict(seen.losses), outputs=copy.deepcopy(seen.outputs))
        context = msgspec.json.encode(seen.context)
        first = pack(policy.observe(state, seen))
        assert pack(self.make().observe(unpack(kept), same)) == first
        assert msgspec.json.encode(seen.context) == context
        assert seen.losses == same.losses and seen.outputs == same.outputs

    @SHARED
    @given(st.data())
    def test_a_state_that_was_kept_behaves_the_same(self, data: st.DataObject) -> None:
        policy = self.make()
        state = data.draw(self.states(policy))
        again = unpack(pack(state))
        for seen in data.draw(st.lists(self.observations(policy), max_size=5)):
            state, again = policy.observe(state, seen), policy.observe(again, seen)
        assert pack(state) == pack(again)
        for context in self.features(policy):
            assert shares(policy, state, ARMS, context) == shares(
                policy, again, ARMS, context
            )

    def test_states_are_bounded_and_arms_in_use_stay(self, policy: SelectionPolicy) -> None:
        state = policy.init()
        context = self.features(policy)[0]
        seen = self.choice(policy, ARMS[:2], ARMS[0], 0.5, 0.5, context)
        state = policy.observe(state, seen)
        used = set().union(*tables(state))
        for turn in range(2000):
            newcomer = f"m:{turn}#1"
            arms = (*ARMS[:2], newcomer)
            arm = newcomer if turn % 8 else ARMS[0]
            seen = self.choice(policy, arms, arm, float(turn % 2), 1 / 3, context)
            state = policy.observe(state, seen)
        assert all(len(table) <= 3 + MOST_LEFT for table in tables(state))
        assert used <= set().union(*tables(state))
        check_state(state)

    def test_an_arm_that_was_bad_for_long_comes_back(self, policy: SelectionPolicy) -> None:
        if not (policy.learns and self.recovers):
            return
        arms, context, state = ARMS[:3], self.features(policy)[0], policy.init()
        for _ in range(300):
            seen = self.choice(policy, arms, arms[0], 1.0, 0.5, context)
            state = policy.observe(state, seen)
        check_state(state)
        for turn in range(3000):
            arm = arms[turn % 3]
            loss = float(arm != arms[0])
            state = policy.observe(
                state, self.choice(policy, arms, arm, loss, 1 / 3, context)
            )
        check_state(state)
        found = shares(policy, state, arms, context)
        assert found[0] == max(found) > min(found)

    def test_endless_losses_leave_a_state_that_decides(
        self, policy: SelectionPolicy
    ) -> None:
        state, context = policy.init(), self.features(policy)[0]
        for turn in range(3000):
            propensity = (1.0, 0.5, 1e-6)[turn % 3]
            seen = self.choice(policy, ARMS[:3], ARMS[0], 1.0, propensity, context)
            state = policy.observe(state, seen)
        check_state(state)
        for count in range(1, 9):
            shares(policy, state, ARMS[:count], context)

    # Users and changes of policy

    @SHARED
    @given(st.data())
    def test_a_new_user_is_treated_like_the_population(self, data: st.DataObject) -> None:
        policy = self.make()
        if not policy.personal:
            return
        population = data.draw(self.states(policy))
        context = self.features(policy)[0]
        for turn in range(60):  # more than a prior counts for
            arm, loss = ARMS[turn % 3], float(turn % 5 == 0)
            seen = self.choice(policy, ARMS[:5], arm, loss, 0.2, context)
            population = policy.observe(population, seen)
        if policy.make_crowd() is not None and data.draw(st.booleans()):
            population = policy.with_prior(population, data.draw(PRIORS))
        mixed = policy.blend(population, policy.init())
        for context in self.features(policy):
            assert shares(policy, mixed, ARMS[:5], context) == pytest.approx(
                shares(policy, population, ARMS[:5], context), abs=1e-9
            )

    @SHARED
    @given(st.data())
    def test_a_user_and_the_population_give_a_valid_state(
        self, data: st.DataObject
    ) -> None:
        policy = self.make()
        if not policy.personal:
            return
        population, own = data.draw(self.states(policy)), data.draw(self.states(policy))
        if policy.make_crowd() is not None and data.draw(st.booleans()):
            population = policy.with_prior(population, data.draw(PRIORS))
            check_state(population)
        mixed = policy.blend(population, own)
        check_state(mixed)
        for context in self.features(policy):
            for count in range(1, 9):
                shares(policy, mixed, ARMS[:count], context)

    @SHARED
    @given(st.data())
    def test_a_prior_is_kept_and_teaches_nothing(self, data: st.DataObject) -> None:
        policy = self.make()
        if policy.make_crowd() is None:
            return
        state, own = data.draw(self.states(policy)), data.draw(self.states(policy))
        before = [shares(policy, state, ARMS, each) for each in self.features(policy)]
        said = data.draw(PRIORS)
        assert policy.prior_of(state) is None
        state = policy.with_prior(state, said)
        assert policy.prior_of(state) == said
        after = [shares(policy, state, ARMS, each) for each in self.features(policy)]
        assert after == before
        for seen in data.draw(st.lists(self.observations(policy), max_size=5)):
            state = policy.observe(state, seen)
        again = unpack(pack(state))
        assert pack(policy.blend(again, own)) == pack(policy.blend(state, own))
        prior = data.draw(PRIORS)
        state, again = policy.with_prior(state, prior), policy.with_prior(again, prior)
        assert pack(state) == pack(again)

    @pytest.mark.parametrize(
        "totals",
        [
            {},
            {ARMS[0]: Total(0, 0.0), ARMS[1]: Total(1, 1.0)},
            {arm: Total(10.0**turn, 0.1 * 10.0**turn) for turn, arm in enumerate(ARMS)},
            {ARMS[0]: Total(1e7, 1e7), ARMS[1]: Total(1e7, 0.0), ARMS[2]: Total(0.5, 0.25)},
        ],
    )
    def test_it_takes_over_from_another_policy(
        self, policy: SelectionPolicy, totals: dict[Arm, Total]
    ) -> None:
        before = dict(totals)
        state = policy.begin(totals)
        assert totals == before
        check_state(state)
        for context in self.features(policy):
            for arms in (ARMS[:1], ARMS[:3], ARMS):
                shares(policy, state, arms, context)
            seen = self.choice(policy, ARMS, ARMS[0], 1.0, 0.5, context)
            state = policy.observe(state, seen)
            check_state(state)
            shares(policy, state, ARMS, context)
