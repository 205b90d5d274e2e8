"""Overload: what is kept of the goodput when more is asked than can be answered.

A model that sleeps 1 ms and 0.4 ms for each row, an objective of 20 ms, no cache, on
Clipper with several batch controllers, on Mosec and on LitServe. Load is open: requests
come when they come, as a Poisson process, and their latency counts from the moment they
were due. Peers are found in ~/.cache/clipper-peers/NAME or on the interpreter at work.
Nothing else should run on the machine. Linux only.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.findings import find_capacity
from benchmarks.load import LoadError
from benchmarks.overload_figures import draw
from benchmarks.overload_parts import ALONE, PARTS, TOGETHER, run_sweep
from benchmarks.overload_report import make_report
from benchmarks.process import raise_descriptor_limit
from benchmarks.results import describe_machine
from benchmarks.servers import PEERS, peer_version
from benchmarks.serving import _exit, find_peers, positive
from benchmarks.trials import CLIPPER_LANES, Lane, Trials, start_lanes


def run_parts(bench: Trials, names: list[str]) -> None:
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
        for name in ALONE:
            if name in names:
                run_alone(bench, name)
    except LoadError as error:
        bench.fail(f"{name}: {error}")
    except KeyboardInterrupt:
        bench.fail(f"Interrupted during {name}.")


def run_alone(bench: Trials, name: str) -> None:
    try:
        ALONE[name](bench)
    except LoadError as error:
        bench.fail(f"{name}: {error}")


def settle_capacity(bench: Trials) -> None:
    """Take the capacity of Clipper's default controller from the sweep, once."""
    if not bench.capacity:
        found = find_capacity(bench.of("sweep", "aimd"))
        if not found:
            raise LoadError("Clipper's capacity was not measured")
        bench.capacity = statistics.median(found)
        bench.progress(f"the capacity is {bench.capacity:,.0f}/s")


# -- the command line ------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    if chosen.plot is not None and find_spec("matplotlib") is None:
        print("error: --plot needs matplotlib, of the extra `bench`", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    raise_descriptor_limit()
    try:
        peers = find_peers(chosen)
        versions = {name: peer_version(name, python) for name, python in peers.items()}
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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
        run_parts(bench, chosen.only)
    print(f"\n{make_report(bench)}")
    if chosen.json is not None:
        bench.write(chosen.json)
    if chosen.plot is not None:
        draw(bench, chosen.plot)
    return 1 if bench.failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--runs", type=positive, help="rounds (3)")
    add("--seconds", type=float, help="of each load (5)")
    add("--only", type=parts, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    add("--capacity", type=float, default=0.0, help="requests/s, in place of the sweep's")
    add("--json", type=Path, metavar="FILE", help="write every trial there")
    add("--plot", type=Path, metavar="FILE.svg", help="draw goodput over load there")
    add("--short", action="store_true", help="half a minute in all: does it work")
    add("--mosec-python", metavar="PATH", help="the interpreter that has Mosec")
    add("--litserve-python", metavar="PATH", help="the interpreter that has LitServe")
    add("--no-peers", action="store_true", help="neither Mosec nor LitServe")
    chosen = options.parse_args(arguments)
    if chosen.runs is None:
        chosen.runs = 1 if chosen.short else 3
    if chosen.seconds is None:
        chosen.seconds = 1.0 if chosen.short else 5.0
    if not 0.5 <= chosen.seconds <= 600 or chosen.capacity < 0:
        options.error("--seconds must be from 0.5 to 600, --capacity a positive number")
    return chosen


def parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no part {unknown[0]!r}; there are {', '.join(PARTS)}"
        )
    return names
