"""Streams on which single choices are compared: every arm's loss in every round.

All is drawn beforehand from a seed, so that each policy meets the same arms, contexts and
losses, and is told of what it chose alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.learn.graded import SEED, Floats

Rng = np.random.Generator

ARMS = 5
FEATURES = 8
PARTS = 4  # of a drifting stream, each with arms of its own
REACH = 0.4  # by how much a linear arm's loss can differ from one half
COMPONENTS = 16  # principal ones of the digits


@dataclass(frozen=True)
class Stream:
    """`losses`: (rounds, arms), 0 or 1. `contexts`: (rounds, features), or None."""

    losses: Floats
    contexts: Floats | None = None


def bernoulli(rng: Rng, rounds: int) -> Stream:
    """Arms whose mean losses are drawn once, uniformly from 0.2 to 0.8."""
    return Stream(_flip(rng, np.tile(rng.uniform(0.2, 0.8, ARMS), (rounds, 1))))


def switching(rng: Rng, rounds: int) -> Stream:
    """The same, drawn anew in each of four parts."""
    lengths = _lengths(rounds)
    means = [np.tile(rng.uniform(0.2, 0.8, ARMS), (length, 1)) for length in lengths]
    return Stream(_flip(rng, np.concatenate(means)))


def linear(rng: Rng, rounds: int) -> Stream:
    """Mean losses 0.5 + REACH theta' x of directions theta, one for each arm, and
    contexts x of length 1."""
    return _linear(rng, [rounds])


def turning(rng: Rng, rounds: int) -> Stream:
    """The same with directions drawn anew in each of four parts."""
    return _linear(rng, _lengths(rounds))


def digits(rng: Rng, rounds: int) -> Stream:
    """Handwritten digits of 8 x 8 pixels by their principal components; an arm is a
    class, and its loss 0 if the image is of that class. The first `rounds` of an order
    of chance."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    bunch = load_digits()
    order = rng.permutation(len(bunch.target))[:rounds]
    points = PCA(COMPONENTS, random_state=SEED).fit_transform(bunch.data)
    points /= np.linalg.norm(points, axis=1).mean()
    losses = (np.arange(10) != bunch.target[:, np.newaxis]).astype(np.float64)
    return Stream(losses[order], points[order])


def _linear(rng: Rng, lengths: list[int]) -> Stream:
    points = _unit(rng.normal(size=(sum(lengths), FEATURES)))
    means, first = [], 0
    for length in lengths:
        theta = _unit(rng.normal(size=(ARMS, FEATURES)))
        means.append(0.5 + REACH * points[first : first + length] @ theta.T)
        first += length
    return Stream(_flip(rng, np.concatenate(means)), points)


def _lengths(rounds: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(rounds), PARTS)]


def _flip(rng: Rng, means: Floats) -> Floats:
    return (rng.random(means.shape) < means).astype(np.float64)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@dataclass(frozen=True)
class Kind:
    """How a stream is made, how long it is, and whether it drifts."""

    make: Callable[[Rng, int], Stream]
    title: str
    rounds: int
    quick_rounds: int
    drifts: bool = False


STREAMS = {
    "bernoulli": Kind(bernoulli, "Bernoulli arms", 5_000, 300),
    "linear": Kind(linear, "linear in 8 features", 3_000, 150),
    "digits": Kind(digits, "digits, 16 components", 1_500, 100),
    "switching": Kind(switching, "Bernoulli arms that switch", 10_000, 400, drifts=True),
    "turning": Kind(turning, "linear, directions that turn", 8_000, 200, drifts=True),
}
