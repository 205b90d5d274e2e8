"""A stream on which the losses of all arms are linear in the context, with noise."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt

from clipper.selection.policy import Observation, SingleChoice

ARMS = ("a:1#1", "b:1#2", "c:1#3", "d:1#4")
FEATURES = 4


def regret(
    policy: SingleChoice | None, seed: int, *, turns: int = 2000, drift: bool = False
) -> npt.NDArray[np.float64]:
    """The sum of expected losses above the best arm's at each context, after each query;
    for None that of choosing uniformly. With `drift` the arms change places half-way."""
    rng, chance = np.random.default_rng(seed), Random(seed)
    theta = rng.normal(size=(len(ARMS), FEATURES)) * 0.15
    total, curve = 0.0, np.empty(turns)
    state = policy.init() if policy else None
    for turn in range(turns):
        if drift and turn == turns // 2:
            theta = -theta
        context = rng.normal(size=FEATURES).tolist()
        means = np.clip(0.5 + theta @ context, 0, 1)
        drawn = rng.random(len(ARMS))
        if policy is None:
            total += means.mean() - means.min()
        else:
            features = policy.features(context)
            odds = policy.probabilities(state, ARMS, features)
            index = chance.choices(range(len(ARMS)), odds)[0]
            loss = float(drawn[index] < means[index])
            arm = ARMS[index]
            state = policy.observe(
                state, Observation(ARMS, {arm: loss}, (arm,), odds[index], loss, features)
            )
            total += means[index] - means.min()
        curve[turn] = total
    return curve
