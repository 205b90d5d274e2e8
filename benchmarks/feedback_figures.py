"""The figures of the feedback benchmark, SVG files in a directory."""

from __future__ import annotations

from pathlib import Path

from benchmarks.feedback_cost import MODES, TARGETS
from benchmarks.feedback_rate import FORMS, POLICIES
from benchmarks.feedback_report import PAPER_FIGURE, Found, median, of
from benchmarks.plot import Series, bar_plot, line_plot
from benchmarks.results import unique
from benchmarks.straggling import LANES


def draw(found: Found, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if found.rate:
        draw_rate(found, directory / "feedback-rate.svg")
    if found.costs is not None:
        draw_costs(found, directory / "feedback-cost.svg")
    if found.stragglers:
        draw_stragglers(found, directory)


def draw_rate(found: Found, path: Path) -> None:
    forms = [form for form in FORMS if of(found.rate, POLICIES[0], form)]
    bars = {
        policy: [
            median(samples, lambda s: s.rate)
            if (samples := of(found.rate, policy, f))
            else 0
            for f in forms
        ]
        for policy in POLICIES
    }
    title = "Durable feedback by query id, over HTTP"
    texts = [
        f"{form.pieces} in a request, {form.connections} conn., {form.says}"
        for form in forms
    ]
    bar_plot(path, title, "pieces per second", texts, bars)


def draw_costs(found: Found, path: Path) -> None:
    policies = [policy for policy, target in TARGETS.items() if target is not None]
    bars = {
        {"quiet": "no feedback", "feedback": "every 10 queries"}[mode]: [
            next(
                max(0.0, one.median(lambda spent: spent.loop)) * 1e6
                for one in found.differences
                if (one.policy, one.mode) == (policy, mode)
            )
            for policy in policies
        ]
        for mode in MODES
    }
    title = "What a policy adds to the way of a query, over static"
    bar_plot(path, title, "microseconds", policies, bars)


def draw_stragglers(found: Found, directory: Path) -> None:
    sizes = [float(size) for size in unique(s.members for s in found.stragglers)]
    lines: dict[str, Series] = {"mean": {}, "p99": {}, "missing": {}, "right": {}}
    for lane in LANES:
        of_lane = [found.straggler(lane.name, int(size)) for size in sizes]
        if not all(of_lane):
            continue
        ys = {
            "mean": [median(s, lambda one: one.mean) * 1e3 for s in of_lane],
            "p99": [median(s, lambda one: one.p99) * 1e3 for s in of_lane],
            "missing": [median(s, lambda one: one.missing) * 1e2 for s in of_lane],
            "right": [median(s, lambda one: one.accuracy) * 1e2 for s in of_lane],
        }
        for name, values in ys.items():
            lines[name] = {**lines[name], lane.name: (sizes, values)}
    known = [size for size in sizes if int(size) in PAPER_FIGURE]
    for name, column in (("mean", 0), ("p99", 1)):
        values = [PAPER_FIGURE[int(size)][column] for size in known]
        lines[name] = {**lines[name], "paper, waits for all": (known, values)}
    labels = {
        "mean": ("Mean latency of an ensemble", "ms", True),
        "p99": ("p99 latency of an ensemble", "ms", True),
        "missing": ("Members that came too late", "% of members", False),
        "right": ("Right answers", "% of queries", False),
    }
    for name, (title, unit, log_y) in labels.items():
        path = directory / f"stragglers-{name}.svg"
        line_plot(path, title, "members", unit, lines[name], log_y=log_y)
