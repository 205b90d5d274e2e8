"""Replay of an exported log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fakes_http import TOKEN, Answer, FakeServer

from clipper import replay
from clipper.cli import main
from clipper.cli.replay import parse_policy, parse_time
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


def test_a_log_can_be_cut_by_time() -> None:
    recording = Recording(after=100.0, before=200.0)
    for number, decided in enumerate((99.0, 100.0, 199.5, 200.0)):
        recording.add_decision(decision(str(number), at=decided + 0.4))
        recording.add_feedback(
            feedback(str(number), 0, number / 4, decided=decided, at=9e9)
        )
    given = feedback("f:1", 0, 1.0, at=150.0)
    recording.add_feedback({**given, "chosen": [], "loss": None})
    assert [record.loss for record in recording.records] == [0.25, 0.5, None]
    assert [record.odds is None for record in recording.records] == [False, False, True]


def test_a_time_of_one_arm_alone_does_not_forbid_the_rest() -> None:
    recording = logged()
    for number in range(500):
        line = feedback(f"early{number}", 0, 1.0, p=1.0)
        recording.add_feedback({**line, "arms": ARMS[:1]})
    [verdict] = recording.judge([PolicySettings("static", {"model": "b"})])
    assert verdict.refused is None and verdict.evaluation is not None
    assert (verdict.evaluation.records, verdict.evaluation.one_arm) == (400, 500)


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-31T18:00Z", 1769882400.0),
        ("2026-01-31T18:00:00.5+01:00", 1769878800.5),
        ("1769882400", 1769882400.0),
        ("0.5", 0.5),
        ("2026-01-31", datetime(2026, 1, 31).timestamp()),  # here
        ("2026-01-31T18:00", datetime(2026, 1, 31, 18).timestamp()),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "nan", "inf", "2026-13-01", "12:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time: give 2026"):
        parse_time(text)


# -- the command -------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Runs `clipper replay shop` over a log of which arm b is the better one."""
    lines: list[Any] = [
        feedback(str(n), n % 2, float(n % 10 < 6 * (1 - n % 2) + n % 2), decided=1000.0 + n,
                 ensemble=False, odds=[0.5, 0.5])
        for n in range(400)
    ]  # fmt: skip
    with FakeServer() as server:
        server.answers["/admin/get_application"] = Answer(
            {"name": "shop", "policy": "exp3"}
        )
        server.answers["/admin/feedback/shop"] = Answer(lines=lines)
        environment = {
            "CLIPPER_PORT": str(server.port),
            "CLIPPER_ADMIN_PORT": str(server.admin_port),
            "CLIPPER_TOKEN": TOKEN,
            "COLUMNS": "80",
        }
        yield lambda *words: CliRunner().invoke(
            main, ["replay", "shop", *words], env=environment
        )


def test_the_command_compares_and_says_what_to_do(run: Callable[..., Result]) -> None:
    result = run("--policy", "static model=b", "--policy", "static model=a")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("400 pieces of feedback\nwhat answered lost 0.")
    assert "static model=b would have been better than what answered.\n" in result.stdout
    assert "clipper policy shop static --option model=b\n" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_command_takes_a_part_of_the_log(run: Callable[..., Result]) -> None:
    result = run(
        "--policy", "static model=b", "--after", "1100", "--before", "1200", "--json"
    )
    found = json.loads(result.stdout)
    assert (found["feedback"], found["after"], found["before"]) == (100, 1100.0, 1200.0)
    assert found["policies"][0]["evaluation"]["records"] == 100
    result = run("--policy", "ucb1", "--after", "2", "--before", "1")
    assert result.exit_code == 2 and "must be earlier" in result.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_the_command_fails_where_all_is_refused(
    run: Callable[..., Result], form: tuple[str, ...]
) -> None:
    result = run("--policy", "hedge", "--policy", "majority", *form)
    assert result.exit_code == 1
    assert "the log does not" in result.stdout
    assert run("--policy", "hedge", "--policy", "static model=b", *form).exit_code == 0


@pytest.mark.parametrize("text", ["hedge eta", "hedge =1"])
def test_an_option_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="KEY=VALUE"):
        parse_policy(text)
