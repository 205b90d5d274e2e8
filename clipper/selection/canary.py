"""A new version on a part of the traffic, taken out by itself if it does worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clipper.selection import policy
from clipper.selection.policy import (
    Arm,
    Observation,
    Score,
    SingleChoice,
    State,
    Verdict,
    model_of,
)

# One-sided 99 %: how sure a guard must be.
_Z = 2.326

# Fewer queries or losses than this tell nothing.
_LEAST = 10


class Canary(SingleChoice):
    """Versions share the traffic by fixed weights; a user stays with a version, and where
    weights change few users move (clipper.selection.draw.Seats).

    Three guards watch every version but the stable one, each against the stable one, and
    each only once it is 99 % sure: `max_failures`, by how much its share of failed queries
    may be higher; `max_latency`, how many times the 95th percentile of its latency may be
    as long (after `least` queries); `max_loss`, by how much its mean loss under feedback
    may be higher. A guard of null is off. A version that is taken out stays out until the
    policy is set anew.
    """

    name = "canary"
    learns = False
    full_information = True  # feedback without a decision keeps the score as well
    sticky = True
    guards = True

    class Options(policy.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """`weights` by model:version; `stable` is one of them, by default the heaviest."""

        weights: dict[str, float]
        stable: str | None = None
        max_failures: float | None = 0.02
        max_latency: float | None = 2.0
        max_loss: float | None = 0.05
        least: int = 100

        def __post_init__(self) -> None:
            if self.arms is not None:
                raise ValueError("canary names its arms in weights")
            weights = self.weights.values()
            if not weights or not all(0 <= w < math.inf for w in weights):
                raise ValueError("weights must not be negative, and there must be some")
            if not sum(weights) > 0:
                raise ValueError("one of the weights must be above 0")
            if self.stable is not None and self.stable not in self.weights:
                raise ValueError(f"stable must be one of {', '.join(self.weights)}")
            limits = (self.max_failures, self.max_latency, self.max_loss)
            if any(limit is not None and not 0 <= limit < math.inf for limit in limits):
                raise ValueError("a guard's limit must not be negative")
            if self.least < _LEAST:
                raise ValueError(f"least must be at least {_LEAST}")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        weights: dict[str, float] = self.options.weights
        self._stable = self.options.stable or max(weights, key=weights.__getitem__)

    def candidates(self, models: Sequence[str]) -> Sequence[str]:
        # the stable one first: everything else is compared with it
        others = [name for name in self.options.weights if name != self._stable]
        return (self._stable, *others)

    def init(self) -> State:
        return {}

    def observe(self, state: State, seen: Observation) -> State:
        return state

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        weights = [self._weight(arm) for arm in arms]
        total = sum(weights)
        if not total:  # only those are there that should get nothing
            return [1.0 / len(arms)] * len(arms)
        return [weight / total for weight in weights]

    def _weight(self, arm: Arm) -> float:
        weights: dict[str, float] = self.options.weights
        return weights.get(self.seat(arm), 0.0)

    def seat(self, arm: Arm) -> str:
        # users of a model that is named without a version keep to it over its versions
        version = str(model_of(arm))
        return version if version in self.options.weights else model_of(arm).name

    def _is_stable(self, arm: Arm) -> bool:
        return self._stable in (str(model_of(arm)), model_of(arm).name)

    def judge(self, scores: Mapping[Arm, Score]) -> Verdict | None:
        stable = next((s for arm, s in scores.items() if self._is_stable(arm)), None)
        if stable is None:
            return None
        for arm, score in scores.items():
            if self._is_stable(arm):
                continue
            reason = (
                self._fails(score, stable)
                or self._slow(score, stable)
                or self._wrong(score, stable)
            )
            if reason is not None:
                return Verdict(arm, reason)
        return None

    def _fails(self, score: Score, stable: Score) -> str | None:
        limit = self.options.max_failures
        if limit is None or score.queries < _LEAST:
            return None
        base = wilson(stable.failures, stable.queries)[1] if stable.queries else 0.0
        low = wilson(score.failures, score.queries)[0]
        if low <= base + limit:
            return None
        return (
            f"it failed {score.failures} of {score.queries} queries, the stable version "
            f"{stable.failures} of {stable.queries}"
        )

    def _slow(self, score: Score, stable: Score) -> str | None:
        limit = self.options.max_latency
        least = self.options.least
        if limit is None or min(score.queries, stable.queries) < least:
            return None
        if score.latency is None or stable.latency is None:
            return None
        if score.latency <= limit * stable.latency:
            return None
        return (
            f"the 95th percentile of its latency is {score.latency * 1e3:.3g} ms, the "
            f"stable version's {stable.latency * 1e3:.3g} ms"
        )

    def _wrong(self, score: Score, stable: Score) -> str | None:
        limit = self.options.max_loss
        mine, theirs = score.total, stable.total
        if limit is None or min(mine.count, theirs.count) < _LEAST:
            return None
        # losses lie in [0, 1]: none varies more than one that is 0 or 1
        low = wilson(mine.loss, mine.count)[0]
        high = wilson(theirs.loss, theirs.count)[1]
        if low <= high + limit:
            return None
        return (
            f"its mean loss is {mine.loss / mine.count:.3f} over {mine.count:.0f} pieces "
            f"of feedback, the stable version's {theirs.loss / theirs.count:.3f}"
        )


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), one-sided 99 % on either side."""
    p, z2 = successes / trials, _Z * _Z
    centre = p + z2 / (2 * trials)
    spread = _Z * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials))
    return (centre - spread) / (1 + z2 / trials), (centre + spread) / (1 + z2 / trials)
