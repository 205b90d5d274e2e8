"""Upper confidence bounds on what happened lately: for arms that get better or worse."""

from __future__ import annotations

from math import log, sqrt

from clipper.selection.ucb1 import UCB1, UCB1Options


class DiscountedUCBOptions(UCB1Options, frozen=True, forbid_unknown_fields=True):
    """`discount` is the weight that past evidence keeps at each observation: 0.999
    remembers about the last 1,000. `exploration` is xi in the padding."""

    discount: float = 0.999
    exploration: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.discount <= 1:
            raise ValueError("discount must be above 0 and at most 1")


class DiscountedUCB(UCB1):
    """Discounted UCB of Garivier and Moulines, "On upper-confidence bound policies for
    switching bandit problems", ALT 2011, section 2, on rewards 1 - loss in [0, 1]:
    mean + 2 sqrt(xi ln n / N), where N is the discounted count of an arm and n of all.
    Every observation discounts all arms, also those it says nothing of.

    Arms without evidence, or whose evidence has faded away, come first. Ties share.
    """

    name = "discounted_ucb"
    Options = DiscountedUCBOptions
    options: DiscountedUCBOptions

    @property
    def discount(self) -> float:
        return self.options.discount

    def padding(self, rounds: float) -> float:
        return 2.0 * sqrt(self.options.exploration * log(rounds))
