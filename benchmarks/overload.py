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
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks import work
from benchmarks.findings import find_capacity
from benchmarks.load import LoadError
from benchmarks.outcome import OpenLoad
from benchmarks.overload_figures import draw
from benchmarks.overload_report import make_report
from benchmarks.process import raise_descriptor_limit
from benchmarks.results import describe_machine
from benchmarks.servers import PEERS, ClipperServer, peer_version
from benchmarks.serving import _exit, find_peers, positive
from benchmarks.trials import (
    CLIPPER_LANES,
    SLO,
    Lane,
    Trials,
    bound,
    measure,
    register,
    start_clipper,
    start_lanes,
    warm,
)

SWEEP = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the bound
OVERLOAD = (0.5, 0.9, 1.0, 2.0, 4.0, 8.0)  # of the capacity, as all that follow
RECOVERY = (4.0, 0.8)
COLD = 0.8
STEP = (0.9, 0.05, 0.9)
SLOWDOWN = 2.0  # batches are full, so that the cap is what limits them
CAP_SECONDS = 0.05  # from one look at the cap to the next

# The application that is overloaded beside another: a slower model, so that its requests
# crowd the queue and not the processor.
NEIGHBOUR = "neighbour"
NEIGHBOUR_BATCH, NEIGHBOUR_ROW = 2e-3, 2e-3
CROWD = 10.0  # of the neighbour's bound

REPLICAS = 4
STRAGGLER_FACTOR = 5.0
STRAGGLER_LOAD = 0.6  # of what the fast replicas can do
STRAGGLER_SLO = 0.1  # seconds: no deadline cuts the tail that is compared


# -- the parts -------------------------------------------------------------------------


def run_sweep(bench: Trials, lanes: list[Lane]) -> None:
    """Every lane at loads from below, and the capacity that follows."""
    for round_ in range(bench.runs):
        for load in (0.5, 0.8) if bench.short else SWEEP:
            for lane in lanes:
                loads = [(load * bound(), bench.seconds)]
                attempt(bench, lanes, lane, "sweep", load, loads, round_)


def run_overload(bench: Trials, lanes: list[Lane]) -> None:
    for round_ in range(bench.runs):
        for load in (1.0, 4.0) if bench.short else OVERLOAD:
            for lane in lanes:
                loads = [(load * bench.capacity, bench.seconds)]
                attempt(bench, lanes, lane, "overload", load, loads, round_)


def run_recovery(bench: Trials, lanes: list[Lane]) -> None:
    seconds = bench.seconds if bench.short else max(3.0, bench.seconds)
    loads = [(load * bench.capacity, seconds) for load in RECOVERY]
    for round_ in range(bench.runs):
        for lane in lanes:
            attempt(bench, lanes, lane, "recovery", RECOVERY[0], loads, round_)


def attempt(
    bench: Trials,
    lanes: list[Lane],
    lane: Lane,
    part: str,
    load: float,
    loads: list[tuple[float, float]],
    round_: int,
) -> None:
    """A load on one of several servers; one that fails is left out of the rest."""
    try:
        measure(bench, part, lane, load, loads, round_)
    except LoadError as error:
        bench.fail(f"{part}: {lane.name}: {error}")
        lanes.remove(lane)


def run_cold(bench: Trials) -> None:
    """Load on a model that was deployed a moment ago and never asked before."""
    loads = [(COLD * bench.capacity, max(2.0, bench.seconds))]

    def load(lane: Lane, round_: int) -> None:
        measure(bench, "cold", lane, COLD, loads, round_, cold=True)

    for_each_lane(bench, "cold", load)


def run_step(bench: Trials) -> None:
    """A full load, ten quiet seconds, and the full load again."""
    lengths = (1.0, 1.0, 1.5) if bench.short else (3.0, 10.0, 3.0)
    rates = [load * bench.capacity for load in STEP]

    def load(lane: Lane, round_: int) -> None:
        def watch(running: OpenLoad) -> list[tuple[float, float]]:
            caps = []
            for moment in (lengths[0], sum(lengths[:2]), sum(lengths)):
                running.wait_until(moment - CAP_SECONDS)
                caps.append((moment, lane.cap))
            return caps

        loads = list(zip(rates, lengths, strict=True))
        measure(bench, "step", lane, STEP[-1], loads, round_, during=watch)

    for_each_lane(bench, "step", load)


