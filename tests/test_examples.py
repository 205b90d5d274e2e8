"""Every example runs as a user would run it, and says what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# A few words of each example's output, in order.
SAYS = {
    "quickstart.py": [
        "Clipper is running",
        "Success!",
        "['hello_world']",
        "-1.0 - No connected models found for query",
        "6.6",
    ],
    "embedded.py": ["= 6.6", "[0.0, 2.0, 4.0, 6.0, 8.0]", "version 2 says -6.6"],
    "http_client.py": [
        "one input: 4",
        "a batch: [1, 2, 3]",
        "a mistake: 400 {'error': 'invalid_input'",
        "the application: {'name': 'words'",
    ],
    "digits.py": [
        "version 1 (linear): 9",
        "version 2 (forest): 9",
        "version 1 sees a 2, it is a 2",
        "rolled back to version 1",
    ],
    "bandit.py": [
        "queries 250-299:",
        "<- the forest fails from here on",
        "forest:1: mean loss 0.",
    ],
    "ensemble.py": [
        "forest4 alone: 7",
        "the ensemble: ",
        "where it is confident",
        "votes came too late and were not waited for",
        "forest0:1: weight 0.",
    ],
    "replay.py": [
        "live, epsilon_greedy with epsilon 0.3 answered",
        "800 pieces of feedback",
        "what answered lost 0.0",
        "POLICY",
        "thompson",
        "would have been better than what answered.",
        "live, thompson answered",
    ],
    "per_user.py": [
        "after 0 pieces of feedback:",
        "after 8 pieces of feedback:",
        "user1 writes side, and is given side:1",
        "user2 writes mirrored, and is given mirrored:1",
    ],
    "own_policy.py": ["everybody: one:1", "ann: one:1", "bob: one:1"],
    "canary.py": [
        "version 2 gets a fifth of the users",
        "log: text takes text:2#",
        "queries 400-499: 0 went to version 2, 0 failed",
        "text:1: in service",
        "text:2: it failed",
    ],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_example(name: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "XDG_RUNTIME_DIR": str(tmp_path),
        "CLIPPER_DATA_DIR": str(tmp_path / "data"),
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    place = -1
    for words in SAYS[name]:
        place = done.stdout.find(words, place + 1)
        assert place >= 0, f"{words!r} is missing, or out of order, in:\n{done.stdout}"
    left = {path.name for path in (tmp_path / "clipper").glob("*")}
    assert not [name for name in left if name.endswith(".json")], "a server was left"
    assert not (tmp_path / "data").exists(), "an example writes no data directory"
