"""The targets of overload, and how each is read from the trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.findings import (
    Settling,
    peak,
    recovery,
    settling,
    steady,
    truly_told,
    warming,
)
from benchmarks.goals import Goal
from benchmarks.results import Series
from benchmarks.trials import SLO, Trials


def goals(bench: Trials) -> list[Goal]:
    goal = Goal.of_rounds
    found: list[Goal] = []
    for load in (2.0, 4.0, 8.0):
        parts = [t.outcome.part for t in bench.of("overload", "aimd") if t.load == load]
        best = peak(bench, "aimd") or 1.0
        kept = [part.goodput / best for part in parts]
        found.append(goal(f"goodput of its peak at {load:g} times", ">=", 0.9, kept))
        told = [share for part in parts if (share := truly_told(part)) is not None]
        text = f"the rest told in time at {load:g} times"
        found.append(goal(text, ">=", 0.999, told, "{:.4f}"))
    never = float("inf")
    back = [recovery(trial) for trial in bench.of("recovery", "aimd")]
    found.append(goal("recovery, s", "<=", 1.0, _finite(back, never)))
    storm = bench.of("retries", "aimd")
    back = [recovery(trial) for trial in storm]
    found.append(goal("recovery from retries, s", "<=", 1.0, _finite(back, never)))
    normal = [steady(trial.outcome) for trial in storm]
    found.append(goal("good after retries, of what is offered", ">=", 0.99, normal))
    warm = [warming(trial) for trial in bench.of("cold", "aimd")]
    found.append(goal("cold start to 90 %, s", "<=", 0.4, _finite(warm, never)))
    steps = [t.caps[1][1] / max(1.0, t.caps[0][1]) for t in bench.of("step", "aimd")]
    found.append(goal("cap after the quiet time, of before", ">=", 1.0, steps))
    slow = [settling(trial, SLO) for trial in bench.of("slowdown", "aimd")]
    before = [abs(each.before - 1.0) for each in slow if each is not None]
    after = [abs(each.after - 1.0) for each in slow if each is not None]
    near = Settling.NEAR
    found.append(goal("cap settled, distance from ideal", "<=", near, before))
    found.append(goal("and 2 s after the slow-down", "<=", near, after))
    found.append(goal("neighbour's p99 over 20 % or 2 ms, ms", "<=", 0.0, excess(bench)))
    found.append(goal("straggler: p99 of p2c's", "<=", 0.7, to_p2c(bench)))
    return found


def _finite(values: Sequence[float | None], never: float) -> Series:
    return [never if value is None else value for value in values]


def excess(bench: Trials) -> Series:
    """Milliseconds of p99 beyond what a crowded neighbour may cost, per round."""
    found = []
    for alone, beside in pairs(bench, "neighbours", "alone", "beside"):
        if alone is None or beside is None:
            found.append(float("inf"))
        else:
            found.append((beside - alone - max(0.2 * alone, 0.002)) * 1e3)
    return found


def to_p2c(bench: Trials) -> Series:
    return [
        (float("inf") if own is None else own) / other
        for own, other in pairs(bench, "straggler", "clipper", "p2c")
        if other is not None
    ]


def pairs(
    bench: Trials, part: str, one: str, other: str
) -> Iterator[tuple[float | None, float | None]]:
    """The p99 of all arrivals of two lanes, where a round has both."""
    second = {trial.round: trial for trial in bench.of(part, other)}
    for trial in bench.of(part, one):
        if trial.round in second:
            yield trial.outcome.part.p99_all, second[trial.round].outcome.part.p99_all
