"""What controllers make of load, in virtual time: figures that do not depend on the
machine, so they are asserted. `python -m simulation.table` prints all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .goodput import FOREST, ISSUE, ROUGH, SLO, Load, Trial, best, capacity, ideal_cap

CLEVER = ("aimd", "goodput")
FULL = capacity(ISSUE)


def peak(controller: str) -> float:
    """The best goodput below saturation."""
    return max(
        Trial(controller, ISSUE, [Load(0.0, load * FULL)], 1.5).goodput(0.5, 1.5)
        for load in (0.8, 0.9)
    )


@pytest.mark.fault("L1")
@pytest.mark.parametrize("controller", CLEVER)
def test_goodput_is_kept_under_overload(controller: str) -> None:
    most = peak(controller)
    for load in (2.0, 4.0, 8.0):
        trial = Trial(controller, ISSUE, [Load(0.0, load * FULL)], 1.5)
        assert trial.goodput(0.5, 1.5) >= 0.9 * most
        # and the rest hears of it in time: deadlines are kept to a timer's step
        assert trial.meter.latest <= 0.005


def test_without_shedding_nothing_is_in_time() -> None:
    trial = Trial("fifo", ISSUE, [Load(0.0, 2.0 * FULL)], 1.5)
    assert trial.goodput(0.5, 1.5) <= 0.1 * FULL


@pytest.mark.parametrize("controller", CLEVER)
@pytest.mark.parametrize("nature", [ISSUE, ROUGH], ids=["even", "uneven"])
def test_batches_stay_within_the_objective(controller: str, nature: object) -> None:
    for load in (0.6, 1.2, 4.0):
        trial = Trial(controller, nature, [Load(0.0, load * FULL)], 1.5)  # type: ignore[arg-type]
        assert trial.batch_seconds(0.5, 1.5) <= SLO


@pytest.mark.parametrize("controller", CLEVER)
def test_the_cap_settles_and_little_load_leaves_it_alone(controller: str) -> None:
    trial = Trial(controller, ISSUE, [Load(0.0, 1.2 * FULL), Load(2.0, 0.05 * FULL)], 12.0)
    assert trial.settles(ideal_cap(ISSUE), 0.0, 2.0) <= 1.0
    before = trial.caps(1.0, 2.0)[-1]
    assert min(trial.caps(2.1, 12.0)) >= 0.95 * before


@pytest.mark.parametrize("controller", CLEVER)
@pytest.mark.parametrize("load", [0.9, 2.0])
def test_a_cold_start_takes_less_than_half_a_second(controller: str, load: float) -> None:
    trial = Trial(controller, ISSUE, [Load(0.0, load * FULL)], 2.0)
    assert trial.reaches(0.9, trial.goodput(1.0, 2.0), 0.0) <= 0.4


@pytest.mark.fault("L1")
@pytest.mark.parametrize("controller", CLEVER)
def test_after_overload_all_is_as_before(controller: str) -> None:
    loads = [Load(0.0, 4.0 * FULL), Load(1.0, 0.6 * FULL)]
    trial = Trial(controller, ISSUE, loads, 2.5)
    assert trial.reaches(0.95, 0.6 * FULL, 1.0) <= 1.0


RETRIES = [Load(0.0, 1.2 * FULL), Load(2.0, 0.8 * FULL)]


@pytest.mark.fault("L2")
@pytest.mark.parametrize("controller", CLEVER)
def test_clients_that_ask_again_do_not_keep_an_overload_up(controller: str) -> None:
    """Three times and at once: while they do, as much is answered as ever, and it ends with
    what began it."""
    trial = Trial(controller, ISSUE, RETRIES, 5.0, retries=3)
    assert trial.meter.retried > 1000
    assert trial.goodput(0.5, 2.0) >= 0.9 * peak(controller)
    assert trial.reaches(0.95, 0.8 * FULL, 2.0) <= 0.5
    assert trial.share_of(0, 3.0, 5.0) >= 0.99


def test_without_shedding_clients_that_ask_again_never_stop() -> None:
    """Shows that these loads can do harm: what comes late is asked for again for ever."""
    trial = Trial("fifo", ISSUE, RETRIES, 5.0, retries=3)
    assert trial.goodput(3.0, 5.0) <= 0.1 * FULL


@pytest.mark.parametrize("controller", CLEVER)
def test_a_model_that_becomes_slower_is_kept_busy_with_what_is_in_time(
    controller: str,
) -> None:
    slower = replace(ISSUE, jump_at=1001.0, jump=2.0)
    half = replace(ISSUE, fixed=2 * ISSUE.fixed, per_row=2 * ISSUE.per_row)
    trial = Trial(controller, slower, [Load(0.0, 1.2 * FULL)], 4.0)
    assert trial.goodput(3.0, 4.0) >= 0.8 * best(half, 1.2 * FULL)
    assert trial.batch_seconds(3.0, 4.0) <= SLO


def test_the_same_seed_gives_the_same_figures() -> None:
    one, two = (
        Trial("aimd", FOREST, [Load(0.0, 5000.0)], 0.2).meter.batches for _ in range(2)
    )
    assert one == two
