from __future__ import annotations

import pytest

from clipper.errors import InvalidInput
from clipper.selection.blend import LinearPool, Mean, Median, Pool
from clipper.selection.combine import CHOICES, make_combiner
from clipper.selection.exp4 import Exp4, Exp4Options
from clipper.selection.hedge import Hedge, HedgeOptions
from clipper.selection.log_pool import LogPool
from clipper.selection.losses import make_loss
from clipper.selection.majority import Majority, MajorityOptions
from clipper.selection.vote import Combiner, Sample, Vote

LOSSES = ["zero_one", "absolute(2)", "squared(2)", "log"]


@pytest.mark.parametrize(
    ("loss", "kind"), list(zip(LOSSES, [Vote, Median, Mean, LinearPool], strict=True))
)
def test_by_default_the_loss_says_how(loss: str, kind: type[Combiner]) -> None:
    assert type(make_combiner(Hedge(), make_loss(loss))) is kind
    assert type(make_combiner(Majority(), make_loss(loss))) is kind


@pytest.mark.parametrize(
    ("choice", "loss", "kind"),
    [
        ("vote", "squared", Vote),
        ("mean", "zero_one", Mean),
        ("median", "squared", Median),
        ("mean", "log", LinearPool),
        ("vote", "log", Vote),
    ],
)
def test_the_option_says_otherwise(choice: str, loss: str, kind: type[Combiner]) -> None:
    policy = Majority(MajorityOptions(combine=choice))
    assert type(make_combiner(policy, make_loss(loss))) is kind
    policy_that_learns = Hedge(HedgeOptions(combine=choice))
    assert type(make_combiner(policy_that_learns, make_loss(loss))) is kind


@pytest.mark.parametrize("loss", LOSSES)
def test_a_policy_may_have_a_way_of_its_own(loss: str) -> None:
    sample = make_combiner(Exp4(Exp4Options(gamma=0.3)), make_loss(loss))
    assert isinstance(sample, Sample) and sample.exploration == 0.3


def test_probabilities_are_pooled_under_the_log_loss_alone() -> None:
    assert type(make_combiner(LogPool(), make_loss("log"))) is Pool
    for loss in LOSSES:
        if loss != "log":
            with pytest.raises(InvalidInput, match=r"log_pool .* with loss log, not "):
                make_combiner(LogPool(), make_loss(loss))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InvalidInput, match="median does not go with loss log"):
        make_combiner(Hedge(HedgeOptions(combine="median")), make_loss("log"))


def test_a_policy_of_ones_own_is_told_its_mistakes() -> None:
    class Odd(Majority):
        combination = "guess"

    with pytest.raises(InvalidInput, match="guess"):
        make_combiner(Odd(), make_loss("zero_one"))


@pytest.mark.parametrize("options", [HedgeOptions, MajorityOptions])
def test_there_is_no_other_choice(options: type[HedgeOptions | MajorityOptions]) -> None:
    for choice in CHOICES:
        options(combine=choice)
    with pytest.raises(ValueError, match="combine must be one of"):
        options(combine="sum")
