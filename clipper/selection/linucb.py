"""LinUCB: the arm whose reward may be the highest at this context."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from clipper.selection import ridge
from clipper.selection.policy import Arm, State


class LinUCB(ridge.RidgeChoice):
    """Disjoint linear models (Li, Chu, Langford, Schapire, "A Contextual-Bandit Approach
    to Personalized News Article Recommendation", WWW 2010, Algorithm 1), of the reward
    1 - loss: the largest theta' x + alpha sqrt(x' A^-1 x), A = ridge I + sum of x x'.

    Its choices are certain but for ties, which share, and `epsilon`; without the latter
    the log it writes says nothing of what another policy would have done.
    """

    name = "linucb"

    class Options(ridge.RidgeOptions, frozen=True, forbid_unknown_fields=True):
        """`alpha` is how many standard errors above its prediction an arm is taken for."""

        alpha: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.alpha <= 1e6:
                raise ValueError(f"alpha must lie between 0 and 1000000, got {self.alpha}")

    options: Options

    @staticmethod
    def target(loss: float) -> float:
        return 1.0 - loss

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        x = self.point(context)
        alpha = self.options.alpha
        means = self.regression.means(state, arms, x)
        widths = self.regression.widths(state, arms, x)
        scores = [
            mean + alpha * sqrt(width) for mean, width in zip(means, widths, strict=True)
        ]
        best = max(scores)
        # what differs in rounding alone is a tie
        bar = best - 1e-9 * max(1.0, abs(best))
        chances = [1.0 if score >= bar else 0.0 for score in scores]
        tied = sum(chances)
        return self.explored(chances if tied == 1.0 else [c / tied for c in chances])
