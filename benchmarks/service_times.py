"""Figure 3 of the Clipper paper: the latency of a batch against its size.

Batches of exactly so many rows go to an idle replica, one at a time, in a shuffled order
so that no drift of the machine looks like a curve. What is measured is what controllers
are told: from handing the batch to the worker's socket to its answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import plot
from benchmarks.batching_run import BatchTime, Findings, LaneError, Run
from benchmarks.command import progress
from benchmarks.goals import Goal
from benchmarks.lanes import Lane, open_lane, quiet_collector
from benchmarks.mnist import TITLES
from benchmarks.results import unique
from benchmarks.tables import table
from clipper import Server
from clipper.errors import ClipperError

MODELS = ("noop", "linear-svm", "logistic", "forest", "rbf-svm")
MOST_ROWS = 4096
# Sizes grow until a batch takes this long: somewhat past the paper's objective of 20 ms.
LONGEST = 0.025
OBJECTIVE = 0.02
GROWTH = 1.35
WARM_ROUNDS = 2
SLO_SECONDS = 10.0  # nothing is to be late here
SHOWN_POINTS = 1000  # of a model in the plot

# a in us per row, c in ms and R2, fitted by least squares to the authors' own samples.
PAPER = {
    "noop": (9.7, 0.39, 0.96),
    "linear-svm": (10.6, 1.28, 0.92),
    "logistic": (11.3, 0.90, 0.95),
    "forest": (22.6, 7.17, 0.73),
    "rbf-svm": (4610.0, 3.05, 0.74),
}


class Line(NamedTuple):
    """seconds = per_row * rows + fixed, by ordinary least squares."""

    per_row: float
    fixed: float
    r2: float

    def rows_within(self, seconds: float) -> float:
        return max(0.0, seconds - self.fixed) / self.per_row if self.per_row > 0 else np.inf


def fit_line(rows: list[int], seconds: list[float]) -> Line:
    x, y = np.asarray(rows, float), np.asarray(seconds, float)
    per_row, fixed = np.polyfit(x, y, 1)
    around = float(((y - y.mean()) ** 2).sum())
    off = float(((y - per_row * x - fixed) ** 2).sum())
    return Line(float(per_row), float(fixed), 1.0 - off / around if around else 1.0)


# -- measuring -------------------------------------------------------------------------


async def measure(run: Run) -> None:
    for model in run.models:
        if model not in MODELS:
            continue
        try:
            async with Server() as server:
                lane = await open_lane(
                    run,
                    server,
                    model,
                    "sizes",
                    controller="fixed",
                    max_batch_size=MOST_ROWS,
                    batch_wait=0.0,
                    slo_seconds=SLO_SECONDS,
                )
                with quiet_collector():
                    await _measure_sizes(run, lane)
        except (LaneError, ClipperError) as error:
            run.fail(f"fig3: {error}")


async def _measure_sizes(run: Run, lane: Lane) -> None:
    sizes = []
    for rows in grow_sizes():
        for _ in range(WARM_ROUNDS):
            seconds = await time_batch(lane, rows)
        sizes.append(rows)
        if seconds > LONGEST:
            break
    rounds = 3 if run.short else 4 * run.runs
    numbers = random.Random(1)
    for _ in range(rounds):
        numbers.shuffle(sizes)
        for rows in sizes:
            seconds = await time_batch(lane, rows)
            run.findings.batch_times.append(BatchTime(lane.model, rows, seconds))
    line = line_of(run.findings, lane.model)
    progress(
        f"fig3 {lane.model}: {line.per_row * 1e6:.2f} us/row + {line.fixed * 1e3:.2f} ms, "
        f"R2 {line.r2:.2f}, up to {max(sizes)} rows"
    )


def grow_sizes() -> Iterator[int]:
    """1, 2, 3, 4, 6, 8 ... up to MOST_ROWS."""
    rows = 1
    while rows < MOST_ROWS:
        yield rows
        rows = max(rows + 1, int(rows * GROWTH))
    yield MOST_ROWS


async def time_batch(lane: Lane, rows: int) -> float:
    """Seconds of one batch of so many rows."""
    server, name, images = lane.target
    lane.log.clear()
    asked = [images[index % len(images)] for index in range(rows)]
    answers = await server.predict_batch(name, asked)
    if [size for size, _ in lane.log.batches] != [rows]:
        cut = [size for size, _ in lane.log.batches]
        raise LaneError(f"{lane.model}: {rows} rows went in batches of {cut[:9]}")
    if any(answer.default for answer in answers):
        raise LaneError(f"{lane.model}: a batch of {rows} rows got default outputs")
    return lane.log.batches[0][1]


# -- showing ---------------------------------------------------------------------------


def samples_of(findings: Findings, model: str) -> tuple[list[int], list[float]]:
    samples = [each for each in findings.batch_times if each.model == model]
    return [each.rows for each in samples], [each.seconds for each in samples]


def line_of(findings: Findings, model: str) -> Line:
    return fit_line(*samples_of(findings, model))


def models_of(findings: Findings) -> list[str]:
    return unique(each.model for each in findings.batch_times)


def report(findings: Findings) -> str:
    heads = ["model", "batches", "largest", "a us/row", "c ms", "R2", "rows in 20 ms"]
    heads += ["paper's a", "c", "R2", "rows"]
    lines = []
    for model in models_of(findings):
        rows, _ = samples_of(findings, model)
        line, paper = line_of(findings, model), Line(*PAPER[model])
        lines.append(
            [
                TITLES[model],
                str(len(rows)),
                str(max(rows)),
                f"{line.per_row * 1e6:.2f}",
                f"{line.fixed * 1e3:.2f}",
                f"{line.r2:.2f}",
                f"{line.rows_within(OBJECTIVE):,.0f}",
                f"{paper.per_row:,.1f}",
                f"{paper.fixed:.2f}",
                f"{paper.r2:.2f}",
                f"{(OBJECTIVE * 1e3 - paper.fixed) / paper.per_row * 1e3:,.0f}",
            ]
        )
    return table(heads, lines, left={0})


def goals(findings: Findings) -> list[Goal]:
    """None: the line is what controllers build upon."""
    return []


def draw(findings: Findings, path: Path) -> None:
    points, lines = {}, {}
    for model in models_of(findings):
        rows, seconds = samples_of(findings, model)
        step = -(-len(rows) // SHOWN_POINTS)
        points[TITLES[model]] = (rows[::step], [1e3 * s for s in seconds[::step]])
        line = line_of(findings, model)
        ends = [0.0, float(max(rows))]
        fitted = [1e3 * (line.fixed + line.per_row * x) for x in ends]
        lines[TITLES[model]] = (ends, fitted)
    plot.scatter_plot(
        path,
        "Latency of a batch against its size",
        "rows in the batch",
        "milliseconds",
        points,
        lines,
    )
