"""A candidate that never answers: it is asked after the answer, and compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipper.selection import policy
from clipper.selection.policy import Arm, Observation, SingleChoice, State


class Shadow(SingleChoice):
    """The first candidate answers. The others are asked after it, at low priority, for a
    `share` of the queries; how often they agree, fail, and how long they take is counted.
    """

    name = "shadow"
    learns = False
    full_information = True
    reroutes = False

    class Options(policy.Options, frozen=True, forbid_unknown_fields=True):
        share: float = 1.0

        def __post_init__(self) -> None:
            if not 0 < self.share <= 1:
                raise ValueError("share must lie above 0 and be at most 1")

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.shadow_share = self.options.share

    def init(self) -> State:
        return {}

    def observe(self, state: State, seen: Observation) -> State:
        return state

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        return [1.0] + [0.0] * (len(arms) - 1)

    def shadows(self, arms: Sequence[Arm]) -> Sequence[Arm]:
        return arms[1:]
