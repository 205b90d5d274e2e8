"""A logarithmic opinion pool whose exponents are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from clipper.selection import policy
from clipper.selection.blend import POOL_FLOOR, Matrix, align, log_pool
from clipper.selection.losses import Classes, Distribution, distribution, index_of
from clipper.selection.policy import Arm, Ensemble, Observation, State
from clipper.selection.totals import prune

# No member counts for more than so many copies of itself.
MOST = 4.0


class LogPoolOptions(policy.Options, frozen=True, forbid_unknown_fields=True):
    """`lr` is the learning rate."""

    lr: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.lr <= 1:
            raise ValueError("lr must be above 0 and at most 1")


class LogPool(Ensemble):
    """For members that answer with probabilities: those of the ensemble are proportional
    to the product of theirs, each to the power of its exponent (Genest and Zidek,
    "Combining probability distributions", 1986).

    The exponents follow the gradient of the log loss of the pooled probabilities, which is
    convex in them, and stay in [0, MOST] (online gradient descent, Zinkevich 2003). They
    start at 1 / N each and need not sum to 1: members that know different things may count
    for more together than any of them alone. A member whose output is no distribution over
    the classes of the others is left out of the update. It goes with the loss `log` alone.
    """

    name = "log_pool"
    Options: ClassVar[type[policy.Options]] = LogPoolOptions
    options: LogPoolOptions
    combination = "pool"
    needs_outputs = True

    def init(self) -> State:
        return {"exponents": {}}

    def weights(self, state: State, arms: Sequence[Arm]) -> Sequence[float]:
        table = state["exponents"]
        known = [table[arm] for arm in arms if arm in table]
        new = sum(known) / len(known) if known else 1.0 / len(arms)
        return [table.get(arm, new) for arm in arms]

    def observe(self, state: State, seen: Observation) -> State:
        if seen.outputs is None:
            return state
        arms, table = seen.arms, state["exponents"]
        found = {
            arm: distribution(seen.outputs[arm]) for arm in arms if arm in seen.outputs
        }
        members, matrix, label = _comparable(found, seen.label)
        if matrix is None:
            return state
        exponents = dict(zip(arms, self.weights(state, arms), strict=True))
        w = np.array([exponents[arm] for arm in members])
        total = w.sum()
        # as they counted in the answer: those present take over from those that are not
        scale = sum(exponents.values()) / total if total else 1.0
        logs = np.log(np.maximum(matrix, POOL_FLOOR))
        gradient = logs @ log_pool(logs, scale * w) - logs[:, label]
        stepped = np.clip(w - self.options.lr * gradient, 0.0, MOST)
        exponents.update(zip(members, stepped.tolist(), strict=True))
        for arm in arms:
            table.pop(arm, None)
            table[arm] = exponents[arm]
        prune(table, arms)
        return state


def _comparable(
    found: dict[Arm, Distribution | None], label: Any
) -> tuple[list[Arm], Matrix | None, int]:
    """The largest group of members that tell of the same classes, the label among them,
    with their probabilities and where the label stands; None for these if there is none."""
    groups: dict[Any, list[Arm]] = {}
    for arm, one in found.items():
        if one is not None and index_of(label, one.classes) is not None:
            groups.setdefault(_key(one.classes), []).append(arm)
    if not groups:
        return [], None, 0
    members = max(groups.values(), key=len)
    chosen = [found[arm] for arm in members]
    first = chosen[0]
    assert first is not None
    index = index_of(label, first.classes)
    assert index is not None
    return members, align(chosen), index


def _key(classes: Classes) -> Any:
    return frozenset(classes) if isinstance(classes, tuple) else classes
