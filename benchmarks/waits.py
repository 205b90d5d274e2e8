"""Figure 5 of the Clipper paper: delayed batching.

The same model with each batch_wait, under the same loads, in rounds in which all waits
take their turn at one load before the next load: a drift of the machine meets all alike.
The objective is so wide that nothing is late. Callers of a closed loop ask again as soon
as they are answered, so that throughput and latency tell the same; in an open loop the
waits can differ in latency alone, up to the load that one of them does not sustain.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import plot
from benchmarks.batching_run import Findings, LaneError, Run, Wait
from benchmarks.callers import Load, quantile, run_open, run_predict
from benchmarks.command import progress
from benchmarks.goals import Goal
from benchmarks.lanes import Lane, open_lane, quiet_collector
from benchmarks.mnist import TITLES
from benchmarks.results import unique
from benchmarks.tables import table
from clipper import Server
from clipper.errors import ClipperError

MODELS = ("forest", "linear-svm", "sleep")  # a batch costs much, however few its rows
AUTO = "auto"
WAITS = ("0", "0.5", "1", "2", "4", AUTO)  # milliseconds
SLO_SECONDS = 0.1
CAPACITY_CALLERS = 256
WARM_SECONDS = 0.15
LEARN_SECONDS = 0.5
SHARE_OF_SECONDS = 0.3  # each load takes so much of --seconds: there are many
# Waits whose throughput is this near to the best are told apart by their latency.
NEAR = 0.99


@dataclass(frozen=True)
class Shape:
    """A closed loop of `callers`, or Poisson arrivals at `share` of the capacity."""

    callers: int = 0
    share: float = 0.0

    @property
    def label(self) -> str:
        if not self.callers:
            return f"{self.share:.0%} open"
        return f"{self.callers} caller{'s' if self.callers > 1 else ''}"


LOADS = (
    *(Shape(callers=count) for count in (1, 4, 16, 32, 64, 256)),
    *(Shape(share=share) for share in (0.2, 0.5, 0.8)),
)
CLOSED = {shape.label for shape in LOADS if shape.callers}
SHORT_LOADS = (Shape(callers=1), Shape(callers=32), Shape(share=0.5))
SHORT_WAITS = ("0", "2", AUTO)


# -- measuring -------------------------------------------------------------------------


async def measure(run: Run) -> None:
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
                        wait,
                        controller="aimd",
                        batch_wait=wait if wait == AUTO else float(wait),
                        slo_seconds=SLO_SECONDS,
                    )
                    for wait in (SHORT_WAITS if run.short else WAITS)
                ]
                with quiet_collector():
                    await _measure_lanes(run, lanes)
        except (LaneError, ClipperError) as error:
            run.fail(f"fig5: {error}")


async def _measure_lanes(run: Run, lanes: list[Lane]) -> None:
    capacity = 0.0
    for lane in lanes:  # all of them, so that each has learned before the first round
        load = await run_predict(
            lane.target, CAPACITY_CALLERS, LEARN_SECONDS / 2, LEARN_SECONDS / 2
        )
        capacity = max(capacity, load.rate)
    model = lanes[0].model
    progress(f"fig5 {model}: {capacity:,.0f}/s with {CAPACITY_CALLERS} callers")
    for round_ in range(run.runs):
        for shape in SHORT_LOADS if run.short else LOADS:
            for place in range(len(lanes)):
                lane = lanes[(place + round_) % len(lanes)]
                sample = await _measure_wait(run, lane, shape, capacity, round_)
                run.findings.waits.append(sample)
        progress(f"fig5 {model}: round {round_ + 1}/{run.runs}")


async def _measure_wait(
    run: Run, lane: Lane, shape: Shape, capacity: float, round_: int
) -> Wait:
    seconds = SHARE_OF_SECONDS * run.seconds
    log = lane.log
    if shape.callers:
        sizes: list[int] = []
        load = await run_predict(
            lane.target,
            shape.callers,
            seconds,
            WARM_SECONDS,
            log.clear,
            lambda: sizes.extend(rows for rows, _ in log.batches),
        )
    else:
        log.clear()
        rate = shape.share * capacity
        load = await run_open(lane.target, rate, seconds, WARM_SECONDS, seed=round_)
        sizes = [rows for rows, _ in log.batches]
    return _make_sample(lane, shape, round_, load, sizes)


def _make_sample(
    lane: Lane, shape: Shape, round_: int, load: Load, sizes: list[int]
) -> Wait:
    return Wait(
        model=lane.model,
        load=shape.label,
        wait=lane.label,
        round=round_,
        rate=load.rate,
        mean=load.mean,
        p99=load.quantile(0.99),
        batch_rows=statistics.fmean(sizes) if sizes else 0.0,
        refused=load.refused,
        lag=quantile(load.lags, 0.99),
    )


# -- showing ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """All waits of one model under one load."""

    model: str
    load: str
    waits: dict[str, list[Wait]]  # by batch_wait, in the order of the rounds

    def middle(self, wait: str, value: Callable[[Wait], float]) -> float:
        return statistics.median(map(value, self.waits[wait]))

    @property
    def best(self) -> str:
        """The fixed wait with the highest throughput, and the lowest mean latency among
        those that come near it."""
        rates = {w: self.middle(w, rate) for w in self.waits if w != AUTO}
        enough = NEAR * max(rates.values())
        near = [wait for wait, found in rates.items() if found >= enough]
        return min(near, key=lambda wait: self.middle(wait, mean))

    def of_best(self, value: Callable[[Wait], float]) -> float:
        """Auto's value over that of the best fixed wait: the median over the rounds of
        the ratio within a round."""
        pairs = zip(self.waits[AUTO], self.waits[self.best], strict=False)
        found = [value(a) / value(b) for a, b in pairs if value(b) > 0]
        return statistics.median(found) if found else 0.0


def rate(sample: Wait) -> float:
    return sample.rate


def mean(sample: Wait) -> float:
    return sample.mean


def places(findings: Findings) -> list[Place]:
    found = []
    for model, load in unique((each.model, each.load) for each in findings.waits):
        waits: dict[str, list[Wait]] = {}
        for each in findings.waits:
            if (each.model, each.load) == (model, load):
                waits.setdefault(each.wait, []).append(each)
        # in the order of milliseconds, although rounds begin with different ones
        ordered = {wait: waits[wait] for wait in WAITS if wait in waits}
        if AUTO in ordered and len(ordered) > 1:
            found.append(Place(model, load, ordered))
    return found


def models_of(findings: Findings) -> list[str]:
    return unique(place.model for place in places(findings))


def report(findings: Findings) -> str:
    all_places = places(findings)
    waits = [wait for wait in WAITS if any(wait in place.waits for place in all_places)]
    heads = ["model", "load", *(f"{wait}/s" for wait in waits), "best", "auto/best"]
    heads += ["auto mean ms", "best's", "auto/best", "rows auto", "best's", "late"]
    lines: list[list[str]] = []
    for model in models_of(findings):
        lines += [[""] * len(heads)] if lines else []
        lines += [_line(place, waits) for place in all_places if place.model == model]
    return table(heads, lines, left={0, 1})


def _line(place: Place, waits: list[str]) -> list[str]:
    best = place.best
    return [
        TITLES[place.model],
        place.load,
        *(
            f"{place.middle(wait, rate):,.0f}" if wait in place.waits else "-"
            for wait in waits
        ),
        best,
        f"{place.of_best(rate):.3f}",
        f"{place.middle(AUTO, mean) * 1e3:.2f}",
        f"{place.middle(best, mean) * 1e3:.2f}",
        f"{place.of_best(mean):.3f}",
        f"{place.middle(AUTO, lambda s: s.batch_rows):.1f}",
        f"{place.middle(best, lambda s: s.batch_rows):.1f}",
        str(sum(sample.refused for group in place.waits.values() for sample in group)),
    ]


def goals(findings: Findings) -> list[Goal]:
    all_places = places(findings)
    found: list[Goal] = []
    for model in models_of(findings):
        mine = [place for place in all_places if place.model == model]
        text = f"{TITLES[model]}, all loads: throughput of auto, of the best fixed wait's"
        values = [each.of_best(rate) for each in mine]
        found.append(Goal.of_worst(text, ">=", 0.98, values))
        text = f"{TITLES[model]}, all loads: mean latency of auto, of that wait's"
        values = [each.of_best(mean) for each in mine]
        found.append(Goal.of_worst(text, "<=", 1.02, values))
    return found


def draw(findings: Findings, path: Path) -> None:
    """Throughput of each fixed wait in closed loops over that of auto, for each model at
    the number of callers where waiting gains most, the largest where it never does."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    longest = 0.0
    for model in models_of(findings):
        closed = [
            place
            for place in places(findings)
            if place.model == model and place.load in CLOSED
        ]
        if not closed:
            continue
        place = max(reversed(closed), key=_gain)
        fixed = [wait for wait in place.waits if wait != AUTO]
        own = place.middle(AUTO, rate)
        ys = [place.middle(wait, rate) / own if own else 0.0 for wait in fixed]
        series[f"{TITLES[model]}, {place.load}"] = ([float(w) for w in fixed], ys)
        longest = max(longest, *map(float, fixed))
    series["auto"] = ([0.0, longest], [1.0, 1.0])
    plot.line_plot(
        path,
        "Throughput of fixed waits, relative to batch_wait auto",
        "batch_wait in milliseconds",
        "throughput / that of auto",
        series,
    )


def _gain(place: Place) -> float:
    """Of the best fixed wait over the shortest."""
    rates = [place.middle(wait, rate) for wait in place.waits if wait != AUTO]
    return max(rates) / rates[0] if rates[0] > 0 else 0.0
