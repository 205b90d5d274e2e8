"""Feedback and what learns from it, on the serving side.

rate: pieces of feedback per second that `clipper serve` makes durable, over HTTP, every
query id used once; by query id beside by input, as the Clipper paper gives it; what the
logs take on the disk.
cost: what each policy adds to the way of a query, over `static`.
stragglers: ensembles whose members are late, as in figure 9 of the paper.

Nothing else should run on the machine. Linux only.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import uvloop

from benchmarks.feedback_cost import measure_costs
from benchmarks.feedback_disk import flush_seconds, measure_sizes
from benchmarks.feedback_rate import run_join, run_rate
from benchmarks.feedback_report import Found, make_report
from benchmarks.load import LoadError
from benchmarks.mnist import missing_package
from benchmarks.process import raise_descriptor_limit
from benchmarks.results import describe_machine
from benchmarks.serving import _exit, positive
from benchmarks.stragglers import RATE, SIZES, measure_stragglers


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    if chosen.plots is not None and find_spec("matplotlib") is None:
        print("error: --plots needs matplotlib, of the extra `bench`", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="clipper-bench-", dir=chosen.disk) as scratch:
        about = describe_machine() | {
            "runs": chosen.runs,
            "seconds": chosen.seconds,
            "flush_ms": flush_seconds(Path(scratch)) * 1e3,
        }
        found = Found(about)
        for name in chosen.only:
            try:
                PARTS[name](found, Path(scratch), chosen)
            except LoadError as error:
                found.notes.append(f"{name}: {error}")
                found.failed = True
            except KeyboardInterrupt:
                found.notes.append(f"Interrupted during {name}.")
                found.failed = True
                break
    print(f"\n{make_report(found)}")
    if chosen.json is not None:
        found.write(chosen.json)
    if chosen.plots is not None:
        from benchmarks.feedback_figures import draw

        draw(found, chosen.plots)
    return 1 if found.failed else 0


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- the parts -------------------------------------------------------------------------

Part = Callable[[Found, Path, argparse.Namespace], None]


def rate_part(found: Found, scratch: Path, chosen: argparse.Namespace) -> None:
    for sample in run_rate(scratch, chosen.runs, chosen.seconds, chosen.short, progress):
        found.rate.append(sample)


def join_part(found: Found, scratch: Path, chosen: argparse.Namespace) -> None:
    package = missing_package()
    if package is not None:
        found.notes.append(f"join was left out: it needs {package}, of the extra `bench`.")
        return
    for sample in run_join(scratch, chosen.runs, chosen.seconds, chosen.short, progress):
        found.join.append(sample)


def sizes_part(found: Found, scratch: Path, chosen: argparse.Namespace) -> None:
    queries = 500 if chosen.short else 5_000
    found.sizes = uvloop.run(measure_sizes(scratch, queries))


def cost_part(found: Found, scratch: Path, chosen: argparse.Namespace) -> None:
    windows, queries = (5, 1_000) if chosen.short else (8 * chosen.runs, 2_000)
    found.costs = uvloop.run(measure_costs(scratch, windows, queries, progress))


def stragglers_part(found: Found, scratch: Path, chosen: argparse.Namespace) -> None:
    sizes, seconds = ((1, 4), 2.0) if chosen.short else (SIZES, 6 * chosen.seconds)
    found.stragglers = uvloop.run(
        measure_stragglers(sizes, chosen.runs, seconds, chosen.rate, progress)
    )


PARTS: dict[str, Part] = {
    "rate": rate_part,
    "join": join_part,
    "sizes": sizes_part,
    "cost": cost_part,
    "stragglers": stragglers_part,
}


# -- the command line ------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks feedback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--runs", type=positive, help="rounds (5)")
    add(
        "--seconds", type=float, help="of each load (2); a load of stragglers has six times"
    )
    add("--rate", type=float, default=RATE, help=f"queries/s of stragglers ({RATE:g})")
    add("--only", type=parts, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    add("--disk", type=Path, metavar="DIR", help="where data directories are made")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--plots", type=Path, metavar="DIR", help="draw SVG files there")
    add("--short", action="store_true", help="a minute in all: does it work")
    chosen = options.parse_args(arguments)
    if chosen.runs is None:
        chosen.runs = 1 if chosen.short else 5
    if chosen.seconds is None:
        chosen.seconds = 0.5 if chosen.short else 2.0
    if not 0.2 <= chosen.seconds <= 600 or not 1 <= chosen.rate <= 1000:
        options.error("--seconds must be from 0.2 to 600, --rate from 1 to 1000")
    return chosen


def parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part {unknown[0]!r}; there are {', '.join(PARTS)}"
        )
    return names
