"""Exp3 whose estimates explore: a bound that holds with high probability."""

from __future__ import annotations

from math import log, sqrt

from clipper.selection.exp3 import ExponentialWeights


class Exp3IX(ExponentialWeights):
    """Exp3-IX of Neu, "Explore no more: improved high-probability regret bounds for
    non-stochastic bandits", NIPS 2015, section 3: estimates loss / (propensity + gamma)
    with gamma = eta / 2. For a horizon eta = sqrt(2 ln K / (K T)), for none
    sqrt(ln K / (K t)) in round t (theorem 1). `share` mixes as in Exp3.S; the paper's own
    tracking variant (section 4.2) mixes likewise.
    """

    name = "exp3_ix"

    def rate(self, arms: int, rounds: float) -> float:
        if self.options.eta is not None:
            return self.options.eta
        factor = 1.0 if self.options.horizon is None else 2.0
        return sqrt(factor * log(arms) / (arms * self.horizon(rounds)))

    def estimate(self, loss: float, propensity: float, rate: float) -> float:
        return loss / (propensity + 0.5 * rate)
