from __future__ import annotations

from collections.abc import Mapping

import pytest

from clipper.guarding import EVERY, Guard
from clipper.selection.canary import Canary
from clipper.selection.policy import MOST_ARMS, MOST_LEFT, Arm, Score, Total, Verdict

A, B = "a:1#1", "b:1#2"


class Watcher(Canary):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(Canary.Options(weights={"a": 1.0, "b": 1.0}))
        self.shown: list[Mapping[Arm, Score]] = []

    def judge(self, scores: Mapping[Arm, Score]) -> Verdict | None:
        self.shown.append(scores)
        return None


def test_a_guard_counts_by_arm() -> None:
    guard = Guard(Watcher())
    for failed in (False, True, False):
        guard.saw(A, failed, 0.01)
    guard.saw(B, True, 5.0)
    totals = {A: Total(3.0, 1.0)}
    scores = guard.scores([A, B, "c:1#3"], totals)
    assert (scores[A].queries, scores[A].failures, scores[A].total) == (3, 1, totals[A])
    assert scores[A].latency == pytest.approx(0.01, rel=0.3)
    assert scores[B].latency is not None and scores[B].latency > 1
    assert scores["c:1#3"] == Score(0, 0, None, Total(0.0, 0.0))


def test_it_looks_again_after_some_queries() -> None:
    guard = Guard(Watcher())
    due = [guard.saw(A, False, 0.01) for _ in range(EVERY)]
    assert due == [False] * (EVERY - 1) + [True]
    guard.judge([A], {})
    assert not guard.saw(A, False, 0.01)


def test_it_forgets_arms_of_long_ago() -> None:
    guard = Guard(Watcher())
    guard.saw(A, False, 0.01)
    for number in range(2 * MOST_ARMS):
        arm = f"b:{number}#{number}"
        guard.saw(arm, True, 0.01)
        guard.keep([A, arm])
    assert len(guard._seen) == 2 + MOST_LEFT
    scores = guard.scores([A, arm, "b:0#0"], {})
    assert [score.queries for score in scores.values()] == [1, 1, 0]
