from __future__ import annotations

import pytest

from clipper.selection.majority import Majority, MajorityOptions
from clipper.selection.policy import Observation, SelectionPolicy

from .contract import ARMS, PolicyContract


class TestContract(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Majority(MajorityOptions(combine="vote"))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_count_the_same_whatever_happened(count: int) -> None:
    policy = Majority()
    arms = ARMS[:count]
    state = policy.observe(policy.init(), Observation(arms, dict.fromkeys(arms, 1.0)))
    assert policy.weights(state, arms) == [1 / count] * count


def test_nothing_is_kept() -> None:
    policy = Majority()
    assert not policy.learns and not policy.personal
    assert policy.begin({}) == policy.init() == {}
