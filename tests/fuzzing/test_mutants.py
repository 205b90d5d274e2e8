"""Changes of the code are noticed by its tests, and counted right (F4)."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from . import mutants
from .mutants import EQUIVALENT, GOAL, GROUPS, ROOT, Score, scores, table

pytestmark = pytest.mark.fault("F4")

NEEDS_MUTMUT = pytest.mark.skipif(
    importlib.util.find_spec("mutmut") is None,
    reason="mutmut is not installed: pip install 'clipper-serving[fuzz]'",
)


def test_the_groups_name_what_is_there() -> None:
    for group in GROUPS.values():
        for module in group.modules:
            assert (ROOT / "clipper" / module).is_file(), module
        for test in group.tests:
            assert (ROOT / "tests" / test).is_file(), test


def test_what_changes_nothing_is_known_by_a_pattern_with_a_reason() -> None:
    for pattern, reason in EQUIVALENT.items():
        re.compile(pattern)
        assert reason


def test_mutants_are_counted_by_what_became_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = {"killed": 1, "late": -24, "lives": 0, "same": 0, "untested": 33, "left": None}
    place = tmp_path / "mutants" / "clipper" / "x.py.meta"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"exit_code_by_key": codes}))
    lines = {"lives": "+ a > b", "same": '+ assert a, "XX"', "untested": "+ c"}
    monkeypatch.setattr(mutants, "_changes", lambda folder: lines.__getitem__)
    [score] = scores(tmp_path)
    assert (score.module, score.total, score.killed, score.left) == (
        "clipper/x.py",
        6,
        2,
        1,
    )
    assert [name.split()[0] for name in score.survivors] == ["lives", "untested"]
    assert [name.split()[0] for name in score.equivalent] == ["same"]
    assert score.share == 2 / 4
    assert "50.0%" in table([score])
    assert "survived: lives  + a > b" in table([score])


def test_of_nothing_everything_is_killed() -> None:
    assert Score("none", 0, 0, [], [], 0).share == 1.0


@NEEDS_MUTMUT
def test_the_rules_of_recovery_cannot_change_unnoticed(tmp_path: Path) -> None:
    mutants.prepare("recovery", tmp_path)
    code = mutants.run(tmp_path, ("clipper.batching.recovery.*",), 2)
    assert code == 0, (tmp_path / "mutmut.log").read_text()[-3000:]
    found = {score.module: score for score in scores(tmp_path)}
    recovery = found["clipper/batching/recovery.py"]
    assert recovery.left == 0
    assert recovery.share >= GOAL, table([recovery])


@NEEDS_MUTMUT
@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("group", GROUPS)
def test_the_modules_cannot_change_unnoticed(group: str, tmp_path: Path) -> None:
    mutants.prepare(group, tmp_path)
    assert mutants.run(tmp_path) == 0, (tmp_path / "mutmut.log").read_text()[-3000:]
    found = list(scores(tmp_path))
    killed = sum(score.killed for score in found)
    counted = sum(score.total - len(score.equivalent) for score in found)
    assert killed >= GOAL * counted, table(found)
