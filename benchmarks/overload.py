"""Overload: what is kept of the goodput when more is asked than can be answered.

A model that sleeps 1 ms and 0.4 ms for each row, an objective of 20 ms, no cache, on
Clipper with several batch controllers, on Mosec and on LitServe. Load is open: requests
come when they come, as a Poisson process, and their latency counts from the moment they
were due. Peers are found in ~/.cache/clipper-peers/NAME or on the interpreter at work.
Nothing else should run on the machine. Linux only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

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
from benchmarks.findings import find_capacity
from benchmarks.load import LoadError
from benchmarks.overload_figures import draw
from benchmarks.overload_parts import ALONE, PARTS, TOGETHER, run_sweep
from benchmarks.overload_report import make_report
from benchmarks.process import raise_descriptor_limit
from benchmarks.results import describe_machine
from benchmarks.servers import PEERS, add_peer_options, find_peers, peer_versions
from benchmarks.trials import CLIPPER_LANES, Lane, Trials, start_lanes


def run_all(bench: Trials, names: list[str]) -> None:
    """Run the parts called `names`, up to an interrupt; one that fails leaves a note."""
    name = "start"
    try:
        with ExitStack() as stack:
            together = [name for name in TOGETHER if name in names]
            lanes: list[Lane] = []
            if together or not bench.capacity:
                wanted = bench.all_lanes if together else ["aimd"]
                scratch = bench.directory("together")
                lanes += start_lanes(bench, stack, scratch, wanted)
            if "sweep" not in together and not bench.capacity:
                run_sweep(bench, [lane for lane in lanes if lane.name == "aimd"])
            for name in together:
                if name != "sweep":
                    settle_capacity(bench)
                TOGETHER[name](bench, lanes)
        settle_capacity(bench)
        alone = [name for name in ALONE if name in names]
        run_parts(alone, lambda name: ALONE[name](bench), bench.fail)
    except LoadError as error:
        bench.fail(f"{name}: {error}")
    except KeyboardInterrupt:
        bench.fail(f"Interrupted during {name}.")


def settle_capacity(bench: Trials) -> None:
    """Take the capacity of Clipper's default controller from the sweep, once."""
    if not bench.capacity:
        found = find_capacity(bench.of("sweep", "aimd"))
        if not found:
            raise LoadError("Clipper's capacity was not measured")
        bench.capacity = statistics.median(found)
        progress(f"the capacity is {bench.capacity:,.0f}/s")


# -- the command line ------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    missing = missing_extra(None, chosen.plot)
    if missing is not None:
        return refuse(missing)
    end_on_signals()
    raise_descriptor_limit()
    try:
        peers = find_peers(chosen)
        versions = peer_versions(peers)
    except LoadError as error:
        return refuse(str(error))
    about = {
        **describe_machine(),
        "runs": chosen.runs,
        "seconds": chosen.seconds,
        "peers": versions,
    }
    with tempfile.TemporaryDirectory(prefix="clipper-bench-") as scratch:
        bench = Trials(
            scratch=Path(scratch),
            about=about,
            runs=chosen.runs,
            seconds=chosen.seconds,
            short=chosen.short,
            lanes=("aimd",) if chosen.short else CLIPPER_LANES,
            peers=peers,
            capacity=chosen.capacity,
        )
        for name in PEERS:
            if name not in peers and not chosen.short:
                bench.note(f"{name} was left out.")
        run_all(bench, chosen.only)
        if chosen.short:
            bench.notes.append(SHORT)
    print(f"\n{make_report(bench)}")
    if chosen.json is not None:
        bench.write(chosen.json)
    if chosen.plot is not None:
        draw(bench, chosen.plot)
    return 1 if bench.failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    options = make_options("overload", __doc__)
    add = options.add_argument
    add("--runs", type=count, help="rounds (3)")
    add("--seconds", type=float, help="of each load (5)")
    add("--only", type=some_of(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)}")
    add("--capacity", type=float, default=0.0, help="requests/s, in place of the sweep's")
    add("--json", type=Path, metavar="FILE", help="write every trial there")
    add("--plot", type=Path, metavar="FILE.svg", help="draw goodput over load there")
    add("--short", action="store_true", help="half a minute in all: does it work")
    add_peer_options(options)
    chosen = options.parse_args(arguments)
    short = chosen.short
    fill(chosen, runs=1 if short else 3, seconds=1.0 if short else 5.0)
    if not 0.5 <= chosen.seconds <= 600 or chosen.capacity < 0:
        options.error("--seconds must be from 0.5 to 600, --capacity a positive number")
    return chosen
