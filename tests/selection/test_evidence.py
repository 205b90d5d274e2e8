"""What of a log a policy is judged on."""

from __future__ import annotations

from typing import Any

import pytest

from clipper.errors import Conflict
from clipper.records import PolicySettings
from clipper.selection.evidence import LEAST_EFFECTIVE, gather
from clipper.selection.logged import LoggedDecision
from clipper.selection.losses import ZeroOne
from clipper.selection.offline import Evaluation, evaluate
from clipper.selection.policy import SelectionPolicy
from clipper.selection.registry import make_policy
from clipper.selection.trial import Trial

from .logs import ARMS, Fixed, chosen_only, log

A, B, C = ARMS
UNIFORM = Fixed(1 / 3, 1 / 3, 1 / 3)
ALONE = LoggedDecision((A,), (A,), 1.0, 0.0, losses={A: 0.0}, odds=(1.0,))
ALWAYS = LoggedDecision(ARMS, (A,), 1.0, 0.0, losses={A: 0.0}, odds=(1.0, 0.0, 0.0))


def policy(name: str, **options: Any) -> SelectionPolicy:
    return make_policy(PolicySettings(name, options))


def trial(mine: SelectionPolicy) -> Trial:
    return Trial(mine, ZeroOne())


def judged(records: list[LoggedDecision], mine: SelectionPolicy) -> Evaluation:
    return evaluate(records, mine, seed=1, resamples=50)


@pytest.mark.parametrize("record", [ALONE, ALWAYS, ALWAYS._replace(odds=None)])
@pytest.mark.parametrize("times", [10, 1000])
def test_phases_in_which_one_arm_alone_could_answer_are_left_out(
    record: LoggedDecision, times: int
) -> None:
    records = chosen_only(log(1, 300))
    found = judged([record] * times + records, UNIFORM)
    assert (found.records, found.one_arm, found.left_out) == (300, times, 0)
    alone = judged(records, UNIFORM)
    assert (found.ips, found.dr, found.logged) == (alone.ips, alone.dr, alone.logged)


def test_one_arm_alone_does_not_make_a_log_that_knows_all_losses() -> None:
    panel = LoggedDecision(
        ARMS,
        (A,),
        1.0,
        0.0,
        losses=dict.fromkeys(ARMS, 0.0),
        outputs=dict.fromkeys(ARMS, 1),
    )
    found = judged([ALONE] * 500 + [panel] * 60, policy("hedge"))
    assert (found.records, found.one_arm) == (60, 500)
    assert found.exact is not None
    with pytest.raises(Conflict, match="does not hold the losses of all"):
        judged([ALONE] * 5000 + chosen_only(log(1, 100)), policy("hedge"))


def test_they_are_all_there_is_where_the_others_are_too_few() -> None:
    few = chosen_only(log(1, int(LEAST_EFFECTIVE) - 1))
    with pytest.raises(Conflict, match=r"never chose|could not be chosen"):
        judged([ALWAYS] * 300 + few, UNIFORM)
    found = judged([ALWAYS] * 300, policy("static", model="a"))
    assert (found.records, found.one_arm) == (300, 0)


def test_feedback_by_input_is_no_decision_of_one_arm() -> None:
    given = LoggedDecision(ARMS, losses=dict.fromkeys(ARMS, 0.5))
    found = gather([given] * 50 + chosen_only(log(1, 300)), trial(UNIFORM), 0)
    assert (len(found.records), found.one_arm, found.exact) == (300, 0, False)


def test_a_refusal_tells_what_was_left_out() -> None:
    skewed = [
        LoggedDecision(ARMS, (A if i else B,), 0.998 if i else 0.002, 0.5)
        for i in range(400)
    ]
    with pytest.raises(Conflict, match=r"\(70 more are left out, because one arm alone"):
        judged([ALONE] * 70 + skewed, Fixed(0.0, 1.0, 0.0))


# -- a member that is never heard of -----------------------------------------------------

LATE = LoggedDecision(
    ARMS, (A, B), 1.0, 0.0, losses={A: 0.0, B: 1.0}, outputs={A: 1, B: 2}, label=1
)


@pytest.mark.parametrize("name", ["hedge", "thompson", "static"])
def test_those_heard_of_are_compared_exactly(name: str) -> None:
    options = {"model": "b"} if name == "static" else {"arms": ["a", "b"]}
    found = judged([LATE] * 60, policy(name, **options))
    assert found.exact is not None and found.records == 60
    if name == "static":
        assert found.exact.mean == 1.0


@pytest.mark.parametrize("mine", [policy("hedge"), UNIFORM])
def test_whoever_needs_it_is_told_which_it_is(mine: SelectionPolicy) -> None:
    with pytest.raises(Conflict) as caught:
        judged([LATE] * 60, mine)
    assert "or leave out c:2, whose loss is unknown in 100% of the log" in str(caught.value)


def test_what_was_chosen_alone_is_not_taken_for_all_that_is_known() -> None:
    """Nearly always b: to drop what chose another would be to drop what b did badly."""
    records = chosen_only(log(1, 600, odds=(0.01, 0.98, 0.01)))
    found = judged(records, policy("static", model="b"))
    assert found.exact is None and found.ips is not None
