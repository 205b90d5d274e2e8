"""Numbers over seeds with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SEED = 20170327
RESAMPLES = 10_000
LEVEL = 0.95


class Estimate(NamedTuple):
    """`value` with its 95 % interval; of a single seed the interval is nan."""

    value: float
    low: float
    high: float

    def text(self, form: str = "{:.4f}") -> str:
        if np.isnan(self.low):
            return form.format(self.value)
        low, high = form.format(self.low), form.format(self.high)
        return f"{form.format(self.value)} ({low} .. {high})"


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean, with Student's interval."""
    from scipy.stats import t

    samples = np.asarray(values, np.float64)
    mean, error = float(samples.mean()), standard_error(values)
    width = float(t.ppf(0.5 + LEVEL / 2, max(1, len(samples) - 1))) * error
    return Estimate(mean, mean - width, mean + width)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; nan for a single value."""
    samples = np.asarray(values, np.float64)
    if len(samples) < 2:
        return float("nan")
    return float(samples.std(ddof=1) / np.sqrt(len(samples)))


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """The ratio of the means of two series over the same seeds. The interval is that of
    resampled seeds (the percentile bootstrap), a seed's two numbers together."""
    one, other = np.asarray(above, np.float64), np.asarray(below, np.float64)
    value = float(one.mean() / other.mean())
    if len(one) < 2:
        return Estimate(value, float("nan"), float("nan"))
    draws = np.random.default_rng(SEED).integers(0, len(one), (RESAMPLES, len(one)))
    ratios = one[draws].mean(axis=1) / other[draws].mean(axis=1)
    low, high = np.quantile(ratios, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(value, float(low), float(high))


def difference_of(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """The mean of the differences within seeds."""
    return mean_of(np.subtract(one, other).tolist())
