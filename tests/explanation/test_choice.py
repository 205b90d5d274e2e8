"""How an application chooses, and what is said about it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from clipper.explanation.choice import choice_sentences, trouble
from clipper.explanation.facts import (
    ArmFacts,
    Attainment,
    Choosing,
    Facts,
    GuardFacts,
    ShadowFacts,
)
from clipper.explanation.sentences import sentences

GOOD = ArmFacts("d:2#5", "d:2", 0.95, 200, 0.05)
POOR = ArmFacts("d:1#4", "d:1", 0.05, 22, 0.21)
UCB = Choosing("ucb1", learns=True, feedback=222, arms=[POOR, GOOD])


def said(choosing: Choosing, **fields: Any) -> list[str]:
    return choice_sentences(Facts("app", 20.0, choosing=choosing, **fields))


def test_shares_and_losses_of_a_single_choice() -> None:
    assert said(UCB) == [
        "ucb1 shares the queries so: d:2 95.0 %, d:1 5.0 %.",
        "Mean losses under feedback, the best first: d:2 0.050 over 200 pieces, d:1 0.210 "
        "over 22 pieces.",
    ]


def test_weights_of_an_ensemble_for_each_user() -> None:
    hedge = replace(UCB, policy="hedge", kind="ensemble", personal=True)
    assert said(hedge)[0] == "hedge weighs its members so: d:2 95.0 %, d:1 5.0 %."
    assert said(replace(hedge, users_in_memory=1))[0] == (
        "hedge weighs its members so, for users without feedback of their own: "
        "d:2 95.0 %, d:1 5.0 %."
    )


def test_a_context_decides() -> None:
    linucb = replace(UCB, policy="linucb", contextual=True)
    assert said(linucb)[0] == "linucb chooses by the context of each query."


def test_no_feedback_yet() -> None:
    arms = [replace(arm, feedback=0, mean_loss=None) for arm in UCB.arms]
    assert said(replace(UCB, arms=arms))[1] == (
        "No feedback has been learned from yet: ucb1 knows no more than at the start."
    )


def test_many_arms_are_not_all_named() -> None:
    arms = [ArmFacts(f"m:{i}#{i}", f"m:{i}", 0.1) for i in range(10)]
    assert said(replace(UCB, arms=arms))[0] == (
        "ucb1 shares the queries so: m:0 10.0 %, m:1 10.0 %, m:2 10.0 %, m:3 10.0 %, "
        "6 others."
    )


def test_where_there_is_no_choice_nothing_is_said() -> None:
    assert said(Choosing()) == []
    assert said(replace(UCB, arms=[GOOD])) == []


def test_members_that_came_too_late() -> None:
    choosing = replace(UCB, arms=[replace(GOOD, missing=3), POOR])
    facts: dict[str, Any] = {"attainment": Attainment(1.0, 1.0, 5000, 5000, 30.0)}
    assert said(choosing, **facts)[-1] == (
        "d:2 came too late for 3 of 5,000 answers since the start, which went out "
        "without it."
    )


def test_a_shadow() -> None:
    shadow = ShadowFacts(0.9, 340, 2, 3.0, 7.0)
    choosing = Choosing("shadow", arms=[GOOD, replace(POOR, shadow=shadow)])
    assert said(choosing) == [
        "d:1, a shadow, agreed with 90.0 % of 340 answers; half of its own took 3 ms, "
        "95 % at most 7 ms; it failed on 2 queries."
    ]
    only = replace(POOR, shadow=ShadowFacts(failed=1))
    assert said(replace(choosing, arms=[GOOD, only])) == [
        "d:1, a shadow, failed on 1 query."
    ]


def test_a_canary_and_its_end() -> None:
    guard = GuardFacts(100, 3, 12.0)
    arm = replace(POOR, guard=guard)
    choosing = Choosing("canary", arms=[arm])
    assert said(choosing) == [
        "d:1 gets 5.0 % of the queries; it failed 3 of 100, 95 % took at most 12 ms, its "
        "mean loss is 0.210."
    ]
    halted = replace(choosing, arms=[replace(arm, halted="it failed 30 of 100 queries")])
    assert said(halted) == []
    facts = Facts("app", 20.0, choosing=halted)
    assert trouble(facts) == [
        "d:1 gets no more queries of app, a guard took it out: it failed 30 of 100 "
        "queries. Setting the policy anew (`clipper policy app canary ...`) would bring it "
        "back."
    ]
    assert trouble(facts)[0] in sentences(facts)


def test_a_policy_that_is_not_there() -> None:
    choosing = replace(UCB, policy="mine", unavailable="policy must be one of ...")
    [line] = trouble(Facts("app", 20.0, choosing=choosing))
    assert line.startswith("The policy mine of app cannot be had: policy must be one of")


def test_refused_feedback() -> None:
    refused = replace(UCB, refused={"conflict": 2, "not_found": 1})
    assert said(refused)[-1] == (
        "3 of 225 pieces of feedback since the start were refused, 2 of them with "
        "`conflict`."
    )
    refused = replace(UCB, refused={"conflict": 1})
    assert said(refused)[-1] == (
        "1 of 223 pieces of feedback since the start was refused, all with `conflict`."
    )
