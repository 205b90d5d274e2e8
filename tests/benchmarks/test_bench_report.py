from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.criteria import CRITERIA, best_rate, of, rate, ratio
from benchmarks.report import make_report, target_table
from benchmarks.results import Results, Sample, describe_machine
from benchmarks.tables import table


def sample(lane: str, round_: int, rate: float, connections: int = 128) -> Sample:
    return Sample(
        case="sum",
        lane=lane,
        connections=connections,
        round=round_,
        rate=rate,
        rows=1,
        p50=0.001,
        p99=0.002,
        front_cpu=1e-5,
        worker_cpu=0.0,
        errors=0,
        other_cores=0.0,
    )


@pytest.fixture
def results() -> Results:
    about = describe_machine()
    about.update(runs=3, seconds=1, generator="wrk", slo_ms=100, peers={"mosec": "1.0"})
    return Results(about)


def test_ratios_are_taken_within_a_round(results: Results) -> None:
    # The machine slows down to a tenth in the last round: the ratio must not see it.
    for round_, speed in enumerate([100.0, 90.0, 10.0]):
        results.samples.append(sample("floor", round_, speed))
        results.samples.append(sample("clipper", round_, 0.6 * speed))
    measured = ratio(of("sum", "clipper", 128, rate), of("sum", "floor", 128, rate))
    assert measured(results) == pytest.approx([0.6, 0.6, 0.6])
    assert "met" in target_table(results).splitlines()[2]


def test_the_best_rate_is_of_any_number_of_connections(results: Results) -> None:
    for round_ in range(2):
        results.samples.append(sample("mosec", round_, 10.0 + round_, connections=128))
        results.samples.append(sample("mosec", round_, 20.0 - round_, connections=512))
    assert best_rate("sum", "mosec")(results) == [20.0, 19.0]
    results.samples = results.of("sum", "mosec", 128)
    assert best_rate("sum", "mosec")(results) == []


def test_a_lane_that_failed_halfway_makes_no_ratio(results: Results) -> None:
    results.samples += [sample("floor", 0, 9.0), sample("floor", 1, 9.0)]
    results.samples += [sample("clipper", 0, 9.0)]
    measured = ratio(of("sum", "clipper", 128, rate), of("sum", "floor", 128, rate))
    assert measured(results) == []


def test_one_bad_round_of_misses_is_not_hidden(results: Results) -> None:
    results.series["evaluations"] = [1.0, 1.0, 2.0, 1.0, 1.0]
    [line] = [line for line in target_table(results).splitlines() if "misses" in line]
    assert line.endswith("MISSED")


def test_what_was_not_measured_says_so(results: Results) -> None:
    lines = target_table(results).splitlines()[2:]
    assert len(lines) == len(CRITERIA)
    assert all(line.endswith("not measured") for line in lines)


def test_a_report_shows_all(results: Results, tmp_path: Path) -> None:
    results.samples += [sample("clipper", 0, 60_000.0), sample("floor", 0, 100_000.0)]
    results.add("start", 0.4567)
    results.notes.append("litserve is not installed and was left out.")
    report = make_report(results)
    for text in ("60,000", "0.60", "0.457", "mosec 1.0", "Note: litserve"):
        assert text in report
    results.write(tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["samples"][0]["rate"] == 60_000.0
    assert written["series"] == {"start": [0.4567]}


def test_tables_have_straight_columns() -> None:
    lines = table(["name", "n"], [["a", "1"], ["long name", "10,000"]], left={0})
    assert lines.splitlines() == [
        "name            n",
        "---------  ------",
        "a               1",
        "long name  10,000",
    ]
