"""Request traces: which key each request asks for, as integers, from a seed.

Keys below `keys` belong to the population that is asked for again; what a scan asks for
once lies above them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """`make(random, keys, requests, entries)` gives the requests; `entries` is how many
    outputs the cache holds, for traces that are made to hurt a cache of just that size."""

    name: str
    make: Callable[[np.random.Generator, int, int, int], Keys]

    def requests(self, seed: int, keys: int, requests: int, entries: int) -> Keys:
        """The same for the same arguments; int64 of shape (requests,)."""
        return self.make(np.random.default_rng(seed), keys, requests, entries)


def zipf_ranks(
    random: np.random.Generator, exponent: float, keys: int, requests: int
) -> Keys:
    """Ranks below `keys`, rank r with a probability proportional to (r + 1)^-exponent."""
    weights = np.arange(1, keys + 1, dtype=np.float64) ** -exponent
    sums = np.cumsum(weights)
    drawn = random.random(requests) * sums[-1]
    ranks: Keys = np.searchsorted(sums, drawn, side="right")
    return ranks


def zipf(exponent: float) -> Trace:
    """Independent requests; a few keys are asked for most of the time."""

    def make(random: np.random.Generator, keys: int, requests: int, entries: int) -> Keys:
        return zipf_ranks(random, exponent, keys, requests)

    return Trace(f"Zipf {exponent:g}", make)


def scans(share: float) -> Trace:
    """Zipf 1.0, and among it a share of requests for keys that come once."""

    def make(random: np.random.Generator, keys: int, requests: int, entries: int) -> Keys:
        trace = zipf_ranks(random, 1.0, keys, requests)
        once = random.random(requests) < share
        trace[once] = keys + np.arange(int(once.sum()))
        return trace

    return Trace(f"Zipf 1, {share:.0%} once", make)


def bursts(share: float) -> Trace:
    """The same, but what comes once comes in a row, twice as long as the cache: a job that
    goes through a data set."""

    def make(random: np.random.Generator, keys: int, requests: int, entries: int) -> Keys:
        trace = zipf_ranks(random, 1.0, keys, requests)
        length = 2 * entries
        period = int(length / share)
        once = np.arange(requests) % period < length
        trace[once] = keys + np.arange(int(once.sum()))
        return trace

    return Trace(f"Zipf 1, {share:.0%} in scans", make)


def loop(ratio: float) -> Trace:
    """The same keys in the same order, `ratio` times as many as the cache holds."""

    def make(random: np.random.Generator, keys: int, requests: int, entries: int) -> Keys:
        return np.arange(requests, dtype=np.int64) % int(ratio * entries)

    return Trace(f"loop of {ratio:g} caches", make)


def shifting(phases: int) -> Trace:
    """Zipf 1.0 in `phases` of equal length; with each the keys take other ranks, so that
    what was popular is not any more."""

    def make(random: np.random.Generator, keys: int, requests: int, entries: int) -> Keys:
        ranks = zipf_ranks(random, 1.0, keys, requests)
        for part in np.array_split(ranks, phases):
            part[:] = random.permutation(keys)[part]
        return ranks

    return Trace(f"Zipf 1, {phases} shifts", make)


def drifting(lap: float) -> Trace:
    """Zipf 1.0 whose ranks move on over the keys all the time, `lap` times round in all:
    new keys come up, are popular for a while and fade."""

    def make(random: np.random.Generator, keys: int, requests: int, entries: int) -> Keys:
        ranks = zipf_ranks(random, 1.0, keys, requests)
        moved = (np.arange(requests) * (lap * keys / requests)).astype(np.int64)
        return (moved - ranks) % keys

    return Trace("Zipf 1, drifting", make)


TRACES = (
    zipf(0.9),
    zipf(1.0),
    zipf(1.1),
    scans(0.2),
    scans(0.5),
    bursts(0.2),
    bursts(0.5),
    loop(1.1),
    loop(2.0),
    shifting(20),
    drifting(1.0),
)
