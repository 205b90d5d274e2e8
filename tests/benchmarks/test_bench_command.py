"""The command lines of the benchmarks: what they share."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import command
from benchmarks.command import fill, make_options, missing_extra, run_parts
from benchmarks.load import LoadError


def test_options_that_were_left_out_get_defaults() -> None:
    options = make_options("x", "About x.")
    options.add_argument("--runs", type=command.count)
    options.add_argument("--only", type=command.some_of(("one", "two")))
    chosen = options.parse_args(["--only", "two,one"])
    fill(chosen, runs=3, only=["one"])
    assert (chosen.runs, chosen.only) == (3, ["two", "one"])
    assert options.prog == "python -m benchmarks x"


@pytest.mark.parametrize("bad", ["0", "-1", "x", "1.5"])
def test_a_count_is_a_positive_whole_number(bad: str) -> None:
    options = make_options("x", None)
    options.add_argument("runs", type=command.count)
    with pytest.raises(SystemExit):
        options.parse_args(["--", bad])


def test_a_part_that_fails_is_told_and_the_next_one_runs() -> None:
    ran: list[str] = []
    failures: list[str] = []

    def run(name: str) -> None:
        ran.append(name)
        if name == "bad":
            raise LoadError("no server")
        if name == "interrupted":
            raise KeyboardInterrupt

    run_parts(["bad", "good", "interrupted", "never"], run, failures.append)
    assert ran == ["bad", "good", "interrupted"]
    assert failures == ["bad: no server", "Interrupted during interrupted."]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert missing_extra(None, None) is None
    assert "psutil is not installed" in str(missing_extra("psutil", None))
    assert "matplotlib is not installed" in str(missing_extra(None, Path("plots")))
