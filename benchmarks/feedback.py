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
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from benchmarks.command import (
    SHORT,
    count,
    end_on_signals,
    fill,
    make_options,
    missing_extra,
    progress,
    refuse,
    run_parts,
    some_of,
)
from benchmarks.feedback_cost import measure_costs
from benchmarks.feedback_disk import flush_seconds, measure_sizes
from benchmarks.feedback_rate import run_join, run_rate
from benchmarks.feedback_report import Found, make_report
from benchmarks.mnist import missing_package
from benchmarks.process import raise_descriptor_limit
from benchmarks.results import describe_machine
from benchmarks.stragglers import RATE, SIZES, measure_stragglers


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    missing = missing_extra(None, chosen.plots)
    if missing is not None:
        return refuse(missing)
    end_on_signals()
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="clipper-bench-", dir=chosen.disk) as scratch:
        about = describe_machine() | {
            "runs": chosen.runs,
            "seconds": chosen.seconds,
            "flush_ms": flush_seconds(Path(scratch)) * 1e3,
        }
        found = Found(about)
        if chosen.short:
            found.notes.append(SHORT)
        run = partial(run_part, found, Path(scratch), chosen)
        run_parts(chosen.only, run, found.fail)
    print(f"\n{make_report(found)}")
    if chosen.json is not None:
        found.write(chosen.json)
    if chosen.plots is not None:
        from benchmarks.feedback_figures import draw

        draw(found, chosen.plots)
    return 1 if found.failed else 0


# -- the parts -------------------------------------------------------------------------


def run_part(found: Found, scratch: Path, chosen: argparse.Namespace, name: str) -> None:
    PARTS[name](found, scratch, chosen)


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
    options = make_options("feedback", __doc__)
    add = options.add_argument
    add("--runs", type=count, help="rounds (5)")
    add(
        "--seconds", type=float, help="of each load (2); a load of stragglers has six times"
    )
    add("--rate", type=float, default=RATE, help=f"queries/s of stragglers ({RATE:g})")
    add("--only", type=some_of(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)}")
    add("--disk", type=Path, metavar="DIR", help="where data directories are made")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--plots", type=Path, metavar="DIR", help="draw SVG files there")
    add("--short", action="store_true", help="a minute in all: does it work")
    chosen = options.parse_args(arguments)
    short = chosen.short
    fill(chosen, runs=1 if short else 5, seconds=0.5 if short else 2.0)
    if not 0.2 <= chosen.seconds <= 600 or not 1 <= chosen.rate <= 1000:
        options.error("--seconds must be from 0.2 to 600, --rate from 1 to 1000")
    return chosen
