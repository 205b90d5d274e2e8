"""The arm that could still be the best: highest upper confidence bound."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, sqrt
from typing import Any

from clipper.selection.means import ExploringOptions, MeanLosses
from clipper.selection.policy import Arm, State
from clipper.selection.totals import Totals, favour


class UCB1Options(ExploringOptions, frozen=True, forbid_unknown_fields=True):
    """`exploration` scales the padding, 1 as published."""

    exploration: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.exploration <= 1e6:
            raise ValueError("exploration must lie between 0 and 1000000")


class UCB1(MeanLosses):
    """UCB1 of Auer, Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed
    bandit problem", Machine Learning 47, 2002, section 2, figure 1, on rewards 1 - loss:
    mean + sqrt(2 ln t / n) after n of t observations. Regret at most
    8 sum(ln T / gap) + (1 + pi^2 / 3) sum(gap) (theorem 1).

    Arms without evidence come first. Ties share.
    """

    name = "ucb1"
    Options = UCB1Options
    options: UCB1Options

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        table: Totals = state["totals"]
        known = [table.get(arm) for arm in arms]
        rounds = sum([total[0] for total in known if total])
        width = self.padding(rounds) if rounds > 1.0 else 0.0
        scores = [
            width / sqrt(total[0]) - total[1] / total[0] if total else inf
            for total in known
        ]
        return favour(scores, self.options.epsilon)

    def padding(self, rounds: float) -> float:
        """What is added to the mean of an arm observed once, of so many times in all."""
        return self.options.exploration * sqrt(2.0 * log(rounds))
