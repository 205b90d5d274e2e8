"""A thousand whole servers, each from one seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from .endless import replay, run
from .operators import POLICIES
from .plot import BLOWS, DEEDS

SEEDS = 1000
PER_TEST = 50
MANY = 20_000


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_seeds(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        run(seed)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_seeds() -> None:
    for seed in range(SEEDS, MANY):
        run(seed)


def test_a_seed_decides_all() -> None:
    for seed in range(12):
        assert run(seed).trace.fingerprint == run(seed).trace.fingerprint
    assert run(0).trace.fingerprint != run(1).trace.fingerprint


def test_a_seed_decides_all_in_another_process() -> None:
    """Where hashes of text are others, and memory lies elsewhere."""
    seeds = range(20, 26)
    for salt in ("1", "2"):
        found = subprocess.run(
            [
                sys.executable,
                "-m",
                "simulation.endless",
                "--fingerprints",
                *map(str, seeds),
            ],
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": _path()},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.split() == [run(seed).trace.fingerprint for seed in seeds]


def test_a_failure_tells_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipper.query.Query.cancel", lambda query: 1 / 0)
    for seed in range(100):
        try:
            run(seed)
        except ZeroDivisionError as error:
            assert any(replay(seed) in note for note in error.__notes__)
            return
    pytest.fail("nobody went away")


def _path() -> str:
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])


def test_seeds_lead_everywhere() -> None:
    """All that operators do, all that befalls a server and all that may come of feedback
    happens among few seeds."""
    done: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    policies: Counter[str] = Counter()
    for seed in range(150):
        world = run(seed)
        done.update(world.operators.done)
        happened.update(world.blows.fallen)
        outcomes.update(world.ledger.outcomes)
        policies.update(world.visitors.policies)
    assert {*done} >= {*DEEDS}
    assert {*happened} >= {*BLOWS}
    assert {*outcomes} >= OUTCOMES, OUTCOMES - {*outcomes}
    assert {*policies} >= {name for name, _ in POLICIES}


OUTCOMES = {
    "new", "known", "resend_input", "conflict", "not_found", "disk_full", "store_error",
    "overloaded", "unavailable",
}  # fmt: skip
