"""How an ensemble's outputs become one answer, by policy and loss."""

from __future__ import annotations

from clipper.errors import InvalidInput
from clipper.selection.blend import LinearPool, Mean, Median, Pool
from clipper.selection.losses import Loss
from clipper.selection.policy import Ensemble
from clipper.selection.vote import Combined, Combiner, Sample, Vote

__all__ = ["CHOICES", "Combined", "Combiner", "check_choice", "make_combiner"]

CHOICES = ("auto", "vote", "mean", "median")
_AUTO = {"zero_one": "vote", "absolute": "median", "squared": "mean", "log": "mean"}


def check_choice(choice: str) -> None:
    """Raises ValueError for what is no option `combine`."""
    if choice not in CHOICES:
        raise ValueError(f"combine must be one of {', '.join(CHOICES)}, got {choice!r:.60}")


def make_combiner(policy: Ensemble, loss: Loss) -> Combiner:
    """How this policy's outputs are combined in an application of this loss.

    A policy whose combination is "vote" may have an option `combine`: "vote", "mean",
    "median" or "auto", which is what has the least loss: a vote, the median under an
    absolute loss, the mean under a squared one, the mean of the probabilities under the
    log loss. Raises InvalidInput for what does not go together.
    """
    if policy.combination == "sample":
        return Sample(policy.exploration)
    if policy.combination == "pool":
        if loss.name != "log":  # under which outputs that are no probabilities are refused
            raise InvalidInput(
                f"policy {policy.name} multiplies probabilities and learns from these "
                f"alone: register the application with loss log, not {loss.name}"
            )
        return Pool()
    if policy.combination != "vote":
        raise InvalidInput(f"an ensemble cannot combine by {policy.combination!r:.60}")
    choice = getattr(policy.options, "combine", "auto")
    try:
        check_choice(choice)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if choice == "auto":
        choice = _AUTO[loss.name]
    if choice == "vote":
        return Vote()
    if loss.name != "log":
        return Mean(loss) if choice == "mean" else Median(loss)
    if choice == "median":
        raise InvalidInput("combine median does not go with loss log")
    return LinearPool()
