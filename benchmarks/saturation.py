"""Figure 4 of the Clipper paper: controllers at saturation, 20 ms objective.

Each controller is shown at its best: the number of callers is doubled from 1 to 4,096
until goodput falls, and the fewest that came within 5 % of the best are measured in rounds
in which all controllers take their turn. Goodput is what the model answered in time; who
got the default output pauses 5 ms before the next query. The default controller is loaded
in an open loop as well, past what it can answer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import plot
from benchmarks.baselines import PaperAIMD
from benchmarks.batching_run import Findings, LaneError, Run, Saturation
from benchmarks.callers import CLOSED, Load, quantile, run_open
from benchmarks.command import progress
from benchmarks.goals import Goal
from benchmarks.lanes import Lane, open_lane, quiet_collector
from benchmarks.mnist import TITLES
from benchmarks.results import unique
from benchmarks.tables import spread, table
from clipper import Server
from clipper.batching.registry import CONTROLLERS
from clipper.errors import ClipperError

MODELS = ("noop", "linear-svm", "logistic", "forest", "rbf-svm")
SLO_SECONDS = 0.02
CALLERS = tuple(2**e for e in range(13))
# Shares of the best goodput: two numbers of callers in turn below the first end the search,
# or one below the second.
FALL, COLLAPSE = 0.7, 0.25
NEAR = 0.95  # of the best goodput is as good
SEARCH_SECONDS, SEARCH_WARM = 0.25, 0.2
WARM_SECONDS = 0.25
# The paper's prototype adds two rows per batch, and has to be given the time to.
SLOW_SECONDS = {"paper_aimd": 0.75}
LONG_BATCH = 0.002  # seconds; a replica with batches as long as this should be busy
DEFAULT_CONTROLLER = "aimd"
# The default controller is shown in an open loop as well, at so many times its best.
OVERLOAD, FLOOD = 1.3, "aimd, open"

# AIMD's throughput over that without batching, and its p99 of the batch latency in ms.
PAPER = {
    "noop": (5.4, 20.4),
    "linear-svm": (25.5, 20.2),
    "logistic": (24.6, 20.2),
    "forest": (72.0, 20.8),
    "rbf-svm": (0.98, 28.8),
}
RATIOS = {"forest": 72.0, "linear-svm": 8.0, "rbf-svm": 1.2}  # to be reached here

# -- measuring -------------------------------------------------------------------------


async def measure(run: Run) -> None:
    CONTROLLERS.setdefault("paper_aimd", PaperAIMD)
    for model in run.models:
        if model not in MODELS:
            continue
        try:
            async with Server() as server:
                lanes = [
                    await open_lane(
                        run,
                        server,
                        model,
                        controller,
                        controller=controller,
                        slo_seconds=SLO_SECONDS,
                    )
                    for controller in run.controllers
                ]
                with quiet_collector():
                    await _measure_lanes(run, lanes)
        except (LaneError, ClipperError) as error:
            run.fail(f"fig4: {error}")


async def _measure_lanes(run: Run, lanes: list[Lane]) -> None:
    callers = {}
    for lane in lanes:
        callers[lane.label] = await find_callers(run, lane)
    for round_ in range(run.runs):
        for lane in lanes:
            count = callers[lane.label]
            warm = SLOW_SECONDS.get(lane.label, WARM_SECONDS)
            sample = await saturate(run, lane, count, round_, run.seconds, warm)
            run.findings.saturations.append(sample)
            progress(f"fig4 round {round_ + 1}/{run.runs} {describe(sample)}")
            if lane.label == DEFAULT_CONTROLLER and sample.rate:
                sample = await flood(lane, OVERLOAD * sample.rate, round_, run.seconds)
                run.findings.saturations.append(sample)
                progress(f"fig4 round {round_ + 1}/{run.runs} {describe(sample)}")


async def find_callers(run: Run, lane: Lane) -> int:
    """The number of callers at which most is answered in time, or nearly."""
    rates: dict[int, float] = {}
    falls = 0
    warm = SLOW_SECONDS.get(lane.label, SEARCH_WARM)
    for callers in CALLERS[::3] if run.short else CALLERS:
        sample = await saturate(run, lane, callers, -1, SEARCH_SECONDS, warm)
        run.findings.saturations.append(sample)
        rates[callers] = sample.rate
        falls = falls + 1 if sample.rate < FALL * max(rates.values()) else 0
        if falls == 2 or sample.rate < COLLAPSE * max(rates.values()):
            break
    best = fewest_callers(rates)
    progress(f"fig4 {lane.model} {lane.label}: best with {best} callers")
    return best


def fewest_callers(rates: dict[int, float]) -> int:
    """The fewest that come near the best goodput: more only wait, and at the edge of the
    objective a little luck decides who is in time."""
    enough = NEAR * max(rates.values())
    return min(callers for callers, rate in rates.items() if rate >= enough)


async def saturate(
    run: Run, lane: Lane, callers: int, round_: int, seconds: float, warm: float
) -> Saturation:
    meter = Meter(lane)
    closed = CLOSED[run.calls]
    load = await closed(lane.target, callers, seconds, warm, meter.begin, meter.end)
    return meter.sample(load, lane.label, callers, round_)


async def flood(lane: Lane, rate: float, round_: int, seconds: float) -> Saturation:
    """Arrivals faster than the lane can answer: unlike callers, who are all answered at
    once and then all ask at once, they never leave the replica to wait for them."""
    meter = Meter(lane)
    load = await run_open(
        lane.target, rate, seconds, WARM_SECONDS, meter.begin, meter.end, seed=round_
    )
    return meter.sample(load, FLOOD, 0, round_)


class Meter:
    """What a lane's replica and this process do between `begin` and `end`.

    State: wall clock, the worker's and this process's CPU at the beginning and then what
    went by; the batches in between.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._spent = (0.0, 0.0, 0.0)
        self._batches: list[tuple[int, float]] = []

    def _read(self) -> tuple[float, float, float]:
        return time.monotonic(), self._lane.worker_cpu(), time.process_time()

    def begin(self) -> None:
        self._lane.log.clear()
        self._spent = self._read()

    def end(self) -> None:
        wall, worker, server = (
            now - before for now, before in zip(self._read(), self._spent, strict=True)
        )
        self._spent = wall, worker, server
        self._batches = list(self._lane.log.batches)

    def sample(self, load: Load, label: str, callers: int, round_: int) -> Saturation:
        wall, worker, server = self._spent
        sizes = [rows for rows, _ in self._batches]
        took = [seconds for _, seconds in self._batches]
        return Saturation(
            model=self._lane.model,
            controller=label,
            callers=callers,
            round=round_,
            rate=load.rate,
            refused=load.refused / load.seconds,
            query_p99=load.quantile(0.99),
            batch_p99=quantile(took, 0.99),
            batch_mean=statistics.fmean(took) if took else 0.0,
            batch_rows=statistics.fmean(sizes) if sizes else 0.0,
            busy=min(1.0, sum(took) / wall),
            worker_cpu=worker / wall,
            server_cpu=server / wall,
        )


