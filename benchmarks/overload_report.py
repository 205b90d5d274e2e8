"""The tables of the overload benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from benchmarks import work
from benchmarks.findings import (
    after_step,
    find_capacity,
    peak,
    recovery,
    settled_in_time,
    settling,
    steady,
    truly_told,
    untrue,
    warming,
)
from benchmarks.goals import goal_table
from benchmarks.outcome import GRACE, LAG_LIMIT
from benchmarks.overload_goals import goals
from benchmarks.results import unique
from benchmarks.tables import cell, spread, table
from benchmarks.trials import SLO, Trial, Trials, bound


def make_report(bench: Trials) -> str:
    parts = [about(bench)]
    for title, make in TABLES.items():
        text = make(bench)
        if text:
            parts.append(f"{title}\n\n{text}")
    parts.append(f"Targets of Clipper's default\n\n{goal_table(goals(bench))}")
    parts += [f"Note: {note}" for note in bench.notes]
    return "\n\n".join(parts)


def about(bench: Trials) -> str:
    known = bench.about
    lines = [
        f"{known['processor']}, {known['cores']} cores, {known['system']}",
        f"Python {known['python']}, {known['when']}",
        f"Rounds: {known['runs']}, each load {known['seconds']:g} s; medians are shown.",
        f"Objective {SLO * 1e3:g} ms; a batch takes {work.SLEEP_BATCH * 1e3:g} ms and "
        f"{work.SLEEP_ROW * 1e3:g} ms for each row. Bound: {bound():,.0f} rows/s.",
        f"Clipper's capacity: {bench.capacity:,.0f}/s.",
        f"good: answered by the model within the objective of when it was due. told: of "
        f"the rest, the share that got the default with a true explanation by the "
        f"objective and {GRACE * 1e3:g} ms. by 5 ms: the same with the model's answers "
        f"until then. late: of all, answered by the model after the objective.",
    ]
    lines += [f"{name} {version}" for name, version in known["peers"].items()]
    if bench.trials:
        busiest = max(trial.other_cores for trial in bench.trials)
        lines.append(f"Other programs took up to {busiest:.2f} cores during a load.")
    return "\n".join(lines)


def load_table(bench: Trials, part: str) -> str:
    heads = ["load", "server", "offered/s", "good/s", "of peak", "told", "by 5 ms"]
    heads += ["late", "p50 ms", "p99 ms", "server us", "workers us", "lag ms", ""]
    lines: list[list[str]] = []
    trials = bench.of(part)
    for load in sorted({trial.load for trial in trials}):
        if lines:
            lines.append([""] * len(heads))
        for lane in unique(trial.lane for trial in trials):
            chosen = [t for t in trials if (t.load, t.lane) == (load, lane)]
            if chosen:
                lines.append(load_line(bench, load, lane, chosen))
    return table(heads, lines, left={1, 13}) if lines else ""


def load_line(bench: Trials, load: float, lane: str, trials: list[Trial]) -> list[str]:
    parts = [trial.outcome.part for trial in trials]
    goodput = [part.goodput for part in parts]
    told = [share for part in parts if (share := truly_told(part)) is not None]
    lag = [trial.outcome.lag_p99 for trial in trials]
    return [
        f"{load:.2f}",
        lane,
        cell([part.offered / part.seconds for part in parts], "{:,.0f}"),
        cell(goodput, "{:,.0f}"),
        cell([good / max(1e-9, peak(bench, lane)) for good in goodput], "{:.2f}"),
        cell(told, "{:.2%}"),
        cell(
            [share for part in parts if (share := settled_in_time(part)) is not None],
            "{:.2%}",
        ),
        cell([part.late / max(1, part.offered) for part in parts], "{:.1%}"),
        cell([part.p50 * 1e3 for part in parts if part.good], "{:.2f}"),
        cell([part.p99 * 1e3 for part in parts if part.good], "{:.2f}"),
        cell([trial.front_cpu * 1e6 for trial in trials], "{:.1f}"),
        cell([trial.worker_cpu * 1e6 for trial in trials], "{:.1f}"),
        cell([value * 1e3 for value in lag], "{:.2f}"),
        "generator too late" if max(lag) > LAG_LIMIT else "",
    ]


def capacity_table(bench: Trials) -> str:
    lines = []
    for lane in unique(trial.lane for trial in bench.of("sweep")):
        found = find_capacity(bench.of("sweep", lane))
        top = [peak(bench, lane)]
        lines.append([lane, cell(found, "{:,.0f}"), spread(found, "{:,.0f}")])
        lines[-1].append(cell(top, "{:,.0f}"))
    heads = ["server", "capacity/s", "of all rounds", "best goodput/s"]
    return table(heads, lines, left={0}) if lines else ""


def answer_table(bench: Trials) -> str:
    """What became of the queries that the model did not answer in time, by lane."""
    lines = []
    trials = [t for t in bench.of("overload") if t.load > 1.0]
    for lane in unique(trial.lane for trial in trials):
        counts: Counter[str] = Counter()
        for trial in trials:
            if trial.lane == lane:
                part = trial.outcome.part
                counts["model, in time"] += part.good
                counts[f"model, late by up to {GRACE * 1e3:g} ms"] += part.barely
                counts["model, later"] += part.late - part.barely
                counts.update(part.kinds)
                counts["default whose explanation was not so"] += untrue(part)
        total = max(1, sum(counts.values()))
        lines += [[lane, kind, f"{n / total:.2%}"] for kind, n in counts.items() if n]
    return table(["server", "answer", "of all"], lines, left={0, 1}) if lines else ""


def moment_table(
    bench: Trials, part: str, heads: list[str], read: Callable[[Trial], list[float | None]]
) -> str:
    """A line for each lane with the medians of what `read` finds in its trials."""
    lines = []
    for lane in unique(trial.lane for trial in bench.of(part)):
        found = [read(trial) for trial in bench.of(part, lane)]
        line = [lane]
        for values in zip(*found, strict=True):
            known = [value for value in values if value is not None]
            missing = len(values) - len(known)
            text = cell(known, "{:,.2f}")
            line.append(f"{text} ({missing} never)" if missing else text)
        lines.append(line)
    return table(["server", *heads], lines, left={0}) if lines else ""


def recovery_table(bench: Trials, part: str = "recovery") -> str:
    def read(trial: Trial) -> list[float | None]:
        over, back = trial.outcome.parts
        return [over.goodput, back.offered / back.seconds, back.goodput, recovery(trial)]

    heads = ["good/s before", "offered/s after", "good/s after", "s to 95 %"]
    return moment_table(bench, part, heads, read)


def cold_table(bench: Trials) -> str:
    def read(trial: Trial) -> list[float | None]:
        part = trial.outcome.part
        rate = part.offered / part.seconds
        return [rate, steady(trial.outcome) * rate, warming(trial)]

    heads = ["offered/s", "steady good/s", "s to 90 % of it"]
    return moment_table(bench, "cold", heads, read)


def step_table(bench: Trials) -> str:
    def read(trial: Trial) -> list[float | None]:
        last = trial.outcome.parts[-1]
        rate = last.offered / last.seconds
        at_once, later = after_step(trial) * rate, steady(trial.outcome) * rate
        return [at_once, later, *(cap for _, cap in trial.caps)]

    heads = [
        "good/s in 0.5 s",
        "steady good/s",
        "cap before",
        "cap when quiet",
        "cap after",
    ]
    return moment_table(bench, "step", heads, read)


def slowdown_table(bench: Trials) -> str:
    def read(trial: Trial) -> list[float | None]:
        own = settling(trial, trial.facts.get("objective", SLO))
        whole = settling(trial, SLO)
        if own is None or whole is None:
            return [None] * 5
        return [whole.before, whole.after, own.before, own.after, own.seconds]

    heads = [
        "cap/ideal",
        "2 s later",
        "of batch objective",
        "2 s later",
        "s to within 15 %",
    ]
    return moment_table(bench, "slowdown", heads, read)


def neighbour_table(bench: Trials) -> str:
    def read(trial: Trial) -> list[float | None]:
        part, facts = trial.outcome.part, trial.facts
        whole = None if part.p99_all is None else part.p99_all * 1e3
        return [part.goodput, part.p99 * 1e3, whole, facts.get("crowd offered", 0.0)]

    heads = ["good/s", "p99 ms of good", "p99 ms of all", "other application, offered/s"]
    return moment_table(bench, "neighbours", heads, read)


def straggler_table(bench: Trials) -> str:
    def read(trial: Trial) -> list[float | None]:
        part = trial.outcome.part
        whole = None if part.p99_all is None else part.p99_all * 1e3
        return [part.offered / part.seconds, part.goodput, part.p50 * 1e3, whole]

    heads = ["offered/s", "good/s", "p50 ms", "p99 ms of all"]
    return moment_table(bench, "straggler", heads, read)


TABLES: dict[str, Callable[[Trials], str]] = {
    "From below: load as a part of the bound": lambda bench: load_table(bench, "sweep"),
    "Capacity: best goodput with 99 % of the offered good, up to 0.9 of the bound": (
        capacity_table
    ),
    "Overload: load in capacities of Clipper": lambda bench: load_table(bench, "overload"),
    "What was answered past the capacity": answer_table,
    "Recovery: four capacities, then 0.8": recovery_table,
    "Retries: 1.2 capacities and then 0.8, asked again three times at once": (
        lambda bench: recovery_table(bench, "retries")
    ),
    "Cold start: 0.8 of the capacity on a model deployed a moment ago": cold_table,
    "Load step: from 0.05 to 0.9 of the capacity": step_table,
    "Slow-down: the model halves its speed under twice the capacity": slowdown_table,
    "Neighbours: half the capacity alone, and beside another application with ten times "
    "its own": neighbour_table,
    "Straggler: one of four replicas takes five times as long": straggler_table,
}
