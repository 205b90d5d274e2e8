"""A decision as replay reads it from a log, with its feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipper.errors import InvalidInput
from clipper.selection.policy import Arm


class LoggedDecision(NamedTuple):
    """One query and what became of it.

    `chosen` are the arms whose output was the answer (see policy.Observation), chosen with
    `propensity` from `arms`; empty where nothing was chosen (feedback by input). `odds`
    are the probabilities of all `arms` under a single choice, where they are known. `loss`
    is the answer's, None without feedback. `losses` holds those that are known beside it.
    `context` is as it came with the query, or what a policy made of that. `outputs` are
    parsed.
    """

    arms: tuple[Arm, ...]
    chosen: tuple[Arm, ...] = ()
    propensity: float = 1.0
    loss: float | None = None
    uid: str | None = None
    context: Any = None
    odds: Sequence[float] | None = None
    losses: Mapping[Arm, float] = {}
    outputs: Mapping[Arm, Any] | None = None
    label: Any = None

    def tells(self, arms: Sequence[Arm]) -> bool:
        """Whether the losses of `arms` are known, whichever was chosen."""
        losses = self.losses
        whole = len(losses) > 1 or len(losses) == len(self.arms)  # more than the choice's
        return whole and all(arm in losses for arm in arms)

    @property
    def decided(self) -> bool:
        """Whether there was a choice, and feedback on it."""
        return bool(self.chosen) and self.loss is not None

    @property
    def known(self) -> Mapping[Arm, float]:
        """Every loss that is known."""
        if self.loss is None or len(self.chosen) != 1 or self.chosen[0] in self.losses:
            return self.losses
        return {**self.losses, self.chosen[0]: self.loss}

    def possible(self) -> Sequence[Arm]:
        """The arms that could have been the answer's, as far as the log tells."""
        if self.odds is not None:
            return [arm for arm, p in zip(self.arms, self.odds, strict=True) if p > 0]
        return self.chosen if self.propensity >= 1 else self.arms

    @property
    def certain(self) -> bool:
        """Whether nothing else could have been answered, as far as the log tells."""
        if self.odds is not None:
            return sum(p > 0 for p in self.odds) < 2
        return self.propensity >= 1 or len(self.arms) < 2

    def check(self, place: str) -> None:
        """Raises InvalidInput, with the place, for what no decision can be."""
        if not self.arms:
            raise InvalidInput(f"{place} names no arms")
        if not set(self.chosen) <= set(self.arms):
            raise InvalidInput(f"{place} chose an arm that there was not")
        if not 0 < self.propensity <= 1:
            raise InvalidInput(
                f"the propensity of {place} must be above 0 and at most 1,"
                f" got {self.propensity}"
            )
        for loss in (self.loss, *self.losses.values()):
            if loss is not None and not 0 <= loss <= 1:
                raise InvalidInput(f"losses of {place} must lie in [0, 1], got {loss}")
        if self.odds is not None and len(self.odds) != len(self.arms):
            raise InvalidInput(
                f"{place} has odds of {len(self.odds)} arms, but {len(self.arms)} arms"
            )
