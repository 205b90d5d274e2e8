"""The direct model of off-policy evaluation: what loss each arm has at a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipper.selection.policy import Arm
from clipper.selection.ridge import LARGEST, MOST_FEATURES, Ridge, Vector

# What an arm is taken to lose before anything is known of it.
_PRIOR = 0.5


class DirectModel:
    """Ridge regression of the losses of each arm on contexts of `width` numbers; with 0,
    and where a context is something else, on the intercept alone: a running mean."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._ridge = Ridge(width + 1)
        self._state = self._ridge.init()  # all mutable state

    def predict(self, arms: Sequence[Arm], context: Any) -> list[float]:
        """The expected losses, in [0, 1]."""
        means = self._ridge.means(self._state, arms, self._point(context))
        return [min(max(_PRIOR + mean, 0.0), 1.0) for mean in means]

    def learn(self, losses: Mapping[Arm, float], context: Any, arms: Sequence[Arm]) -> None:
        targets = {arm: loss - _PRIOR for arm, loss in losses.items()}
        self._state = self._ridge.learn(self._state, self._point(context), targets, arms)

    def _point(self, context: Any) -> Vector:
        x = np.zeros(self._width + 1)
        x[-1] = 1.0
        if self._width and width_of(context) == self._width:
            x[:-1] = context
        return x


def width_of(context: Any) -> int:
    """How many numbers a context holds; 0 for one that is no list of numbers, or of too
    many or too large ones."""
    if not isinstance(context, list | tuple) or len(context) > MOST_FEATURES:
        return 0
    fine = all(
        isinstance(value, int | float) and -LARGEST <= value <= LARGEST for value in context
    )
    return len(context) if fine else 0
