"""Targets: what is met, what is missed and what was not measured."""

from __future__ import annotations

import pytest

from benchmarks.goals import Goal, goal_table


@pytest.mark.parametrize(
    ("sign", "value", "verdict"),
    [
        ("<=", 1.0, "met"),
        ("<=", 1.1, "MISSED"),
        ("<", 1.0, "MISSED"),
        (">=", 1.0, "met"),
        ("<=", float("nan"), "MISSED"),
        (">=", float("nan"), "MISSED"),
        (">=", None, "not measured"),
    ],
)
def test_a_goal_is_met_or_missed(sign: str, value: float | None, verdict: str) -> None:
    goal = Goal("a ratio", sign, 1.0, value)
    assert goal.verdict == verdict
    assert verdict in goal_table([goal])


def test_the_median_of_the_rounds_decides() -> None:
    assert Goal.of_rounds("a", ">=", 1.0, [0.1, 1.0, 2.0]).verdict == "met"
    assert Goal.of_rounds("a", ">=", 1.0, [0.1, 0.9, 2.0]).verdict == "MISSED"
    assert Goal.of_rounds("a", ">=", 1.0, []).verdict == "not measured"


def test_the_worst_value_decides() -> None:
    assert Goal.of_worst("a", ">=", 1.0, [0.9, 2.0]).verdict == "MISSED"
    assert Goal.of_worst("a", "<=", 1.0, [0.9, 2.0]).verdict == "MISSED"
    assert Goal.of_worst("a", ">=", 1.0, [1.0]).verdict == "met"
    assert Goal.of_worst("a", ">=", 1.0, []).verdict == "not measured"


def test_a_table_shows_what_was_measured_and_its_spread() -> None:
    goals = [Goal.of_rounds("speed", ">=", 2.0, [1.0, 3.0, 4.0], "{:.1f}")]
    head, _, line = goal_table(goals, "median", "of three rounds").splitlines()
    assert "median" in head and "of three rounds" in head
    assert line.split() == ["speed", ">=", "2.0", "3.0", "1.0", "..", "4.0", "met"]
