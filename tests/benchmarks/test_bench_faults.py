"""The fault benchmark: its rules by themselves, and each part once, in its short form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.checked_load import Asked, Seen
from benchmarks.faults_operations import Change, Timeline
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import LogWatch
from benchmarks.faults_server_kills import _entries
from benchmarks.faults_soak import Sample, judge_memory, judge_rest, slope
from benchmarks.process import ROOT
from benchmarks.soak_load import Mix
from clipper.learning import events
from clipper.selection.policy import Arm


def make_run(tmp_path: Path, *, long: bool = True) -> FaultRun:
    return FaultRun(tmp_path, {}, long, seed=1)


def asked(number: int, output: float | None, kind: str = "model") -> Asked:
    return Asked(number, 10.0, 10.0, 10.5, kind, output, "" if kind == "model" else "why")


# -- rules -------------------------------------------------------------------------------


def test_a_wrong_answer_is_a_failure_as_is_none() -> None:
    seen = Seen(0.0, 0.0, [asked(1, 1.0), asked(2, 1.0), asked(3, None, "refused 503")])
    failures = seen.failures(lambda each: each.output == each.number)
    assert failures == {"wrong": 1, "refused 503: why": 1}


def test_who_was_live_while_a_request_was_under_way() -> None:
    timeline = Timeline(
        [
            Change(0.0, 0.0, frozenset({1})),
            Change(10.0, 12.0, frozenset({2})),
            Change(20.0, 21.0, frozenset({3})),
        ]
    )
    assert timeline.live(5.0, 6.0) == {1}
    assert timeline.live(5.0, 10.0) == {1, 2}
    assert timeline.live(12.0, 13.0) == {1, 2}
    assert timeline.live(12.1, 13.0) == {2}
    assert timeline.live(9.0, 30.0) == {1, 2, 3}


@pytest.mark.parametrize(
    ("output", "right"),
    [(1_000_007.0, True), (2_000_007.0, True), (3_000_007.0, False), (1_000_008.0, False)],
)
def test_an_answer_is_from_a_live_version_and_of_its_input(
    output: float, right: bool
) -> None:
    timeline = Timeline(
        [Change(0.0, 0.0, frozenset({1})), Change(10.2, 10.3, frozenset({2}))]
    )
    assert timeline.right(asked(7, output)) is right


def test_the_longest_duration_decides_and_short_runs_are_lenient(tmp_path: Path) -> None:
    values = [0.001] * 99 + [0.006]
    for long, verdict in ((True, "MISSED"), (False, "met")):
        run = make_run(tmp_path, long=long)
        run.duration("kills", "W1", "a kill", "noticed", 0.005, values)
        [finding] = run.findings
        assert finding.goal.verdict == verdict
        assert finding.goal.value == pytest.approx(6.0)
        assert "median 1.0, p99 1.0" in finding.goal.beside
        assert run.failed is (verdict == "MISSED")


def test_a_long_run_must_make_enough_requests(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    seen = Seen(0.0, 0.0, [asked(1, 1.0)])
    run.requests("kills", "W1", "a kill", seen, seen.failures(lambda each: True), 10)
    assert [finding.goal.verdict for finding in run.findings] == ["met", "MISSED"]


def test_what_was_not_measured_is_not_met(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.duration("kills", "W1", "a kill", "noticed", 0.005, [])
    assert run.failed and "not measured" in run.report()


def test_a_run_that_could_not_be_made_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert not run.failed
    run.fail("kills: the server did not start")
    run.write(tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["failed"] is True
    assert "did not start" in run.report()


def test_what_may_grow_in_a_soak(tmp_path: Path) -> None:
    samples = [Sample(n * 100_000, n * 90_000 + 10**8, 50, 7.0) for n in range(40)]
    assert slope(samples) == pytest.approx(0.9)
    run = make_run(tmp_path)
    judge_memory(run, "a soak", samples)
    assert [finding.goal.verdict for finding in run.findings] == ["met"]
    doubled = [each._replace(resident=2 * each.resident) for each in samples]
    judge_memory(run, "a soak", doubled)
    assert [each.goal.text for each in run.missed] == ["memory, MB per million requests"]


def test_what_may_be_left_of_a_soak(tmp_path: Path) -> None:
    run, before = make_run(tmp_path), Sample(0, 10**8, 50, 7.0)
    judge_rest(run, "a soak", before, before._replace(descriptors=52, tasks=5.0))
    assert [finding.goal.verdict for finding in run.findings] == ["met"] * 2
    judge_rest(run, "a soak", before, before._replace(descriptors=53, tasks=9.0))
    assert [each.goal.text for each in run.missed] == [
        "descriptors at rest, more than before"
    ]


def test_a_mix_judges_answers_and_gives_feedback_on_them() -> None:
    mix = Mix("localhost:1", seed=1)
    kinds = Counter(mix.next()[0] for _ in range(5000))
    assert kinds["feedback"] == 0, "there is nothing to give feedback on yet"
    assert kinds["cached"] > kinds["bandit"] > kinds["leaves"] > 0
    mix.take("bandit", 200, b'{"query_id":"abc","output":1.0,"default":false}')
    requests = [mix.next() for _ in range(100)]
    [(_, feedback)] = [each for each in requests if each[0] == "feedback"]
    assert b"POST /bandit/update " in feedback and b'"query_id":"abc"' in feedback
    mix.take("nonsense", 400, b"{}")
    assert not mix.odd
    mix.take("cached", 500, b"oh")
    mix.take("nowhere", 200, b'{"default":true}')
    assert mix.odd.total() == 2


def test_entries_of_the_log_are_such_as_a_server_folds() -> None:
    arms = (Arm("a:1"), Arm("b:1"))
    entries = list(_entries(3, arms, 10))
    assert len({entry.key for entry in entries}) == 10
    for entry in entries:
        event = events.decode(entry.body)
        assert isinstance(event, events.Feedback)
        assert event.losses == {event.chosen[0]: event.loss}


def test_the_log_is_read_as_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old ready\n")
    with closing(LogWatch(log)) as watch:
        begun = time.monotonic()
        code = "import time; print('half ', end='', flush=True); print('ready')"
        with (
            log.open("a") as file,
            subprocess.Popen([sys.executable, "-c", code], stdout=file),
        ):
            line = watch.wait(lambda text: "ready" in text, begun, 60)
        assert line is not None and line.text == "half ready" and line.seen >= begun
        assert watch.wait(lambda text: "ready" in text, line.seen + 1, 0.01) is None


def test_a_part_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        faults.parse(["kills", "earthquake"])
    assert caught.value.code == 2
    assert "'earthquake'" in capsys.readouterr().err


# -- short runs --------------------------------------------------------------------------

BAD_ROWS = [pytest.mark.fault(row) for row in ("W2", "W3", "W6")]
SERVER_KILLS = [pytest.mark.fault(row) for row in ("S1", "W13")]
OPERATIONS = [pytest.mark.fault(row) for row in ("A1", "A2")]

# Slow ones are made by a program that need not be there.
SLOW_ROWS = {"N1", "N2"} if shutil.which("slowhttptest") else {"N1"}
SLOW = [pytest.mark.fault(row) for row in sorted(SLOW_ROWS)]


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        pytest.param("kills", {"W1"}, marks=pytest.mark.fault("W1")),
        pytest.param("rows", {"W2", "W3", "W6"}, marks=BAD_ROWS),
        pytest.param("operations", {"A1", "A2"}, marks=OPERATIONS),
        pytest.param("server_kills", {"S1", "W13"}, marks=SERVER_KILLS),
        pytest.param("handover", {"S3"}, marks=pytest.mark.fault("S3")),
        pytest.param("slow", SLOW_ROWS, marks=SLOW),
        pytest.param("soak", {"M1"}, marks=pytest.mark.fault("M1")),
    ],
)
def test_a_short_run_meets_its_goals(part: str, rows: set[str], tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks", "faults", part, "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(found.read_text())["findings"]
    assert {row for each in findings for row in each["rows"].split(", ")} == rows
    assert all(each["verdict"] == "met" for each in findings)
