"""Every member counts the same; nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from clipper.selection import policy
from clipper.selection.combine import check_choice
from clipper.selection.policy import Arm, Ensemble, Observation, State


class MajorityOptions(policy.Options, frozen=True, forbid_unknown_fields=True):
    """`combine` is "vote", "mean", "median", or "auto", which is what suits the
    application's loss."""

    combine: str = "auto"

    def __post_init__(self) -> None:
        check_choice(self.combine)


class Majority(Ensemble):
    name = "majority"
    Options: ClassVar[type[policy.Options]] = MajorityOptions
    learns = False

    def init(self) -> State:
        return {}

    def observe(self, state: State, seen: Observation) -> State:
        return state

    def weights(self, state: State, arms: Sequence[Arm]) -> Sequence[float]:
        return [1.0 / len(arms)] * len(arms)
