from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import serving, work
from benchmarks.__main__ import main
from benchmarks.cases import CASES, make_bodies, read_outputs
from benchmarks.process import ROOT


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bodies_hold_the_rows(case) -> None:
    rows = work.make_rows(case.work, 2 * case.rows)
    bodies = make_bodies(case, rows)
    assert len(bodies) == 2
    if case.content_type == "application/json":
        document = json.loads(bodies[1])
        sent = document.get("input_batch") or [document["input"]]
        assert sent == rows[case.rows :]
    else:
        assert bodies[1].startswith(b"\x93NUMPY")


@pytest.mark.parametrize("name", work.WIDTHS)
def test_models_answer_row_by_row(name: str) -> None:
    if name != "sum":
        pytest.importorskip("sklearn")
    rows = work.make_rows(name, 20)
    outputs = work.predict(work.make_model(name), rows)
    again = work.predict(work.make_model(name), rows[7:8])
    assert len(outputs) == 20
    assert again == outputs[7:8]
    if name == "sum":
        assert outputs == pytest.approx(np.sum(rows, axis=1).tolist())


def test_defaults_are_no_outputs() -> None:
    assert read_outputs(b'{"query_id":"q","output":6.6,"default":false}') == [6.6]
    assert read_outputs(b'{"query_id":"q","output":-1,"default":true}') == []
    many = b'{"batch_predictions":[{"output":1,"default":false},{"error":"x","cause":"y"}]}'
    assert read_outputs(many) == [1, None]


def test_options() -> None:
    short = serving.parse(["--short"])
    assert (short.runs, short.seconds, short.only) == (1, 1, list(serving.SHORT_PARTS))
    full = serving.parse([])
    assert (full.runs, full.connections) == (5, (1, 32, 128, 512))
    assert full.only == list(serving.PARTS)
    assert serving.parse(["--short", "--only", "svm,start"]).only == ["svm", "start"]


@pytest.mark.parametrize(
    "bad", [["--only", "nothing"], ["--runs", "0"], ["--connections", "1,x"]]
)
def test_bad_options_are_refused(
    bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        serving.parse(bad)
    assert exit_.value.code == 2
    assert bad[0] in capsys.readouterr().err


def test_the_list_of_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "serving" in capsys.readouterr().out
    assert main(["nothing"]) == 2


def test_a_short_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "serving", "--short"]
    command += ["--json", str(tmp_path / "results.json")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {sample["lane"] for sample in results["samples"]} == {"clipper", "floor"}
    assert all(sample["rate"] > 0 for sample in results["samples"])
    assert results["series"]["evaluations"] == [1]
    assert 0 < results["series"]["start"][0] < 30
    assert "Targets" in done.stdout
