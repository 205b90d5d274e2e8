"""The arm of the lowest mean loss, and now and then any other."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from clipper.selection.means import ExploringOptions, MeanLosses
from clipper.selection.policy import Arm, State
from clipper.selection.totals import Totals, favour


class EpsilonGreedyOptions(ExploringOptions, frozen=True, forbid_unknown_fields=True):
    """`epsilon` is the share of queries that explore, all arms evenly. With `gap` it falls
    with the number t of observations in its place: min(1, scale * K / (gap^2 t)) for K
    arms, where `gap` is at most the difference between the best mean and the next."""

    epsilon: float = 0.05
    gap: float | None = None
    scale: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gap is not None and not 1e-6 <= self.gap <= 1:
            raise ValueError("gap must lie between 0.000001 and 1")
        if not 0 < self.scale <= 1e6:
            raise ValueError("scale must be above 0 and at most 1000000")


class EpsilonGreedy(MeanLosses):
    """Epsilon-greedy, and with `gap` the epsilon_n-greedy of Auer, Cesa-Bianchi and
    Fischer, "Finite-time analysis of the multiarmed bandit problem", Machine Learning 47,
    2002, section 2, figure 3, whose regret is logarithmic (theorem 3, for scale > 5; their
    experiments in section 4 did best with about 0.15).

    Arms of the same mean share the greedy part. Arms without evidence come before all
    others, so that a new one is tried at once.
    """

    name = "epsilon_greedy"
    Options = EpsilonGreedyOptions
    options: EpsilonGreedyOptions

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        table: Totals = state["totals"]
        scores = []
        for arm in arms:
            total = table.get(arm)
            scores.append(inf if total is None else -total[1] / total[0])
        return favour(scores, self._epsilon(table, arms))

    def _epsilon(self, table: Totals, arms: Sequence[Arm]) -> float:
        gap = self.options.gap
        if gap is None:
            return self.options.epsilon
        rounds = 1.0 + sum(table[arm][0] for arm in arms if arm in table)
        return min(1.0, self.options.scale * len(arms) / (gap * gap * rounds))
