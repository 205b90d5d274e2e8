from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clipper import demo, runtime
from clipper.cli import main
from clipper.errors import ClipperError


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CLIPPER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CLIPPER_TOKEN", raising=False)
    yield
    for left in (server for server in runtime.find_all() if server.pid != os.getpid()):
        os.kill(left.pid, signal.SIGKILL)


def test_a_digit_in_characters() -> None:
    shades = [0.0] * 64
    shades[0], shades[1], shades[8] = 16.0, 8.0, 4.0
    lines = demo.draw([shades, shades]).split("\n")
    assert lines[0].strip() == "██▒▒" + " " * 14 + "██▒▒"
    assert lines[1].strip() == "░░" + " " * 16 + "░░"
    assert len(lines) == 8
    widest = demo.draw([[16.0] * 64] * 4)
    assert max(map(len, widest.splitlines())) <= 80


METRICS = """\
# TYPE clipper_model_batches_total counter
clipper_model_batches_total{model="forest",version="1"} 4.0
# TYPE clipper_model_rows_total counter
clipper_model_rows_total{model="forest",version="1"} 10.0
# TYPE clipper_cache_hits_total counter
clipper_cache_hits_total 7.0
# TYPE clipper_cache_joins_total counter
clipper_cache_joins_total 2.0
"""


def test_what_the_server_counted() -> None:
    counted = demo.count(METRICS)
    assert counted.rows_per_batch("forest") == "2.5"
    assert counted.rows_per_batch("linear") == "-"
    assert counted.from_cache == 9


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    digits = demo.train()
    assert sorted(digits.models) == ["forest", "linear", "neighbors"]
    scores = {
        "forest": demo.Score(dict(enumerate(digits.labels)), [0.001] * 99),
        "linear": demo.Score({0: -1}, [0.002] * 99, defaults=98),
    }
    demo._report(digits, scores, METRICS, 2.0)
    text = click.unstyle(capsys.readouterr().out)
    assert re.search(r"^forest +\d +\d +\d +\d", text, re.MULTILINE)
    assert "198 queries over HTTP, 32 at a time, in 2.0 s: 99 a second" in text
    assert re.search(r"forest +100\.0 % +1\.0 ms +1\.0 ms +1\.0 ms +2\.5", text)
    assert re.search(r"linear +0\.0 % +2\.0 ms", text)
    assert "9 answers came from the cache, the others from 4 batches" in text
    assert "98 got the default output, no answer; the accuracy leaves them out." in text


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ClipperError, match=r"pip install 'clipper-serving\[demo\]'"):
        demo.train()


def test_a_server_runs_there_already() -> None:
    here = "127.0.0.1"
    runtime.announce(4711, 4712, here, here, os.getpid(), None, "token")
    result = CliRunner().invoke(main, ["demo", "--port", "4711"])
    assert result.exit_code == 3
    assert "A Clipper server runs at port 4711 already." in result.stderr


def run_demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clipper", "demo", "--port=0", "--admin-port=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_demo() -> None:
    with run_demo("--exit") as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    accuracies = re.findall(r"^(linear|forest|neighbors) +(\d+\.\d) %", out, re.MULTILINE)
    assert [name for name, _ in accuracies] == ["linear", "forest", "neighbors"]
    assert all(float(accuracy) > 90 for _, accuracy in accuracies)
    assert "forest:1: live after" in err
    from_cache = re.search(r"(\d+) answers came from the cache", out)
    assert from_cache is not None
    assert int(from_cache[1]) > 0
    assert "\ncurl -H 'Content-Type: application/json' -d '{" in out
    assert out.endswith("✓ The server has stopped\n")
    assert runtime.find_all() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stays_until_it_is_ended(number: int, tmp_path: Path) -> None:
    with run_demo(f"--data-dir={tmp_path / 'kept'}") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("curl "):
                _try(line)
            if line.startswith("Ctrl-C"):
                break
        (server,) = runtime.find_all()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.endswith("✓ The server has stopped\n")
    assert runtime.process_started(server.pid) is None
    assert (tmp_path / "kept" / "admin-token").exists()


def _try(line: str) -> None:
    """The command that the demo proposes works as it stands."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert '"output":' in done.stdout
