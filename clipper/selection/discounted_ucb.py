"""Upper confidence bounds on what happened lately: for arms that get better or worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log, sqrt
from typing import Any

from clipper.selection.policy import (
    Arm,
    Observation,
    PersonalOptions,
    SingleChoice,
    State,
    Total,
)
from clipper.selection.totals import Totals, add, begin, favour, shrink


class DiscountedUCBOptions(PersonalOptions, frozen=True, forbid_unknown_fields=True):
    """`discount` is the weight that past evidence keeps at each observation: 0.999
    remembers about the last 1,000. `exploration` is xi in the padding. `epsilon` is a
    share of queries that go to all arms evenly, so that logs can be replayed."""

    discount: float = 0.999
    exploration: float = 0.05
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.discount <= 1:
            raise ValueError("discount must be above 0 and at most 1")
        if not 0 <= self.exploration <= 1e6:
            raise ValueError("exploration must lie between 0 and 1000000")
        if not 0 <= self.epsilon <= 1:
            raise ValueError("epsilon must lie between 0 and 1")


class DiscountedUCB(SingleChoice):
    """Discounted UCB of Garivier and Moulines, "On upper-confidence bound policies for
    switching bandit problems", ALT 2011, section 2, on rewards 1 - loss in [0, 1]:
    mean + 2 sqrt(xi ln n / N), where N is the discounted count of an arm and n of all.
    Every observation discounts all arms, also those it says nothing of.

    Arms without evidence, or whose evidence has faded away, come first. Ties share.
    """

    name = "discounted_ucb"
    Options = DiscountedUCBOptions
    options: DiscountedUCBOptions
    full_information = True

    def init(self) -> State:
        return {"totals": {}}

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        table: Totals = state["totals"]
        known = [table.get(arm) for arm in arms]
        weight = sum([total[0] for total in known if total])
        width = 2.0 * sqrt(self.options.exploration * log(weight)) if weight > 1.0 else 0.0
        scores = [
            width / sqrt(total[0]) - total[1] / total[0] if total else inf
            for total in known
        ]
        return favour(scores, self.options.epsilon)

    def observe(self, state: State, seen: Observation) -> State:
        add(state["totals"], seen, self.options.discount)
        return state

    def blend(self, population: State, own: State) -> State:
        prior = self.options.prior
        return {"totals": shrink(population["totals"], own["totals"], prior)}

    def begin(self, totals: Mapping[Arm, Total]) -> State:
        return begin(totals, self.options.discount)
