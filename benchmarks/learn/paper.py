"""The selection policies of the Clipper paper, in the form in which it measured them.

Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System" (NSDI 2017),
figure 8. They are here to be compared with and are not what Clipper ships. The weights are
scaled to a sum of 1 after each step, which changes no probability: as programmed for the
paper they are not, and vanish in a longer stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

EXP3_ETA = 0.05
EXP4_ETA = 0.2

LEAST = 1e-300  # a weight that is less has underflowed and would divide by 0


class PaperExp3:
    """s_i <- s_i exp(-eta loss / p_i) for the arm that was drawn with p_i = s_i / sum s.
    No arm is drawn for the sake of exploration."""

    def __init__(self, arms: int, eta: float = EXP3_ETA) -> None:
        self._eta = eta
        self.weights = [1.0 / arms] * arms  # all mutable state

    def choose(self, u: float) -> int:
        """The arm that the number `u`, uniform in [0, 1), stands for."""
        return _draw(self.weights, u)

    def learn(self, arm: int, loss: float) -> None:
        self.weights[arm] *= exp(-self._eta * loss / self.weights[arm])
        self.weights = _scaled(self.weights)


class PaperExp4:
    """The form `exp4a`: an expert advises the label it thinks likeliest, a label is drawn
    by the sum of the weights of those that advise it, and these then lose
    s_i <- s_i exp(-eta loss / p_label)."""

    def __init__(self, experts: int, eta: float = EXP4_ETA) -> None:
        self._eta = eta
        self.weights = [1.0 / experts] * experts  # all mutable state

    def choose(self, advice: Sequence[int], u: float) -> int:
        """The label that `u` stands for."""
        return advice[_draw(self.weights, u)]

    def learn(self, advice: Sequence[int], label: int, loss: float) -> None:
        pairs = list(zip(advice, self.weights, strict=True))
        p = sum(weight for one, weight in pairs if one == label)
        factor = exp(-self._eta * loss / p)
        self.weights = _scaled([w * factor if one == label else w for one, w in pairs])


def _draw(weights: Sequence[float], u: float) -> int:
    left = u * sum(weights)
    for index, weight in enumerate(weights):
        if left < weight:
            return index
        left -= weight
    return max(range(len(weights)), key=weights.__getitem__)


def _scaled(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [max(weight / total, LEAST) for weight in weights]
