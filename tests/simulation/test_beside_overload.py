"""One application is overloaded, another is not: the other keeps its time, whether they
share a model or nothing. In virtual time, so the figures are asserted."""

from __future__ import annotations

import pytest

from .goodput import ISSUE, SLO, Load, Trial, capacity
from .test_goodput import CLEVER, peak

FULL = capacity(ISSUE)
FLOOD = 8.0 * FULL


@pytest.mark.fault("L3")
@pytest.mark.parametrize("controller", CLEVER)
def test_who_shares_nothing_with_one_who_is_overloaded_notices_nothing(
    controller: str,
) -> None:
    trial = Trial(controller, ISSUE, [Load(0.0, FLOOD, 0.5 * FULL)], 1.5, apart=True)
    assert trial.share_of(1, 0.5, 1.5) >= 0.99
    assert trial.rate_of(0, 0.5, 1.5) >= 0.85 * peak(controller), "there was no overload"
    assert trial.share_of(0, 0.5, 1.5) <= 0.2, "there was no overload"
    assert trial.meter.latest <= 0.005


@pytest.mark.fault("L3")
@pytest.mark.parametrize("controller", CLEVER)
def test_who_has_more_time_does_not_wait_for_one_who_floods(controller: str) -> None:
    """The order of deadlines alone would let all of the flood go first."""
    loads = [Load(0.0, FLOOD, 0.2 * FULL)]
    trial = Trial(controller, ISSUE, loads, 1.5, other_slo=2.5 * SLO)
    assert trial.share_of(1, 0.5, 1.5) >= 0.85


@pytest.mark.fault("L3")
@pytest.mark.parametrize("controller", CLEVER)
def test_who_asks_little_is_served_beside_one_who_floods(controller: str) -> None:
    most = peak(controller)
    trial = Trial(controller, ISSUE, [Load(0.0, FLOOD, 0.2 * FULL)], 2.5)
    assert trial.share_of(1, 0.5, 2.5) >= 0.85
    assert trial.goodput(0.5, 2.5) >= 0.9 * most


@pytest.mark.parametrize("controller", CLEVER)
@pytest.mark.parametrize("other", [0.7, 2.0])
def test_two_who_ask_for_more_than_half_get_half_each(
    controller: str, other: float
) -> None:
    trial = Trial(controller, ISSUE, [Load(0.0, FLOOD, other * FULL)], 2.5)
    half = trial.goodput(0.5, 2.5) / 2
    assert trial.rate_of(0, 0.5, 2.5) == pytest.approx(half, rel=0.15)
    assert trial.rate_of(1, 0.5, 2.5) == pytest.approx(half, rel=0.15)
