"""The figures of the overload benchmark."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.findings import WINDOW
from benchmarks.outcome import BUCKET
from benchmarks.plot import line_plot
from benchmarks.results import unique
from benchmarks.trials import SLO, Trials, bound

Line = tuple[list[float], list[float]]


def draw(bench: Trials, path: Path) -> list[Path]:
    """Goodput over load at `path`, and beside it recovery and cap, as far as they were
    measured; the files that were written."""
    written = []
    within = f"answers within {SLO * 1e3:g} ms, per second"
    lines = goodput_lines(bench)
    if lines:
        marks = {"bound": bound()}
        line_plot(
            path, "Goodput", "offered per second", within, lines, log_x=True, marks=marks
        )
        written.append(path)
    lines = recovery_lines(bench)
    if lines:
        other = path.with_name(f"{path.stem}-recovery{path.suffix}")
        over = bench.of("recovery")[0].outcome.parts[0].seconds
        title = "From four times the capacity to 0.8 of it"
        marks = {"load falls": over}
        line_plot(other, title, "seconds", within, lines, marks=marks)
        written.append(other)
    lines = cap_lines(bench)
    if lines:
        other = path.with_name(f"{path.stem}-cap{path.suffix}")
        slow = bench.of("slowdown")[0].facts.get("slow", 0.0)
        marks = {"half the speed": slow}
        line_plot(other, "Cap of the batch size", "seconds", "rows", lines, marks=marks)
        written.append(other)
    return written


def goodput_lines(bench: Trials) -> dict[str, Line]:
    """Medians over the rounds, by what was offered on average."""
    lines: dict[str, Line] = {}
    trials = bench.of("sweep") + bench.of("overload")
    for lane in unique(trial.lane for trial in trials):
        points: dict[float, list[float]] = {}
        for trial in trials:
            if trial.lane == lane:
                part = trial.outcome.part
                points.setdefault(part.rate, []).append(part.goodput)
        rates = sorted(points)
        lines[lane] = (rates, [statistics.median(points[rate]) for rate in rates])
    return lines


def recovery_lines(bench: Trials) -> dict[str, Line]:
    """Good answers per second in each window of the first round."""
    lines: dict[str, Line] = {}
    for trial in bench.of("recovery"):
        if trial.lane not in lines:
            good = trial.outcome.good
            starts = range(0, len(good) - WINDOW + 1, WINDOW)
            rates = [sum(good[i : i + WINDOW]) / (WINDOW * BUCKET) for i in starts]
            lines[trial.lane] = ([i * BUCKET for i in starts], rates)
    return lines


def cap_lines(bench: Trials) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for trial in bench.of("slowdown"):
        if trial.caps and trial.lane not in lines:
            moments, caps = zip(*trial.caps, strict=True)
            lines[trial.lane] = (list(moments), list(caps))
    return lines
