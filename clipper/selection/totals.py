"""What policies that go by the mean loss of each arm share: counts and sums by arm."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from clipper.selection.policy import (
    MOST_ARMS,
    MOST_LEFT,
    Arm,
    Observation,
    Total,
    model_of,
)

# Arm to [count, sum of losses]; the arm that was longest without feedback comes first.
Totals: TypeAlias = dict[Arm, list[float]]

# Evidence of less than this many observations is as good as none.
LEAST_COUNT = 1e-9


def known_losses(seen: Observation) -> Mapping[Arm, float]:
    """The losses that feedback told, under a single choice also by the answer's alone."""
    if seen.losses or seen.loss is None or len(seen.chosen) != 1:
        return seen.losses
    return {seen.chosen[0]: seen.loss}


def add(totals: Totals, seen: Observation, discount: float = 1.0) -> None:
    """Count every loss that is known, after the evidence of all arms has lost weight by
    the factor `discount`."""
    if discount < 1.0:
        for total in totals.values():
            total[0] *= discount
            total[1] *= discount
        for arm in [arm for arm, (count, _) in totals.items() if count < LEAST_COUNT]:
            del totals[arm]
    for arm, loss in known_losses(seen).items():
        count, before = totals.pop(arm, (0.0, 0.0))
        totals[arm] = [count + 1.0, before + loss]
    prune(totals, seen.arms)


def prune(table: dict[Arm, Any], arms: Collection[Arm]) -> None:
    """Drop arms from a table that are too many beside those in use."""
    if len(table) > len(arms) + MOST_LEFT:
        for arm in superfluous(table, arms):
            del table[arm]


def superfluous(
    table: Collection[Arm], arms: Collection[Arm], most: int = MOST_ARMS
) -> list[Arm]:
    """Those of a table's arms, oldest first, that are too many beside the `arms` in use:
    other versions of their models beyond MOST_LEFT, and of all beyond `most`."""
    models = {model_of(arm).name for arm in arms}
    left = [arm for arm in table if arm not in arms]
    replaced = [arm for arm in left if model_of(arm).name in models]
    gone = replaced[: max(0, len(replaced) - MOST_LEFT)]
    surplus = len(table) - len(gone) - most
    if surplus > 0:
        gone += [arm for arm in left if arm not in gone][:surplus]
    return gone


def shrink(population: Totals, own: Totals, prior: float) -> Totals:
    """A user's own totals, and of each arm at most `prior` observations of the
    population's at its mean. A user without evidence is one of the population."""
    if not own:
        return population
    mixed = {arm: [*total] for arm, total in own.items()}
    for arm, (count, loss) in population.items():
        if count > 0.0 and prior > 0.0:
            share = min(1.0, prior / count)
            mine = mixed.setdefault(arm, [0.0, 0.0])
            mine[0] += share * count
            mine[1] += share * loss
    return mixed


def begin(totals: Mapping[Arm, Total], discount: float = 1.0) -> Totals:
    """Totals to start from. Under a discount they weigh together at most what discounted
    totals can ever weigh."""
    known = {arm: total for arm, total in totals.items() if total.count > LEAST_COUNT}
    weight = sum(total.count for total in known.values())
    share = 1.0
    if discount < 1.0 and weight * (1.0 - discount) > 1.0:
        share = 1.0 / (weight * (1.0 - discount))
    table = {arm: [share * total.count, share * total.loss] for arm, total in known.items()}
    prune(table, ())
    return table


def favour(scores: Sequence[float], epsilon: float) -> list[float]:
    """Probabilities: the arms of the highest score share 1 - epsilon, all share epsilon."""
    best = max(scores)
    low = epsilon / len(scores)
    high = low + (1.0 - epsilon) / scores.count(best)
    return [high if score == best else low for score in scores]