def describe(sample: Saturation) -> str:
    return (
        f"{sample.model} {sample.controller:10} {sample.callers:4} callers "
        f"{sample.rate:9,.0f}/s  batches of {sample.batch_rows:.0f} rows, "
        f"p99 {sample.batch_p99 * 1e3:.1f} ms, busy {sample.busy:.0%}"
    )


# -- showing ---------------------------------------------------------------------------


def rounds_of(findings: Findings, model: str, controller: str) -> list[Saturation]:
    return [
        sample
        for sample in findings.saturations
        if (sample.model, sample.controller) == (model, controller) and sample.round >= 0
    ]


def middle(samples: list[Saturation], value: Callable[[Saturation], float]) -> float:
    return statistics.median(map(value, samples))


def ratios(findings: Findings, model: str, controller: str) -> list[float]:
    """Goodput over that without batching, round by round."""
    upper, lower = (rounds_of(findings, model, name) for name in (controller, "none"))
    return [a.rate / b.rate for a, b in zip(upper, lower, strict=False) if b.rate > 0]


def models_of(findings: Findings) -> list[str]:
    return unique(each.model for each in findings.saturations if each.round >= 0)


def controllers_of(findings: Findings) -> list[str]:
    return unique(each.controller for each in findings.saturations if each.round >= 0)


