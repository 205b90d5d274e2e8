"""The tables: what was measured, and the targets beside it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.cases import CASES, Case
from benchmarks.criteria import CRITERIA, front_cpu, of, p50, rate, ratio, row_rate, series
from benchmarks.goals import goal_table
from benchmarks.results import Results, Sample, median
from benchmarks.tables import cell, spread, table


def make_report(results: Results) -> str:
    parts = [about(results)]
    parts += [
        f"{case.title}\n\n{load_table(results, case)}"
        for case in CASES
        if results.lanes(case.name)
    ]
    others = other_table(results)
    if others:
        parts.append(others)
    parts.append(f"Targets\n\n{target_table(results)}")
    parts += [f"Note: {note}" for note in results.notes]
    return "\n\n".join(parts)


def about(results: Results) -> str:
    known = results.about
    lines = [
        f"{known['processor']}, {known['cores']} cores, {known['system']}",
        f"Python {known['python']}, {known['when']}",
        f"Rounds: {known['runs']}, each with {known['seconds']} s on every server in turn; "
        f"medians are shown. Load by {known['generator']}.",
        "Server CPU is that of the server's own processes, workers' CPU that of the "
        "processes that run the model.",
    ]
    lines += [f"{name} {version}" for name, version in known["peers"].items()]
    lines += [f"Clipper's objective is {known['slo_ms']:g} ms."]
    if results.samples:
        busiest = max(sample.other_cores for sample in results.samples)
        lines.append(f"Other programs took up to {busiest:.2f} cores during a load.")
    return "\n".join(lines)


def load_table(results: Results, case: Case) -> str:
    heads = ["connections", "server", "requests/s", "of floor", "p50 ms", "p99 ms"]
    heads += ["server us", "of floor", "workers us", "errors"]
    if case.rows > 1:
        heads.insert(3, "rows/s")
    lines: list[list[str]] = []
    for connections in results.connections(case.name):
        if lines:
            lines.append([""] * len(heads))
        for lane in results.lanes(case.name):
            samples = results.of(case.name, lane, connections)
            if not samples:
                continue

            line = [
                str(connections),
                lane,
                f"{median(samples, rate):,.0f}",
                to_floor(results, samples, rate),
                f"{median(samples, p50) * 1e3:.2f}",
                f"{median(samples, lambda sample: sample.p99) * 1e3:.2f}",
                f"{median(samples, front_cpu) * 1e6:.1f}",
                to_floor(results, samples, front_cpu),
                f"{median(samples, lambda sample: sample.worker_cpu) * 1e6:.1f}",
                str(sum(sample.errors for sample in samples)),
            ]
            if case.rows > 1:
                line.insert(3, f"{median(samples, row_rate):,.0f}")
            lines.append(line)
    return table(heads, lines, left={1})


def to_floor(
    results: Results, samples: list[Sample], value: Callable[[Sample], float]
) -> str:
    """The median ratio to the floor in the same rounds."""
    case, lane, connections = samples[0].case, samples[0].lane, samples[0].connections
    above = of(case, lane, connections, value)
    return cell(ratio(above, of(case, "floor", connections, value))(results), "{:.2f}")


OTHERS = (
    ("embedded, 256 tasks: predictions/s", "embedded tasks", 1.0, "{:,.0f}"),
    ("embedded, 256 tasks: CPU per prediction, us", "embedded tasks cpu", 1e-6, "{:.1f}"),
    ("embedded, gather of 256: predictions/s", "embedded gather", 1.0, "{:,.0f}"),
    (
        "embedded, gather of 256: CPU per prediction, us",
        "embedded gather cpu",
        1e-6,
        "{:.1f}",
    ),
    ("1,000 identical misses at once: evaluations", "evaluations", 1.0, "{:.0f}"),
    ("start to first correct answer, s", "start", 1.0, "{:.3f}"),
    ("idle, server and one worker: PSS, MB", "pss", 1e6, "{:.1f}"),
    ("idle, server and one worker: RSS, MB", "rss", 1e6, "{:.1f}"),
    ("idle, server and one worker: CPU, % of a core", "idle cpu", 0.01, "{:.2f}"),
)


def other_table(results: Results) -> str:
    """What was not measured under load; empty if nothing was."""
    lines = []
    for text, name, scale, form in OTHERS:
        values = series(name, scale)(results)
        if values:
            lines.append([text, cell(values, form), spread(values, form)])
    if not lines:
        return ""
    return "Otherwise\n\n" + table(["measured", "median", "of all rounds"], lines, left={0})


def target_table(results: Results) -> str:
    return goal_table(criterion.goal(results) for criterion in CRITERIA)
