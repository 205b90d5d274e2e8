"""Logs of decisions whose truth is known, and policies that never learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from clipper.selection.logged import LoggedDecision
from clipper.selection.policy import Arm, Observation, SingleChoice, State

ARMS = ("a:1#1", "b:1#2", "c:2#3")


class Fixed(SingleChoice):
    """The same probabilities for ever, by arm."""

    name = "fixed"
    learns = False

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self._shares = dict(zip(ARMS, shares, strict=True))

    def init(self) -> State:
        return {}

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        return [self._shares.get(arm, 0.0) for arm in arms]

    def observe(self, state: State, seen: Observation) -> State:
        return state


class Watching(Fixed):
    """Remembers, in its state, what it was told."""

    learns = True
    needs_outputs: ClassVar[bool] = True

    def init(self) -> State:
        return []

    def observe(self, state: State, seen: Observation) -> State:
        self.state = [*state, seen]
        return self.state


def log(
    seed: int,
    n: int,
    *,
    odds: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    means: Sequence[float] = (0.2, 0.5, 0.8),
    contextual: float = 0.0,
    features: int = 3,
) -> list[LoggedDecision]:
    """Decisions by fixed odds that know all losses. With `contextual` the mean of an arm
    moves by so much with a feature of its own, of either sign."""
    rng = np.random.default_rng(seed)
    contexts = rng.choice([-1.0, 1.0], size=(n, features))
    chosen = rng.choice(len(ARMS), size=n, p=odds)
    drawn = rng.random((n, len(ARMS)))
    records = []
    for context, index, luck in zip(contexts, chosen.tolist(), drawn, strict=True):
        moved = [mean + contextual * context[i] for i, mean in enumerate(means)]
        losses = {arm: float(luck[i] < moved[i]) for i, arm in enumerate(ARMS)}
        arm = ARMS[index]
        records.append(
            LoggedDecision(
                ARMS,
                (arm,),
                odds[index],
                losses[arm],
                context=context.tolist(),
                odds=odds,
                losses=losses,
            )
        )
    return records


def chosen_only(records: Sequence[LoggedDecision]) -> list[LoggedDecision]:
    """The same log as it is where only the answers' losses are known."""
    return [record._replace(losses={}) for record in records]