def run_slowdown(bench: Trials) -> None:
    """The model halves its speed in the middle of a load."""
    half = 2.0 if bench.short else max(4.0, bench.seconds)
    flag = bench.scratch / "slow"
    loads = [(SLOWDOWN * bench.capacity, 2 * half)]

    def load(lane: Lane, round_: int) -> None:
        facts: dict[str, float] = {}

        def watch(running: OpenLoad) -> list[tuple[float, float]]:
            caps = []
            while (now := time.monotonic() - running.begun) < 2 * half:
                if now >= half and "slow" not in facts:
                    flag.touch()
                    facts["slow"] = now
                caps.append((now, lane.cap))
                running.wait_until(now + CAP_SECONDS)
            facts["objective"] = lane.gauge("clipper_model_batch_objective_seconds")
            return caps

        try:
            measure(
                bench,
                "slowdown",
                lane,
                SLOWDOWN,
                loads,
                round_,
                during=watch,
                facts=facts,
            )
        finally:
            flag.unlink(missing_ok=True)

    for_each_lane(bench, "slowdown", load, work.make_sleeper(slow_file=str(flag)))


def for_each_lane(
    bench: Trials,
    part: str,
    load: Callable[[Lane, int], None],
    model: work.Model | None = None,
) -> None:
    """`load` on a new server of every controller in every round."""
    for round_ in range(bench.runs):
        for name in bench.lanes:
            scratch = bench.directory(f"{part}-{name}-{round_}")
            try:
                with ExitStack() as stack:
                    lane = start_clipper(
                        bench, stack, scratch, name, model=model, controller=name
                    )
                    load(lane, round_)
            except LoadError as error:
                bench.fail(f"{part}: {name}: {error}")


def run_neighbours(bench: Trials) -> None:
    """An application at half its capacity, alone and beside one that is overloaded."""
    loads = [(0.5 * bench.capacity, bench.seconds)]
    rate = CROWD * bound(SLO, NEIGHBOUR_BATCH, NEIGHBOUR_ROW)
    for round_ in range(bench.runs):
        with ExitStack() as stack:
            scratch = bench.directory(f"neighbours-{round_}")
            lane = start_clipper(bench, stack, scratch, "alone")
            server = lane.server
            assert isinstance(server, ClipperServer)
            server.deploy(NEIGHBOUR, work.make_sleeper(NEIGHBOUR_BATCH, NEIGHBOUR_ROW))
            register(server, NEIGHBOUR, SLO)
            measure(bench, "neighbours", lane, 0.5, loads, round_)
            crowd = bench.target(server, server.path_of(NEIGHBOUR))
            beside = Lane("beside", server, lane.target)
            long = bench.seconds + 2.0
            with OpenLoad(crowd, [(rate, long)], slo=SLO, seed=round_) as running:
                running.wait_until(0.5)
                trial = measure(bench, "neighbours", beside, 0.5, loads, round_)
                outcome = running.outcome()
            trial.facts["crowd offered"] = outcome.part.offered / long
            trial.facts["crowd good"] = outcome.part.goodput


def run_straggler(bench: Trials) -> None:
    """One of four replicas is slow: by Clipper's choice of a replica, and by others."""
    from benchmarks import clipper_app

    rate = STRAGGLER_LOAD * (REPLICAS - 1) * bench.capacity
    picks: list[str | None] = [None, *([] if bench.short else clipper_app.PICKS)]
    if "p2c" not in picks and not bench.short:
        bench.note("Power-of-two-choices (p2c) is not there and was left out.")
    for round_ in range(bench.runs):
        for pick in picks:
            name = pick or "clipper"
            scratch = bench.directory(f"straggler-{name}-{round_}")
            chosen = None if pick is None else {clipper_app.PICK_VARIABLE: pick}
            try:
                with ExitStack() as stack:
                    lane = start_clipper(
                        bench,
                        stack,
                        scratch,
                        name,
                        model=work.make_straggler(str(scratch / "lock"), STRAGGLER_FACTOR),
                        replicas=REPLICAS,
                        slo=STRAGGLER_SLO,
                        environment=chosen,
                    )
                    loads = [(rate, bench.seconds)]
                    warm(bench, lane)
                    measure(bench, "straggler", lane, STRAGGLER_LOAD, loads, round_)
            except LoadError as error:
                bench.fail(f"straggler: {name}: {error}")


TOGETHER: dict[str, Callable[[Trials, list[Lane]], None]] = {  # on servers they share
    "sweep": run_sweep,
    "overload": run_overload,
    "recovery": run_recovery,
}
ALONE: dict[str, Callable[[Trials], None]] = {
    "cold": run_cold,
    "step": run_step,
    "slowdown": run_slowdown,
    "neighbours": run_neighbours,
    "straggler": run_straggler,
}
PARTS = (*TOGETHER, *ALONE)


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
