"""The parts of the overload benchmark: which loads are put on which servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import work
from benchmarks.load import LoadError
from benchmarks.outcome import OpenLoad
from benchmarks.servers import ClipperServer
from benchmarks.trials import (
    SLO,
    Lane,
    Trials,
    bound,
    measure,
    register,
    start_clipper,
    warm,
)

SWEEP = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the bound
OVERLOAD = (0.5, 0.9, 1.0, 2.0, 4.0, 8.0)  # of the capacity, as all that follow
RECOVERY = (4.0, 0.8)
STORM, RETRIES = (1.2, 0.8), 3
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


def run_retries(bench: Trials, lanes: list[Lane]) -> None:
    """Clients that ask again at once keep up an overload that they did not begin."""
    seconds = bench.seconds if bench.short else max(3.0, bench.seconds)
    loads = [(load * bench.capacity, seconds) for load in STORM]
    for round_ in range(bench.runs):
        for lane in lanes:
            attempt(bench, lanes, lane, "retries", STORM[0], loads, round_, RETRIES)


def attempt(
    bench: Trials,
    lanes: list[Lane],
    lane: Lane,
    part: str,
    load: float,
    loads: list[tuple[float, float]],
    round_: int,
    retries: int = 0,
) -> None:
    """A load on one of several servers; one that fails is left out of the rest."""
    try:
        measure(bench, part, lane, load, loads, round_, retries=retries)
    except LoadError as error:
        bench.fail(f"{part}: {lane.name}: {error}")
        lanes.remove(lane)


def run_cold(bench: Trials) -> None:
    """Load on a model that was deployed a moment ago and never asked before."""
    seconds = bench.seconds if bench.short else max(2.0, bench.seconds)
    loads = [(COLD * bench.capacity, seconds)]

    def load(lane: Lane, round_: int) -> None:
        measure(bench, "cold", lane, COLD, loads, round_, cold=True)

    for_each_lane(bench, "cold", load)


def run_step(bench: Trials) -> None:
    """A full load, ten quiet seconds, and the full load again."""
    lengths = (0.5, 0.5, 1.0) if bench.short else (3.0, 10.0, 3.0)
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
    half = 1.0 if bench.short else max(4.0, bench.seconds)
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
    "retries": run_retries,
}
ALONE: dict[str, Callable[[Trials], None]] = {
    "cold": run_cold,
    "step": run_step,
    "slowdown": run_slowdown,
    "neighbours": run_neighbours,
    "straggler": run_straggler,
}
PARTS = (*TOGETHER, *ALONE)
