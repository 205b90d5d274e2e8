"""SECURITY.md promises what is tested, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TEXT = (HERE.parent / "SECURITY.md").read_text()
PROMISES = TEXT.partition("## What is promised")[2].partition("## What is not promised")[0]


def known_tests() -> set[str]:
    found: set[str] = set()
    for path in HERE.rglob("test_*.py"):
        found |= set(re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(), re.M))
    return found


def promises() -> list[str]:
    return re.findall(r"^- .*(?:\n  .*)*", PROMISES, re.M)


@pytest.mark.parametrize("promise", promises(), ids=lambda text: text[4:40])
def test_every_promise_names_its_tests(promise: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", promise))
    assert named, "a promise without a test"
    assert named <= known_tests(), named - known_tests()


def test_the_promises_are_found() -> None:
    assert len(promises()) >= 12
    assert "test_security_promises" in PROMISES


def test_it_says_what_is_not_promised_and_how_to_report() -> None:
    for heading in ("Reporting", "What is not promised", "Open to a network"):
        assert f"\n## {heading}\n" in TEXT


def test_flags_that_are_named_exist() -> None:
    options = (HERE.parent / "clipper" / "cli" / "serving.py").read_text()
    for flag in set(re.findall(r"`(--[a-z-]+)`", TEXT)):
        assert f'"{flag}"' in options, flag


def test_the_licence_is_the_one_that_is_named() -> None:
    licence = (HERE.parent / "LICENSE").read_text()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    assert "license = Apache-2.0" in (HERE.parent / "setup.cfg").read_text()
