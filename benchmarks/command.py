"""What the command lines of the benchmarks share: options, refusals, parts, files."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.load import LoadError

# -- options ---------------------------------------------------------------------------


def make_options(name: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of one benchmark; `about` is its docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def fill(chosen: argparse.Namespace, **defaults: Any) -> None:
    """Give options that were left out the defaults of this run."""
    for name, value in defaults.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)


def count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names, each of which must be known."""

    def parse_names(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"there is no {name!r}; there are {', '.join(known)}"
                )
        return names

    return parse_names


SHORT = "a short run shows that everything works; its figures and verdicts mean nothing."

# -- running ---------------------------------------------------------------------------


def refuse(reason: str) -> int:
    """Say why nothing is measured; the status to end with."""
    print(f"error: {reason}", file=sys.stderr)
    return 2


def missing_extra(package: str | None, plots: Path | None) -> str | None:
    """Why a run that lacks `package`, or what draws its plots, cannot begin."""
    if package is None and plots is not None and find_spec("matplotlib") is None:
        package = "matplotlib"
    if package is None:
        return None
    return (
        f"{package} is not installed; this needs the extra `bench`: pip install '.[bench]'"
    )


def end_on_signals() -> None:
    """End as on Ctrl-C when told to, so that every process of the run is stopped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def run_parts(
    names: Iterable[str], run: Callable[[str], object], fail: Callable[[str], None]
) -> None:
    """Run the parts called `names`, up to an interrupt; of one that fails, say so."""
    for name in names:
        try:
            run(name)
        except LoadError as error:
            fail(f"{name}: {error}")
        except KeyboardInterrupt:
            fail(f"Interrupted during {name}.")
            return


def progress(text: str) -> None:
    """Say how far the run is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def write_json(path: Path, found: Any) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")
