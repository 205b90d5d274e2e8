"""Estimators of off-policy evaluation: what another policy would have lost, from a log.

A log holds, for each decision, the loss l of the arm that was chosen and the probability
p with which it was. With the probability e that the policy in question gives to the same
arm, w = e / p is how much the decision counts for it:

- IPS, inverse propensity scoring: the mean of w l. Unbiased. (Horvitz and Thompson, 1952.)
- SNIPS, self-normalised: sum of w l over sum of w. Slightly biased, consistent, never
  outside [0, 1], mostly less spread. (Swaminathan and Joachims, "The Self-Normalized
  Estimator for Counterfactual Learning", NIPS 2015.)
- DR, doubly robust: the mean of q(e) + w (l - q), where q is the loss that a model
  predicts for the chosen arm and q(e) what it predicts under the policy. Unbiased whatever
  the model, and less spread the better it is. (Dudik, Langford and Li, "Doubly Robust
  Policy Evaluation and Learning", ICML 2011.)

Intervals are percentile bootstrap intervals (Efron, 1979). Arrays have one element for each
decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]

# By name a sum and the sum it is divided by; None is the number of decisions.
Ratios: TypeAlias = Mapping[str, tuple[Vector, Vector | None]]

LEVEL = 0.95

# A longer log is cut into this many pieces of consecutive decisions, and pieces are drawn:
# the intervals are as wide, or wider where decisions near each other are alike.
_MOST_PIECES = 10_000

# Numbers drawn at once.
_AT_ONCE = 1_000_000


class Estimate(msgspec.Struct, frozen=True):
    """A mean, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def effective_size(weights: Vector) -> float:
    """How many decisions of the policy itself the weighted ones are worth, by Kish's
    formula (sum w)^2 / sum w^2."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def estimate(ratios: Ratios, *, seed: int, resamples: int) -> dict[str, Estimate]:
    """Each ratio of sums, with its interval. All are taken over the same resamples."""
    n = len(next(iter(ratios.values()))[0])
    ones = np.ones(n)
    columns = [array for pair in ratios.values() for array in (pair[0], pair[1])]
    table = np.stack([ones if array is None else array for array in columns], axis=1)
    sums = _resampled(_pieces(table), np.random.default_rng(seed), resamples)
    whole = table.sum(axis=0)
    found = {}
    for index, name in enumerate(ratios):
        top, bottom = 2 * index, 2 * index + 1
        mean = float(whole[top] / whole[bottom])
        drawn = np.full(resamples, mean)
        np.divide(sums[:, top], sums[:, bottom], out=drawn, where=sums[:, bottom] > 0)
        tail = 50 * (1 - LEVEL)
        low, high = np.percentile(drawn, [tail, 100 - tail]).tolist()
        found[name] = Estimate(mean, low, high)
    return found


def _pieces(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows, or sums of as many consecutive ones as makes them few."""
    length = -(-len(table) // _MOST_PIECES)
    if length == 1:
        return table
    return np.add.reduceat(table, np.arange(0, len(table), length), axis=0)


def _resampled(
    table: npt.NDArray[Any], rng: np.random.Generator, resamples: int
) -> npt.NDArray[Any]:
    """The sums of the columns over rows drawn with replacement, for each resample."""
    n = len(table)
    sums = np.empty((resamples, table.shape[1]))
    step = max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(n, size=(count, n))
        drawn += np.arange(count)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        sums[start : start + count] = times @ table
    return sums
