"""The README, the guide and the quickstart of the original do what they say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CURL = "import subprocess\nprint(subprocess.check_output({!r}, shell=True, text=True))\n"


def blocks(path: str, *languages: str) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks in a document."""
    text = (ROOT / path).read_text("utf-8")
    return [match for match in BLOCK.findall(text) if match[0] in languages]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(script: str, tmp_path: Path) -> str:
    """Run a script with its server on free ports and in a data directory of its own."""
    port, admin_port = free_ports(2)
    script = script.replace("1337", str(port)).replace(
        'Clipper("localhost")',
        f'Clipper("localhost", port={port}, admin_port={admin_port})',
    )
    path = tmp_path / "script.py"
    path.write_text(script, "utf-8")
    environment = os.environ | {
        "CLIPPER_DATA_DIR": str(tmp_path / "data"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PYTHONWARNINGS": "error",
    }
    (tmp_path / "run").mkdir(mode=0o700)
    try:
        done = subprocess.run(
            [sys.executable, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=tmp_path,
            check=False,
        )
    finally:
        end_servers(tmp_path / "run")
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_readmes_quickstart_runs_with_its_curl_line(tmp_path: Path) -> None:
    """The blocks of the README run in order, as one session."""
    parts = []
    for language, text in blocks("README.md", "python", "console"):
        if language == "python":
            parts.append(text)
        elif text.startswith("$ curl"):
            parts.append(
                CURL.format(text.removeprefix("$ ").replace("curl ", "curl -sS ", 1))
            )
    out = run("\n".join(parts), tmp_path)
    assert "Clipper is running" in out
    answer = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert answer["output"] == pytest.approx(6.6)
    assert answer["default"] is False


def test_the_shell_commands_of_the_readme_exist() -> None:
    """`clipper ... --help` answers for every command the README shows that way."""
    commands = [
        line.removeprefix("$ clipper ").split()
        for _, text in blocks("README.md", "console")
        for line in text.splitlines()
        if line.startswith("$ clipper ")
    ]
    assert commands
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "clipper", *command], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", ["docs/usage.md", "docs/learning.md"])
def test_the_guides_blocks_run(document: str, tmp_path: Path) -> None:
    """Each Python block of the guide is a whole script."""
    for index, (_, text) in enumerate(blocks(document, "python")):
        directory = tmp_path / str(index)
        directory.mkdir()
        run(text, directory)


def test_the_guides_settings_are_valid(tmp_path: Path) -> None:
    """The example of clipper.toml is accepted, and its values are the defaults."""
    from clipper.config import Settings, load_settings

    for document in ("docs/usage.md", "docs/learning.md"):
        [(_, text)] = blocks(document, "toml")
        path = tmp_path / "clipper.toml"
        path.write_text(text, "utf-8")
        assert load_settings(path, {}) == Settings()


def end_servers(runtime: Path) -> None:
    """End what a script that failed has left running."""
    for path in runtime.glob("clipper/*.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGTERM)


SEED = """
from clipper import Clipper
import numpy as np
clipper = Clipper("localhost")
clipper.start()
clipper.register_application("hello_world", "feature_sum_model", "doubles", "-1.0", 100000)
print(clipper.get_all_apps())
def feature_sum_function(xs):
      return [str(np.sum(x)) for x in xs]
before = CURL()
clipper.deploy_predict_function("feature_sum_model", 1, feature_sum_function, "doubles")
print(CURL())
import requests, json, numpy as np
headers = {"Content-type": "application/json"}
answer = requests.post("http://localhost:1337/hello_world/predict", headers=headers, data=json.dumps({"uid": 0, "input": list(np.random.random(10))})).json()
assert answer["default"] is False and 0 <= answer["output"] <= 10, answer
assert json.loads(before)["default_explanation"] == "No connected models found for query"
clipper.stop()
"""  # noqa: E501

SEED_CURL = """
import subprocess
def CURL():
    return subprocess.check_output('''curl -sS -X POST --header "Content-Type:application/json" -d '{"uid": 0, "input": [1.1, 2.2, 3.3]}' 127.0.0.1:1337/hello_world/predict''', shell=True, text=True)
"""  # noqa: E501


def test_the_originals_quickstart_runs_but_for_its_import_line(tmp_path: Path) -> None:
    """The statements of the original's README, in their order, with its curl and
    requests calls; before the model is there, the answer is the default."""
    out = run(SEED_CURL + SEED, tmp_path)
    lines = out.splitlines()
    assert "Clipper is running" in lines
    assert "Success!" in lines
    assert "['hello_world']" in lines
    assert json.loads(next(line for line in lines if line.startswith("{")))["output"] == (
        pytest.approx(6.6)
    )
