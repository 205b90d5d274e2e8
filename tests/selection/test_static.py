from __future__ import annotations

from random import Random

from clipper.selection.policy import Decision, SelectionPolicy, Subject
from clipper.selection.static import Static
from clipper.values import ModelId

from .contract import ARMS, PolicyContract


class TestStatic(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Static()


class TestNamed(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Static("a")


def decide(policy: Static, *arms: ModelId) -> Decision | None:
    return policy.select(policy.init(arms), Subject(), Random(1))


def test_the_first_candidate_answers() -> None:
    assert decide(Static(), *ARMS) == Decision((ARMS[0],), (1.0,))


def test_or_the_one_that_is_named() -> None:
    assert decide(Static("c"), *ARMS) == Decision((ARMS[2],), (1.0,))
    assert decide(Static("z"), *ARMS) is None


def test_nothing_is_learned() -> None:
    policy = Static()
    state = policy.init(ARMS)
    decision = policy.select(state, Subject(), Random(1))
    assert decision is not None
    assert policy.observe(state, decision, {ARMS[0]: 1.0}) == state
