"""One model answers everything; nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipper.selection import policy
from clipper.selection.policy import Arm, Observation, SingleChoice, State, model_of


class Static(SingleChoice):
    """The first candidate, or the one that the option ``model`` names."""

    name = "static"
    learns = False
    reroutes = False
    logged = False
    full_information = True  # feedback keeps the score of every candidate

    class Options(policy.Options, frozen=True, forbid_unknown_fields=True):
        model: str | None = None

    def candidates(self, models: Sequence[str]) -> Sequence[str]:
        named: str | None = self.options.model
        return super().candidates(models) if named is None else (named,)

    def init(self) -> State:
        return {}

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        named = self.options.model
        first = next((i for i, arm in enumerate(arms) if model_of(arm).name == named), 0)
        return [float(i == first) for i in range(len(arms))]

    def observe(self, state: State, seen: Observation) -> State:
        return state
