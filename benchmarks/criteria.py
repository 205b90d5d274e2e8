"""The targets of serving speed, and how each is read from what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.goals import Goal
from benchmarks.results import Results, Sample, Series

Measure = Callable[[Results], Series]  # empty where it was not measured


@dataclass(frozen=True)
class Criterion:
    """`text`: what is compared. The median over the rounds of `measure` must reach
    `target`, or where `at_most` stay within it."""

    text: str
    target: float
    measure: Measure
    form: str = "{:.2f}"
    at_most: bool = False

    def goal(self, results: Results) -> Goal:
        sign = "<=" if self.at_most else ">="
        values = self.measure(results)
        return Goal.of_rounds(self.text, sign, self.target, values, self.form)


def of(case: str, lane: str, connections: int, value: Callable[[Sample], float]) -> Measure:
    """A value of one lane, round by round."""
    return lambda results: [value(s) for s in results.of(case, lane, connections)]


def rate(sample: Sample) -> float:
    return sample.rate


def row_rate(sample: Sample) -> float:
    return sample.rate * sample.rows


def front_cpu(sample: Sample) -> float:
    return sample.front_cpu


def p50(sample: Sample) -> float:
    return sample.p50


def best_rate(case: str, lane: str) -> Measure:
    """The lane's highest rate in each round, at whatever number of connections.

    Mosec's grows up to 512 of them: without that many nothing was its best.
    """

    def measure(results: Results) -> Series:
        counts = results.connections(case)
        lanes = [results.of(case, lane, count) for count in counts]
        if 512 not in counts or len({len(samples) for samples in lanes}) != 1:
            return []
        return [max(map(rate, samples)) for samples in zip(*lanes, strict=True)]

    return measure


def ratio(upper: Measure, lower: Measure) -> Measure:
    """Quotients within each round; empty unless both were measured alike."""

    def measure(results: Results) -> Series:
        uppers, lowers = upper(results), lower(results)
        if len(uppers) != len(lowers):
            return []
        return [a / b for a, b in zip(uppers, lowers, strict=True) if b > 0]

    return measure


def series(name: str, scale: float = 1.0) -> Measure:
    return lambda results: [value / scale for value in results.series.get(name, [])]


def worst(name: str) -> Measure:
    return lambda results: sorted(results.series.get(name, []))[-1:]


SUM_128 = of("sum", "clipper", 128, rate)

CRITERIA = (
    Criterion(
        "sum, 128 connections: requests/s, of the floor's",
        0.5,
        ratio(SUM_128, of("sum", "floor", 128, rate)),
    ),
    Criterion(
        "sum, 128 connections: server CPU per request, of the floor's",
        2.0,
        ratio(
            of("sum", "clipper", 128, front_cpu),
            of("sum", "floor", 128, front_cpu),
        ),
        at_most=True,
    ),
    Criterion(
        "sum, 128 connections: requests/s, of Mosec's",
        3.5,
        ratio(SUM_128, of("sum", "mosec", 128, rate)),
    ),
    Criterion(
        "sum, 128 connections: requests/s, of Mosec's best",
        2.5,
        ratio(SUM_128, best_rate("sum", "mosec")),
    ),
    Criterion(
        "sum, 1 connection: p50, of the floor's",
        3.0,
        ratio(of("sum", "clipper", 1, p50), of("sum", "floor", 1, p50)),
        at_most=True,
    ),
    Criterion(
        "sum, input_batch of 64: rows/s",
        200_000,
        of("batch64", "clipper", 128, row_rate),
        "{:,.0f}",
    ),
    Criterion(
        "SVM of 784, 128 connections: predictions/s",
        12_000,
        of("svm", "clipper", 128, rate),
        "{:,.0f}",
    ),
    Criterion(
        "sum, npy of 256 rows: rows/s",
        500_000,
        of("npy256", "clipper", 32, row_rate),
        "{:,.0f}",
    ),
    Criterion("embedded: predictions/s", 60_000, series("embedded tasks"), "{:,.0f}"),
    Criterion(
        "cached repeats: requests/s, of the uncached sum's",
        1.2,
        ratio(of("cached", "cached", 128, rate), of("cached", "clipper", 128, rate)),
    ),
    Criterion(
        "cached repeats: server CPU per request, of the floor's",
        1.5,
        ratio(
            of("cached", "cached", 128, front_cpu),
            of("cached", "floor", 128, front_cpu),
        ),
        at_most=True,
    ),
    Criterion(
        "refused under overload: server CPU per request, of the floor's",
        1.5,
        ratio(
            of("refused", "refused", 128, front_cpu),
            of("refused", "floor", 128, front_cpu),
        ),
        at_most=True,
    ),
    Criterion(
        "1,000 identical misses: evaluations, at worst",
        1,
        worst("evaluations"),
        "{:.0f}",
        at_most=True,
    ),
    Criterion("start to first answer, s", 0.6, series("start"), "{:.3f}", at_most=True),
    Criterion(
        "idle memory, server and one worker: PSS, MB",
        110,
        series("pss", 1e6),
        "{:.1f}",
        at_most=True,
    ),
)
