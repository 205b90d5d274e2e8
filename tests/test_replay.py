"""Replay of an exported log."""

from __future__ import annotations

from random import Random
from typing import Any

import click
import pytest

from clipper import replay
from clipper.cli.replay import parse_policy
from clipper.errors import InvalidInput
from clipper.records import PolicySettings
from clipper.replay import Recording, best

ARMS = ["a:1#1", "b:1#2"]


def feedback(key: str, chosen: int, loss: float, p: float = 0.5, **more: Any) -> dict:  # type: ignore[type-arg]
    return {
        "seq": 1,
        "at": 1.7e9,
        "uid": None,
        "key": key,
        "kind": "feedback",
        "arms": ARMS,
        "chosen": [ARMS[chosen]],
        "propensity": p,
        "loss": loss,
        "losses": {ARMS[chosen]: loss},
        **more,
    }


def decision(key: str, ensemble: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "key": key,
        "ensemble": ensemble,
        "odds": [0.5, 0.5],
        "kind": "decision",
        **more,
    }


def logged(count: int = 400) -> Recording:
    """Arm a loses 4 times in 10, arm b once; each is chosen half of the time."""
    recording, rng = Recording(), Random(1)
    for number in range(count):
        chosen = rng.randrange(2)
        loss = float(rng.random() < (0.4, 0.1)[chosen])
        recording.add_decision(decision(str(number)))
        recording.add_feedback(feedback(str(number), chosen, loss))
    return recording


def test_policies_are_judged_and_the_best_is_named() -> None:
    policies = [
        PolicySettings("static", {"model": "a"}),
        PolicySettings("static", {"model": "b"}),
    ]
    told: list[str] = []
    verdicts = logged().judge(policies, tell=lambda settings: told.append(settings.name))
    assert told == ["static", "static"]
    losses = [v.evaluation.dr.mean for v in verdicts if v.evaluation and v.evaluation.dr]
    assert losses == pytest.approx([0.4, 0.1], abs=0.06)
    assert best(verdicts) is verdicts[1]


def test_what_the_log_cannot_support_is_a_verdict_too() -> None:
    [verdict] = logged().judge([PolicySettings("hedge")], logged_by="epsilon_greedy")
    assert verdict.evaluation is None
    assert (
        verdict.refused is not None and "does not hold the losses of all" in verdict.refused
    )
    assert best([verdict]) is None


def test_a_policy_that_there_is_not_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="policy must be one of"):
        logged(10).judge([PolicySettings("best")])


def test_decisions_bring_odds_and_outputs() -> None:
    recording = Recording()
    recording.add_decision(decision("1", outputs={ARMS[0]: 3}))
    recording.add_decision(decision("2", ensemble=True, outputs={ARMS[0]: 3, ARMS[1]: 4}))
    for key in ("1", "2", "3"):
        recording.add_feedback(feedback(key, 0, 0.0, context=[1.0], uid="alice"))
    recording.add_feedback({"seq": 9, "kind": "policy", "generation": 2, "settings": {}})
    single, ensemble, alone = recording.records
    assert single.odds == (0.5, 0.5) and single.outputs == {ARMS[0]: 3}
    assert ensemble.odds is None and ensemble.outputs == {ARMS[0]: 3, ARMS[1]: 4}
    assert alone.odds is None and alone.outputs is None
    assert (alone.uid, alone.context) == ("alice", [1.0])


def test_it_holds_the_newest_of_a_log_that_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "MOST_RECORDS", 50)
    recording = Recording()
    for number in range(500):
        recording.add_feedback(feedback(str(number), 0, number / 500))
    assert len(recording) <= 55
    assert recording.records[-1].loss == 499 / 500


def test_a_line_that_makes_no_sense_is_told() -> None:
    with pytest.raises(InvalidInput, match="a line of the log makes no sense"):
        Recording().add_feedback({"kind": "feedback", "arms": 3})


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("hedge", {}),
        ("hedge eta=0.1 share=0", {"eta": 0.1, "share": 0}),
        ("static model=forest", {"model": "forest"}),
        ('static  arms=["a:1","b:2"]', {"arms": ["a:1", "b:2"]}),
    ],
)
def test_a_policy_in_one_line(text: str, options: dict[str, Any]) -> None:
    assert parse_policy(text) == PolicySettings(text.split()[0], options)


@pytest.mark.parametrize("text", ["hedge eta", "hedge =1"])
def test_an_option_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="KEY=VALUE"):
        parse_policy(text)
