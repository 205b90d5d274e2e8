"""Every arm as often as it is probably the best."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipper.selection.means import MeanLosses
from clipper.selection.policy import Arm, PersonalOptions, State
from clipper.selection.totals import Totals

Floats: TypeAlias = NDArray[np.float64]

# Cells of the grid around each arm's posterior, in its standard deviations. Beyond 8 there
# is less than 1e-14 of it; cells of a half make errors of about 1e-5.
STEPS = np.arange(-8.0, 8.01, 0.5)

# No arm is less probable than this, which is below what the quadrature can tell from none:
# an importance weight of more than its inverse never occurs.
FLOOR = 1e-6

# Nearer to the ends of the angle's range no posterior has mass that counts, and there the
# logarithms stay finite.
EDGE = 1e-9

# Two arms' counts may differ by any factor; beyond this one, adding 1 changes nothing.
MOST_COUNT = 1e12


class ThompsonOptions(PersonalOptions, frozen=True, forbid_unknown_fields=True):
    """`model` is what is believed of an arm's losses: "bernoulli" (0 or 1; a fraction
    counts as so much of a 1) or "gaussian", with standard deviation `sigma` each (losses
    in [0, 1] have at most 0.5). `discount` is the weight that past evidence keeps at each
    observation."""

    model: Literal["bernoulli", "gaussian"] = "bernoulli"
    sigma: float = 0.5
    discount: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in ("bernoulli", "gaussian"):
            raise ValueError("model must be bernoulli or gaussian")
        if not 1e-6 <= self.sigma <= 1e6:
            raise ValueError("sigma must lie between 0.000001 and 1000000")
        if not 0 < self.discount <= 1:
            raise ValueError("discount must be above 0 and at most 1")


class Thompson(MeanLosses):
    """Thompson sampling (Thompson, Biometrika 25, 1933), with the posteriors of Agrawal and
    Goyal, "Further optimal regret bounds for Thompson sampling", AISTATS 2013, algorithms
    1 and 2: Beta(1 + losses, 1 + count - losses), or N(mean, sigma^2 / (count + 1)) with
    one loss of 1/2 taken as seen. Discounted as by Raj and Kalyani, "Taming non-stationary
    bandits: a Bayesian approach", 2017, section 3.

    Nothing is sampled here: the probability that an arm's posterior draw would be the
    lowest is an integral, which is computed to about 1e-5.
    """

    name = "thompson"
    Options = ThompsonOptions
    options: ThompsonOptions

    @property
    def discount(self) -> float:
        return self.options.discount

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        if len(arms) == 1:
            return [1.0]
        table: Totals = state["totals"]
        known = np.array([table.get(arm, (0.0, 0.0)) for arm in arms])
        count = np.minimum(known[:, :1], MOST_COUNT)
        loss = known[:, 1:] * (count / np.maximum(known[:, :1], 1e-300))
        if self.options.model == "bernoulli":
            found = beta_least(1.0 + loss, 1.0 + np.maximum(count - loss, 0.0))
        else:
            mean = (loss + 0.5) / (count + 1.0)
            found = normal_least(mean, self.options.sigma / np.sqrt(count + 1.0))
        found = np.maximum(found, FLOOR)
        probabilities: list[float] = (found / found.sum()).tolist()
        return probabilities


def beta_least(a: Floats, b: Floats) -> Floats:
    """How probable each of independent Beta(a, b) variables is to be the lowest. `a` and
    `b` are columns of numbers from 1 up.

    With x = sin^2(angle) each of them is nearly normal in the angle and of standard
    deviation 1 / (2 sqrt(a + b)), also at the ends of [0, 1] and for any counts.
    """
    width = 0.5 / np.sqrt(a + b)
    angle = grid(np.arcsin(np.sqrt(a / (a + b))), width, EDGE, pi / 2 - EDGE)
    logs = (2.0 * a - 1.0) * np.log(np.sin(angle)) + (2.0 * b - 1.0) * np.log(np.cos(angle))
    return least(angle, logs)


def normal_least(mean: Floats, deviation: Floats) -> Floats:
    """How probable each of independent normal variables, columns, is to be the lowest."""
    x = grid(mean, deviation, -np.inf, np.inf)
    return least(x, -0.5 * ((x - mean) / deviation) ** 2)


def grid(middle: Floats, width: Floats, low: float, high: float) -> Floats:
    """Ends and middles, alternating, of cells that are narrow where any arm needs it."""
    ends = np.clip((middle + width * STEPS).ravel(), low, high)
    ends.sort()
    points = np.empty(2 * len(ends) - 1)
    points[::2] = ends
    points[1::2] = 0.5 * (ends[:-1] + ends[1:])
    return points


def least(points: Floats, logs: Floats) -> Floats:
    """P(arm is lowest) = integral of its density times the others' survival functions, by
    Simpson's rule, from log densities at `points`, a row for each arm and free of scale."""
    cell = (points[2::2] - points[:-2:2]) / 6.0
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    first, middle, last = density[:, :-2:2], density[:, 1::2], density[:, 2::2]
    mass = cell * (first + 4.0 * middle + last)
    survival = np.zeros_like(logs)
    survival[:, :-1:2] = mass[:, ::-1].cumsum(axis=1)[:, ::-1]
    upper_half = cell * np.maximum(5.0 * last + 8.0 * middle - first, 0.0) / 4.0
    survival[:, 1::2] = survival[:, 2::2] + np.minimum(upper_half, mass)
    total = survival[:, :1].copy()
    log_survival = np.log(np.maximum(survival / total, 1e-300))
    others = np.exp(np.minimum(log_survival.sum(axis=0) - log_survival, 0.0))
    part = density * others
    integral = (part[:, :-2:2] + 4.0 * part[:, 1::2] + part[:, 2::2]) @ cell
    found: Floats = integral / total[:, 0]
    found /= found.sum()
    return found
