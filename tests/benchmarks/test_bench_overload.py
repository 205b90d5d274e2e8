from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import findings, overload, work
from benchmarks.baselines import PaperAIMD, PlainAIMD
from benchmarks.clipper_app import BASELINES
from benchmarks.outcome import BUCKET, Explained, Outcome, Part
from benchmarks.overload_goals import goals
from benchmarks.overload_report import make_report
from benchmarks.process import ROOT
from benchmarks.trials import CLIPPER_LANES, SLO, Trial, Trials, bound

PART = Part(
    rate=1000.0,
    seconds=1.0,
    offered=1000,
    good=1000,
    late=0,
    barely=0,
    told=0,
    kinds={},
    explanations={},
    p50=0.005,
    p99=0.015,
    p99_all=0.015,
)


def outcome_of(parts: list[Part], offered: list[int], good: list[int]) -> Outcome:
    answers = sum(part.offered for part in parts)
    return Outcome(0.0, parts, offered, good, 1e-4, 2e-4, 3e-4, 0.1, answers)


def trial_of(
    part: Part,
    *,
    name: str = "sweep",
    lane: str = "aimd",
    load: float = 0.5,
    round_: int = 0,
) -> Trial:
    buckets = round(part.seconds / BUCKET)
    offered = [part.offered // buckets] * buckets
    good = [part.good // buckets] * buckets
    outcome = outcome_of([part], offered, good)
    return Trial(name, lane, load, round_, outcome, 2e-5, 1e-5, 0.0)


def series_of(*shares: float, before: float = 0.0) -> Trial:
    """A trial with a hundred arrivals in each bucket, of which such shares were good."""
    good = [round(100 * share) for share in shares]
    after = len(shares) * BUCKET - before
    parts = [replace(PART, seconds=seconds) for seconds in (before, after) if seconds]
    outcome = outcome_of(parts, [100] * len(shares), good)
    return Trial("recovery", "aimd", 4.0, 0, outcome, 0.0, 0.0, 0.0)


# -- controllers -----------------------------------------------------------------------


def test_plain_aimd_keeps_its_cap_through_small_batches() -> None:
    controller = PlainAIMD(0.020, 100)
    for cap in (1, 3, 5, 7):
        assert controller.cap == cap
        controller.record(cap, 0.010)
    assert controller.cap == 9
    controller.record(1, 0.001)
    assert controller.cap == 9
    controller.record(9, 0.021)
    assert controller.cap == 8
    for _ in range(100):
        controller.record(controller.cap, 0.001)
    assert controller.cap == 100


def test_the_papers_aimd_follows_the_size_that_was_sent() -> None:
    controller = PaperAIMD(0.020, 100)
    controller.record(40, 0.010)
    assert controller.cap == 42
    controller.record(3, 0.002)
    assert controller.cap == 5
    controller.record(30, 0.019)
    assert controller.cap == 30
    controller.record(30, 0.020)
    assert controller.cap == 27
    controller.record(1, 1.0)
    assert controller.cap == 1


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_predict_nothing(name: str) -> None:
    controller = BASELINES[name](0.02, 8)
    assert controller.latency is None
    assert (controller.objective, controller.cap) == (0.02, 1)
    assert name in CLIPPER_LANES


# -- models ----------------------------------------------------------------------------


def test_the_sleeping_model_halves_its_speed_while_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    model = work.make_sleeper(slow_file=str(tmp_path / "slow"))
    rows = work.make_rows("sleep", 4)
    assert work.predict(model, rows) == pytest.approx([sum(row) for row in rows])
    (tmp_path / "slow").touch()
    work.predict(model, rows)
    assert slept == pytest.approx([0.0026, 0.0052])


def test_one_of_several_processes_straggles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    models = [work.make_straggler(str(tmp_path / "lock")) for _ in range(3)]
    rows = work.make_rows("sleep", 1)
    for model in models * 2:
        work.predict(model, rows)
    assert slept == pytest.approx([0.007, 0.0014, 0.0014] * 2)


# -- findings --------------------------------------------------------------------------


def test_the_bound_is_a_batch_as_long_as_the_objective() -> None:
    assert bound() == pytest.approx(47 / 0.0198)
    assert bound(0.02, 0.002, 0.002) == pytest.approx(450)


def test_capacity_is_the_best_goodput_with_nearly_all_good() -> None:
    trials = [
        trial_of(replace(PART, good=1000), load=0.5),
        trial_of(replace(PART, offered=1500, good=1490), load=0.7),
        trial_of(replace(PART, offered=1800, good=1700), load=0.9),
        trial_of(replace(PART, offered=2000, good=2000), load=1.0),  # past the limit
        trial_of(replace(PART, good=900), load=0.5, round_=1),
    ]
    assert findings.find_capacity(trials) == [1490.0, 900.0]
    assert findings.find_capacity([]) == []


def test_an_explanation_must_be_true() -> None:
    told = {
        "The model is overloaded": Explained(80, 80, 80),
        findings.TOO_LATE: Explained(10, 10, 4),
        findings.NO_MODEL: Explained(5, 5, 5),
    }
    part = replace(PART, good=900, late=5, barely=3, told=95, explanations=told)
    assert findings.untrue(part) == 9
    assert findings.truly_told(part) == pytest.approx(0.86)
    assert findings.settled_in_time(part) == pytest.approx(0.89)
    assert findings.truly_told(PART) is None


def test_recovery_counts_from_the_fall_of_the_load() -> None:
    assert findings.recovery(series_of(0.2, 0.2, 0.3, 0.8, 1, 1, 1, before=0.1)) == 0.1
    assert findings.recovery(series_of(0.2, 0.2, 1, 1, before=0.1)) == 0.0
    assert findings.recovery(series_of(0.2, 0.2, 0.9, 0.9, before=0.1)) is None


def test_warming_counts_to_nine_tenths_of_the_steady_share() -> None:
    trial = series_of(0.0, 0.0, 0.4, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8)
    assert findings.steady(trial.outcome) == pytest.approx(0.8)
    assert findings.warming(trial) == pytest.approx(4 * BUCKET)


def test_the_first_half_second_after_a_step() -> None:
    quiet, shares = [1.0] * 10, [0.5] * 10 + [1.0] * 10
    assert findings.after_step(series_of(*quiet, *shares, before=0.5)) == 0.5


def test_the_cap_is_compared_with_the_ideal_before_and_after() -> None:
    caps = [(at / 10, 47.0 if at < 30 else 25.0 if at < 45 else 22.0) for at in range(60)]
    trial = replace(series_of(1.0), caps=caps, facts={"slow": 3.0})
    found = findings.settling(trial, SLO)
    assert found is not None
    assert found.before == pytest.approx(47 / 47.5)
    assert found.after == pytest.approx(22 / 22.5)
    assert found.seconds == pytest.approx(0.0)
    assert findings.settling(replace(trial, facts={}), SLO) is None
    short = replace(trial, caps=caps[:40])
    assert findings.settling(short, SLO) is None


# -- the whole -------------------------------------------------------------------------


def test_a_report_of_nothing_and_of_something(tmp_path: Path) -> None:
    about = {"processor": "p", "cores": 2, "system": "s", "python": "3", "when": "now"}
    about |= {"runs": 1, "seconds": 1.0, "peers": {"mosec": "0"}}
    bench = Trials(tmp_path, about)
    assert "not measured" in make_report(bench)
    told = {"The model is overloaded": Explained(1000, 1000, 1000)}
    over = replace(
        PART, offered=2000, told=1000, explanations=told, kinds={"default x": 1000}
    )
    bench.trials = [
        trial_of(PART),
        trial_of(over, name="overload", load=2.0),
        trial_of(PART, name="overload", lane="mosec", load=2.0),
        trial_of(PART, name="cold"),
        trial_of(PART, name="neighbours", lane="alone"),
        trial_of(replace(PART, p99_all=None), name="neighbours", lane="beside"),
        trial_of(replace(PART, p99_all=0.01), name="straggler", lane="clipper"),
        trial_of(replace(PART, p99_all=0.02), name="straggler", lane="p2c"),
        series_of(0.2, 0.2, 0.9, 0.9, before=0.1),
    ]
    report = make_report(bench)
    assert "(1 never)" in report and "100.00%" in report
    verdicts = {goal.text: goal.verdict for goal in goals(bench)}
    assert verdicts["goodput of its peak at 2 times"] == "met"
    assert verdicts["the rest told in time at 2 times"] == "met"
    assert verdicts["goodput of its peak at 8 times"] == "not measured"
    assert verdicts["recovery, s"] == "MISSED"
    assert verdicts["neighbour's p99 over 20 % or 2 ms, ms"] == "MISSED"
    assert verdicts["straggler: p99 of p2c's"] == "met"
    bench.write(tmp_path / "results.json")
    assert len(json.loads((tmp_path / "results.json").read_text())["trials"]) == 9


def test_options() -> None:
    short = overload.parse(["--short"])
    assert (short.runs, short.seconds, short.only) == (1, 1.0, list(overload.PARTS))
    chosen = overload.parse(["--only", "cold,sweep", "--capacity", "2000"])
    assert chosen.only == ["cold", "sweep"]
    assert (chosen.capacity, chosen.seconds) == (2000.0, 5.0)


@pytest.mark.parametrize(
    "bad", [["--only", "nothing"], ["--seconds", "0"], ["--capacity", "-1"]]
)
def test_bad_options_are_refused(
    bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        overload.parse(bad)
    assert exit_.value.code == 2
    assert bad[0] in capsys.readouterr().err


def test_a_short_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "overload",
        "--short",
        "--seconds",
        "0.5",
    ]
    command += ["--json", str(tmp_path / "results.json")]
    drawn = find_spec("matplotlib") is not None
    if drawn:
        command += ["--plot", str(tmp_path / "goodput.svg")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {trial["part"] for trial in results["trials"]} == set(overload.PARTS)
    loads = [(t["lane"], t["load"]) for t in results["trials"] if t["part"] == "overload"]
    assert loads == [("aimd", 1.0), ("aimd", 4.0)]
    assert results["capacity"] > 0
    for trial in results["trials"]:
        assert sum(trial["outcome"]["good"]) > 0
    assert "Targets" in done.stdout
    written = {path.name for path in tmp_path.glob("*.svg")}
    wanted = {"goodput.svg", "goodput-recovery.svg", "goodput-cap.svg"}
    assert written == (wanted if drawn else set())
