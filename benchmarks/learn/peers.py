"""Vowpal Wabbit and MABWiser as choosers, at the options that Clipper's policies have.

Both are optional: what is not installed is left out, and said to be.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

VW, MABWISER = "vowpalwabbit", "mabwiser"
PACKAGES = (VW, MABWISER)


def installed() -> dict[str, str]:
    """The versions of those that are there."""
    return {name: metadata.version(name) for name in PACKAGES if find_spec(name)}


class VowpalWabbit:
    """A learner of `--cb_explore_adf`, with the defaults of everything not in `options`.
    Each arm has a feature of its own, and by `-q` one for each feature of the context: a
    linear model for each arm. Costs are the losses."""

    def __init__(self, arms: int, features: int, seed: int, options: str) -> None:
        import vowpalwabbit

        crossed = " -q SA" if features else ""
        # All mutable state: what was learned, and of the last choice the shared line and
        # the distribution.
        self._workspace = vowpalwabbit.Workspace(
            f"--cb_explore_adf {options}{crossed} --quiet --random_seed {seed + 1}"
        )
        self._arms = [f"|A arm{number}" for number in range(arms)]
        self._shared: list[str] = []
        self._odds: list[float] = []

    def choose(self, context: Sequence[float] | None, u: float) -> int:
        self._shared = []
        if context is not None:
            values = " ".join(f"x{i}:{value:.9g}" for i, value in enumerate(context))
            self._shared = [f"shared |S {values}"]
        self._odds = self._workspace.predict([*self._shared, *self._arms])
        return min(int(np.searchsorted(np.cumsum(self._odds), u)), len(self._arms) - 1)

    def learn(self, arm: int, loss: float) -> None:
        lines = list(self._arms)
        lines[arm] = f"0:{loss:g}:{self._odds[arm]:.9g} {lines[arm]}"
        self._workspace.learn([*self._shared, *lines])


class MABWiser:
    """A policy of MABWiser, told of each round by `partial_fit`. Rewards are 1 - loss.

    `rehearsal`: each arm is chosen once to begin with, as UCB1 is published: MABWiser's
    takes arms without evidence for worthless and not for unknown. A context gets a 1 behind
    it, an intercept, as Clipper's has."""

    def __init__(self, arms: int, seed: int, policy: Any, rehearsal: bool = False) -> None:
        from mabwiser.mab import MAB

        # All mutable state: what was learned, whether anything was, arms that are due to
        # begin with, and the context of the last choice.
        self._mab = MAB(list(range(arms)), policy, seed=seed)
        self._fitted = False
        self._due = list(range(arms)) if rehearsal else []
        self._arms = arms
        self._rows: list[np.ndarray[Any, Any]] = []

    def choose(self, context: Sequence[float] | None, u: float) -> int:
        self._rows = [] if context is None else [np.array([[*context, 1.0]])]
        if self._due:
            return self._due.pop(0)
        if not self._fitted:
            return int(u * self._arms)
        return int(self._mab.predict(*self._rows))

    def learn(self, arm: int, loss: float) -> None:
        fit = self._mab.partial_fit if self._fitted else self._mab.fit
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a single row
            fit([arm], [1.0 - loss], *self._rows)
        self._fitted = True


def mabwiser_policy(name: str) -> Any:
    """UCB1 and LinUCB with their published width, LinUCB with a ridge of 1, and Thompson
    sampling with a flat prior: the defaults of Clipper's namesakes."""
    from mabwiser.mab import LearningPolicy

    if name == "ucb1":
        return LearningPolicy.UCB1(alpha=1.0)
    if name == "thompson":
        return LearningPolicy.ThompsonSampling()
    return LearningPolicy.LinUCB(alpha=1.0, l2_lambda=1.0)
