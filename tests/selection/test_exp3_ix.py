from __future__ import annotations

from math import exp, log, sqrt
from typing import Any

import pytest

from clipper.selection.exp3 import WeightsOptions
from clipper.selection.exp3_ix import Exp3IX
from clipper.selection.policy import Observation, SelectionPolicy

from .contract import ARMS, PolicyContract


class TestExp3IX(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3IX()


class TestShare(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Exp3IX(WeightsOptions(eta=0.05, share=1e-3))


def test_half_the_rate_is_added_to_the_propensity() -> None:
    policy, arms = Exp3IX(WeightsOptions(eta=0.4)), ARMS[:3]
    state = policy.observe(
        policy.init(), Observation(arms, {arms[1]: 0.5}, arms[1:2], 0.1, 0.5)
    )
    weights = [1.0, exp(-0.4 * 0.5 / (0.1 + 0.2)), 1.0]
    assert policy.probabilities(state, arms, None) == pytest.approx(
        [weight / sum(weights) for weight in weights]
    )


def test_rates() -> None:
    best = sqrt(2 * log(5) / (5 * 1000))
    assert Exp3IX(WeightsOptions(horizon=1000)).rate(5, 7.0) == pytest.approx(best)
    assert Exp3IX().rate(5, 999.0) == pytest.approx(best / sqrt(2))
    assert Exp3IX(WeightsOptions(share=1e-3)).rate(5, 1e6) == pytest.approx(best / sqrt(2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eta": -1.0}, "eta must lie between"),
        ({"eta": 0.1, "horizon": 10}, "give eta or horizon, not both"),
        ({"horizon": 0}, "horizon must lie between"),
        ({"share": -0.1}, "share must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        WeightsOptions(**options)
