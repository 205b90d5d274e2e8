"""SquareCB: chances that fall with how much worse an arm is predicted to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipper.selection import ridge
from clipper.selection.policy import Arm, State


class SquareCB(ridge.RidgeChoice):
    """Inverse gap weighting over a regression of the losses (Foster and Rakhlin, "Beyond
    UCB: Optimal and Efficient Contextual Bandits with Regression Oracles", ICML 2020,
    Algorithm 1), as Vowpal Wabbit has it: 1 / (K + gamma (c - c_best)) for each arm but
    the best, which has the rest. gamma = gamma_scale t^gamma_exponent after t feedbacks,
    those that a discount leaves.

    Predictions are clipped to [0, 1]. An arm without evidence is taken to have no loss, so
    that it is tried; arms that are best together share.
    """

    name = "squarecb"

    class Options(ridge.RidgeOptions, frozen=True, forbid_unknown_fields=True):
        gamma_scale: float = 10.0
        gamma_exponent: float = 0.5

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.gamma_scale <= 1e6:
                raise ValueError(
                    f"gamma_scale must lie between 0 and 1000000, got {self.gamma_scale}"
                )
            if not 0 <= self.gamma_exponent <= 1:
                raise ValueError(
                    f"gamma_exponent must lie between 0 and 1, got {self.gamma_exponent}"
                )

    options: Options

    @staticmethod
    def target(loss: float) -> float:
        return loss

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        predicted = self.regression.means(state, arms, self.point(context))
        costs = [min(max(cost, 0.0), 1.0) for cost in predicted]
        least = min(costs)
        rounds = state["rounds"] if self.regression.fits(state) else 0.0
        gamma = self.options.gamma_scale * rounds**self.options.gamma_exponent
        # what differs in rounding alone is a tie
        tied = [cost <= least + 1e-9 for cost in costs]
        count = len(costs)
        found = [
            0.0 if best else 1.0 / (count + gamma * (cost - least))
            for cost, best in zip(costs, tied, strict=True)
        ]
        share = (1.0 - sum(found)) / sum(tied)
        return self.explored(
            [share if best else p for p, best in zip(found, tied, strict=True)]
        )
