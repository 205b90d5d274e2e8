"""What every selection policy promises. A policy's test module derives from
PolicyContract and says how one is made."""

from __future__ import annotations

import json
from random import Random

import msgspec
import pytest

from clipper.selection.policy import Decision, SelectionPolicy, Subject
from clipper.values import ModelId

ARMS = tuple(ModelId(name, "1") for name in "abcd")
SUBJECT = Subject("alice", [0.5, 1.0])


class PolicyContract:
    """`single` says that a decision names one arm."""

    single = True

    @staticmethod
    def make() -> SelectionPolicy:
        raise NotImplementedError

    @pytest.fixture
    def policy(self) -> SelectionPolicy:
        return self.make()

    def decide(
        self, policy: SelectionPolicy, arms: tuple[ModelId, ...], seed: int
    ) -> Decision:
        decision = policy.select(policy.init(arms), SUBJECT, Random(seed))
        assert decision is not None
        return decision

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_a_decision_names_arms_that_there_are(
        self, policy: SelectionPolicy, count: int
    ) -> None:
        for seed in range(50):
            decision = self.decide(policy, ARMS[:count], seed)
            assert decision.arms and set(decision.arms) <= set(ARMS[:count])
            assert len(set(decision.arms)) == len(decision.arms)
            assert len(decision.propensities) == len(decision.arms)
            assert not self.single or len(decision.arms) == 1

    def test_propensities_are_chances(self, policy: SelectionPolicy) -> None:
        for seed in range(50):
            decision = self.decide(policy, ARMS, seed)
            assert all(0 < p <= 1 for p in decision.propensities)

    def test_the_propensities_are_those_of_the_choice(
        self, policy: SelectionPolicy
    ) -> None:
        if not self.single:
            return
        state, rng = policy.init(ARMS), Random(1)
        drawn = [policy.select(state, SUBJECT, rng) for _ in range(4000)]
        for arm in ARMS:
            mine = [d.propensities[0] for d in drawn if d is not None and d.arms == (arm,)]
            if mine:
                assert abs(len(mine) / len(drawn) - sum(mine) / len(mine)) < 0.05

    def test_a_fixed_policy_decides_the_same_for_everybody(
        self, policy: SelectionPolicy
    ) -> None:
        if policy.fixed:
            state, rng = policy.init(ARMS), Random(2)
            subjects = [Subject(), SUBJECT, Subject("bob", {"a": 1})]
            assert len({policy.select(state, who, rng) for who in subjects * 20}) == 1

    def test_without_arms_there_is_no_decision(self, policy: SelectionPolicy) -> None:
        assert policy.select(policy.init(()), SUBJECT, Random(1)) is None

    def test_the_same_seed_makes_the_same_decision(self, policy: SelectionPolicy) -> None:
        for seed in range(20):
            assert self.decide(policy, ARMS, seed) == self.decide(self.make(), ARMS, seed)

    def test_observing_changes_no_state_in_place(self, policy: SelectionPolicy) -> None:
        state = policy.init(ARMS)
        before = msgspec.json.encode(state)
        decision = policy.select(state, SUBJECT, Random(1))
        assert decision is not None
        policy.observe(state, decision, {decision.arms[0]: 1.0})
        assert msgspec.json.encode(state) == before

    def test_feedback_of_any_loss_leaves_a_state_that_decides(
        self, policy: SelectionPolicy
    ) -> None:
        state, rng = policy.init(ARMS), Random(3)
        for step in range(300):
            decision = policy.select(state, SUBJECT, rng)
            assert decision is not None
            loss = (0.0, 1.0, 0.5)[step % 3]
            state = policy.observe(state, decision, dict.fromkeys(decision.arms, loss))
        assert policy.select(state, SUBJECT, rng) is not None

    def test_the_state_is_json(self, policy: SelectionPolicy) -> None:
        text = msgspec.json.encode(policy.init(ARMS))
        assert json.loads(text) is not None
