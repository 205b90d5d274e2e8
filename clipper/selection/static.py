"""One named model answers everything; nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from clipper.selection.policy import Decision, Subject
from clipper.values import ModelId


class Static:
    """The first candidate, or the one that the option ``model`` names.

    Its state is the decision itself, made once for the arms there are.
    """

    fixed = True

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    def init(self, arms: Sequence[ModelId]) -> Decision | None:
        for arm in arms:
            if self._model is None or arm.name == self._model:
                return Decision((arm,), (1.0,))
        return None

    def select(
        self, state: Decision | None, subject: Subject, rng: Random
    ) -> Decision | None:
        return state

    def observe(
        self,
        state: Decision | None,
        decision: Decision,
        losses: Mapping[ModelId, float],
    ) -> Decision | None:
        return state
