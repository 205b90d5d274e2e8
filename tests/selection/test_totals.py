from __future__ import annotations

import pytest

from clipper.selection.policy import MOST_ARMS, MOST_LEFT, Observation, Total
from clipper.selection.totals import Totals, add, begin, favour, prune, shrink

from .contract import ARMS


def test_every_known_loss_counts() -> None:
    totals: Totals = {}
    add(totals, Observation(ARMS[:3], {ARMS[0]: 0.25, ARMS[1]: 1.0}, (ARMS[0],)))
    add(totals, Observation(ARMS[:3], {ARMS[0]: 0.5}))
    assert totals == {ARMS[1]: [1.0, 1.0], ARMS[0]: [2.0, 0.75]}


def test_a_reward_is_that_of_the_only_arm() -> None:
    totals: Totals = {}
    add(totals, Observation(ARMS[:2], {}, (ARMS[1],), 0.5, 0.25))
    add(totals, Observation(ARMS[:2], {}, ARMS[:2], 0.5, 0.25))
    assert totals == {ARMS[1]: [1.0, 0.25]}


def test_the_arms_longest_without_feedback_are_dropped_first() -> None:
    totals: Totals = {}
    for index in range(MOST_ARMS):
        add(totals, Observation((), {f"m:{index}#1": 0.0}))
    add(totals, Observation((), {"m:0#1": 0.0}))
    add(totals, Observation((), {"new:1#1": 0.0}))
    assert len(totals) == MOST_ARMS
    assert "m:1#1" not in totals
    assert {"m:0#1", "m:2#1", "new:1#1"} <= set(totals)


def test_of_a_model_in_use_few_other_versions_stay() -> None:
    totals: Totals = {}
    for index in range(3 * MOST_LEFT):
        arms = ("a:1#1", f"m:{index}#1")
        add(totals, Observation(arms, {arms[1]: 0.0}))
        add(totals, Observation(arms, {arms[0]: 0.0}))
    left = [f"m:{index}#1" for index in range(2 * MOST_LEFT - 1, 3 * MOST_LEFT)]
    assert list(totals) == [*left, "a:1#1"]


def test_models_that_are_out_of_use_keep_what_was_learned() -> None:
    """After a start their workers come one by one, and feedback does not wait."""
    arms = tuple(f"m{index}:1#1" for index in range(5 * MOST_LEFT))
    totals: Totals = {}
    add(totals, Observation(arms, dict.fromkeys(arms, 0.5)))
    add(totals, Observation(arms[:1], {arms[0]: 0.5}))
    assert set(totals) == set(arms)


def test_arms_in_use_are_never_dropped() -> None:
    arms = [f"m:{index}#1" for index in range(MOST_ARMS + 5)]
    table = dict.fromkeys(arms, 0)
    prune(table, arms)
    assert len(table) == MOST_ARMS + 5
    prune(table, arms[:3])
    assert list(table) == arms[:3] + arms[-MOST_LEFT:]
    others = {f"n{index}:1#1": 0 for index in range(MOST_ARMS)}
    prune(table := {**others, **table}, arms[:3])
    assert len(table) == MOST_ARMS and set(arms[:3]) <= set(table)
    assert next(iter(table)) == f"n{3 + MOST_LEFT}:1#1"


def test_discounted_evidence_fades_away() -> None:
    totals: Totals = {ARMS[0]: [1.5e-9, 0.0], ARMS[1]: [8.0, 4.0]}
    add(totals, Observation(ARMS[:2], {ARMS[1]: 0.0}), discount=0.5)
    assert totals == {ARMS[1]: [5.0, 2.0]}


def test_a_user_has_so_much_of_the_population() -> None:
    population = {ARMS[0]: [100.0, 25.0], ARMS[1]: [2.0, 1.0]}
    own = {ARMS[0]: [4.0, 4.0], ARMS[2]: [1.0, 0.0]}
    assert shrink(population, own, 8.0) == {
        ARMS[0]: [12.0, 6.0],
        ARMS[1]: [2.0, 1.0],
        ARMS[2]: [1.0, 0.0],
    }
    assert shrink(population, own, 0.0) == own
    assert shrink(population, {}, 8.0) == population
    assert own == {ARMS[0]: [4.0, 4.0], ARMS[2]: [1.0, 0.0]}


def test_the_population_fades_as_evidence_grows() -> None:
    population = {ARMS[0]: [1e6, 0.0]}
    means = []
    for count in (1.0, 10.0, 100.0, 1000.0):
        mixed, lost = shrink(population, {ARMS[0]: [count, count]}, 8.0)[ARMS[0]]
        means.append(lost / mixed)
    assert means == sorted(means)
    assert means[0] < 0.2 and means[-1] > 0.99


def test_a_beginning_has_the_arms_with_evidence() -> None:
    totals = begin({ARMS[0]: Total(4, 1.0), ARMS[1]: Total(0, 0.0)})
    assert totals == {ARMS[0]: [4, 1.0]}


def test_favour() -> None:
    assert favour([1.0, 3.0, 3.0, 2.0], 0.0) == [0.0, 0.5, 0.5, 0.0]
    assert favour([1.0, 3.0], 0.5) == pytest.approx([0.25, 0.75])
    assert favour([float("inf"), 1.0], 0.0) == [1.0, 0.0]