def report(findings: Findings) -> str:
    heads = ["model", "controller", "callers", "in time/s", "of none", "of all rounds"]
    heads += ["paper's", "batch p99 ms", "mean ms", "rows", "busy %", "worker CPU %"]
    heads += ["server CPU %", "default/s", "query p99 ms"]
    lines: list[list[str]] = []
    for model in models_of(findings):
        if lines:
            lines.append([""] * len(heads))
        for controller in controllers_of(findings):
            samples = rounds_of(findings, model, controller)
            if samples:
                lines.append(_line(findings, model, controller, samples))
    return table(heads, lines, left={0, 1})


def _line(
    findings: Findings, model: str, controller: str, samples: list[Saturation]
) -> list[str]:
    gains = ratios(findings, model, controller)
    own = controller == DEFAULT_CONTROLLER
    return [
        TITLES[model],
        controller,
        str(samples[0].callers or "open"),
        f"{middle(samples, lambda s: s.rate):,.0f}",
        f"{statistics.median(gains):.2f}" if gains else "-",
        spread(gains, "{:.2f}"),
        f"{PAPER[model][0]:g}" if own else "",
        f"{middle(samples, batch_p99) * 1e3:.2f}",
        f"{middle(samples, lambda s: s.batch_mean) * 1e3:.2f}",
        f"{middle(samples, lambda s: s.batch_rows):.1f}",
        f"{middle(samples, lambda s: s.busy) * 100:.0f}",
        f"{middle(samples, lambda s: s.worker_cpu) * 100:.0f}",
        f"{middle(samples, lambda s: s.server_cpu) * 100:.0f}",
        f"{middle(samples, lambda s: s.refused):,.0f}",
        f"{middle(samples, lambda s: s.query_p99) * 1e3:.2f}",
    ]


def batch_p99(sample: Saturation) -> float:
    """No limit where not one batch was answered."""
    return sample.batch_p99 if sample.batch_rows else math.inf


def goals(findings: Findings) -> list[Goal]:
    """Of the default controller. Values are medians over the rounds."""
    found: list[Goal] = []
    for model, target in RATIOS.items():
        gains = ratios(findings, model, DEFAULT_CONTROLLER)
        values = [statistics.median(gains)] if gains else []
        text = f"{TITLES[model]}: in time/s with aimd, over none"
        found.append(Goal.of_worst(text, ">=", target, values, "{:.2f}"))
    busy = [
        middle(samples, lambda s: s.busy)
        for samples in _lanes(findings, FLOOD)
        if middle(samples, lambda s: s.batch_mean) >= LONG_BATCH
    ]
    text = "aimd, open loop, models whose batches take 2 ms or more: replica busy"
    found.append(Goal.of_worst(text, ">=", 0.9, busy))
    p99 = [
        middle(samples, batch_p99) * 1e3
        for samples in _lanes(findings, DEFAULT_CONTROLLER, FLOOD)
    ]
    text = "aimd, every model: p99 of the batch latency, ms"
    found.append(Goal.of_worst(text, "<=", SLO_SECONDS * 1e3, p99, "{:.1f}"))
    return found


def _lanes(findings: Findings, *controllers: str) -> list[list[Saturation]]:
    """The rounds of these controllers, for each model where there are any."""
    lanes = (
        rounds_of(findings, model, controller)
        for model in models_of(findings)
        for controller in controllers
    )
    return [samples for samples in lanes if samples]


def draw(findings: Findings, path: Path) -> None:
    models = models_of(findings)
    series = {
        controller: [
            middle(samples, lambda s: s.rate)
            if (samples := rounds_of(findings, model, controller))
            else 0.0
            for model in models
        ]
        for controller in controllers_of(findings)
        if controller != FLOOD
    }
    plot.bar_plot(
        path,
        "Predictions in time at saturation, 20 ms objective",
        "predictions per second",
        [TITLES[model] for model in models],
        series,
        log_y=True,
    )
