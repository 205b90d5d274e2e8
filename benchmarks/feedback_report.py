"""The tables of the feedback benchmark, its targets, and its figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import write_json
from benchmarks.feedback_cost import DECODING, MODES, TARGETS, Costs, Difference
from benchmarks.feedback_disk import Sizes
from benchmarks.feedback_rate import FORMS, JOINS, POLICIES, Form, RateSample
from benchmarks.goals import Goal, goal_table
from benchmarks.results import Series, unique
from benchmarks.stragglers import StragglerSample
from benchmarks.straggling import CLIPPER, LANES, PAPER, SLO
from benchmarks.tables import spread, table

RATE_TARGET = 15_000.0
JOIN_TARGET = 3.0  # the paper's cache made it 1.63 times as fast
JUDGED = (Form(1, 256), Form(10, 64), Form(100, 16))
FAST_SIZES = (1, 2, 4)  # for which the mean has a target
LAG_LIMIT = 0.002  # p99 of lateness past which latencies say little of the server
BUSY = 0.25  # cores that other programs took past which a figure is provisional
BLOCKS = 5  # of windows, whose medians show how steady a cost is

# Figure 9 of the paper: mean and p99 without mitigation in ms; members missing with it, %.
PAPER_FIGURE = {
    1: (9.7, 17.7, 1.0), 2: (12.6, 39.6, 2.7), 4: (19.4, 129.0, 11.6),
    8: (23.2, 152.0, 14.7), 16: (65.6, 154.0, 71.3),
}  # fmt: skip


@dataclass
class Found:
    """All that was measured. `about` says where, and how the disk is."""

    about: dict[str, Any]
    rate: list[RateSample] = field(default_factory=list)
    join: list[RateSample] = field(default_factory=list)
    sizes: list[Sizes] = field(default_factory=list)
    costs: Costs | None = None
    stragglers: list[StragglerSample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def fail(self, text: str) -> None:
        """Note that something that was asked for could not be measured."""
        self.failed = True
        self.notes.append(text)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def straggler(self, lane: str, members: int) -> list[StragglerSample]:
        return [s for s in self.stragglers if (s.lane, s.members) == (lane, members)]

    @property
    def differences(self) -> list[Difference]:
        return [] if self.costs is None else self.costs.differences


def make_report(found: Found) -> str:
    about = found.about
    parts = [
        f"{about['processor']}, {about['cores']} cores, {about['system']}\n"
        f"Python {about['python']}, {about['when']}; 4 KB are on the disk after "
        f"{about['flush_ms']:.2f} ms. Medians of {about['runs']} rounds."
    ]
    if found.rate:
        parts.append(f"Durable feedback by query id, over HTTP\n\n{rate_table(found)}")
    if found.join:
        parts.append(f"An ensemble of four learns: ways to say so\n\n{join_table(found)}")
    if found.sizes:
        parts.append(f"On the disk\n\n{size_table(found)}")
    if found.costs is not None:
        parts.append(f"Policies on the way of a query, us\n\n{cost_table(found)}")
    if found.stragglers:
        parts.append(f"Stragglers, 20 ms objective\n\n{straggler_table(found)}")
    parts.append(f"Targets\n\n{goal_table(goals(found))}")
    parts += [f"Note: {note}" for note in [*found.notes, *remarks(found)]]
    return "\n\n".join(parts)


def remarks(found: Found) -> Iterator[str]:
    """What makes figures less than they seem."""
    others = [sample.other_cores for sample in [*found.rate, *found.join]]
    others += [sample.other_cores for sample in found.stragglers]
    if found.costs is not None:
        others.append(found.costs.other_cores)
    if others and max(others) > BUSY:
        yield (
            f"other programs took up to {max(others):.2f} cores, "
            f"{statistics.median(others):.2f} in the median: these figures are provisional."
        )
    faults = sum(sample.faults for sample in [*found.rate, *found.join])
    if faults:
        yield f"{faults} pieces of feedback were refused or taken for duplicates."
    short = sum(sample.exhausted for sample in [*found.rate, *found.join])
    if short:
        yield f"{short} loads ended early, when all their query ids were used."
    late = [sample.lag for sample in found.stragglers if sample.lag > LAG_LIMIT]
    if late:
        yield (
            f"in {len(late)} loads of stragglers queries were sent late, by up to "
            f"{max(late) * 1e3:.1f} ms (p99): their latencies say little of the server."
        )
    absent = {
        lane.name: (
            f"{median(samples, lambda s: s.missing):.1%} late, "
            f"{median(samples, lambda s: s.refused):.1%} refused, "
            f"{median(samples, lambda s: s.unwaited):.1%} no longer needed"
        )
        for lane in (CLIPPER, PAPER)
        if (samples := found.straggler(lane.name, 16))
    }
    if len(absent) == 2:
        yield (
            f"of 16 members {absent[CLIPPER.name]}; with the prototype's rule "
            f"{absent[PAPER.name]}. The 71 % of the paper's figure are of a machine with "
            "more to do than it could, and are not compared."
        )


# -- tables ----------------------------------------------------------------------------


def median(samples: Sequence[Any], value: Callable[[Any], float]) -> float:
    return statistics.median(map(value, samples))


def rate_table(found: Found) -> str:
    heads = ["form", "policy", *LOAD_HEADS]
    lines: list[list[str]] = []
    for form in FORMS:
        for policy in POLICIES:
            samples = of(found.rate, policy, form)
            if samples:
                lines.append([form.text, policy, *load_cells(samples)])
    return table(heads, lines, left={0, 1})


def join_table(found: Found) -> str:
    lines = [
        [lane, *load_cells(samples), f"{median(samples, lambda s: s.worker_cpu) * 1e6:.0f}"]
        for lane in JOINS
        if (samples := [s for s in found.join if s.lane == lane])
    ]
    return table(["feedback", *LOAD_HEADS, "workers us"], lines, left={0})


LOAD_HEADS = [
    "pieces/s", "of all rounds", "p50 ms", "p99 ms", "loop us", "store us", "commits/s",
    "pieces each", "ms each", "generator", "others",
]  # fmt: skip


def load_cells(samples: list[RateSample]) -> list[str]:
    return [
        f"{median(samples, lambda s: s.rate):,.0f}",
        spread([s.rate for s in samples], "{:,.0f}"),
        f"{median(samples, lambda s: s.p50) * 1e3:.1f}",
        f"{median(samples, lambda s: s.p99) * 1e3:.1f}",
        f"{median(samples, lambda s: s.loop_cpu) * 1e6:.1f}",
        f"{median(samples, lambda s: s.store_cpu) * 1e6:.1f}",
        f"{median(samples, lambda s: s.commits):.0f}",
        f"{median(samples, lambda s: s.commit_pieces):.0f}",
        f"{median(samples, lambda s: s.commit_seconds) * 1e3:.1f}",
        f"{median(samples, lambda s: s.generator):.0%}",
        f"{max(s.other_cores for s in samples):.2f}",
    ]


def size_table(found: Found) -> str:
    heads = [
        "policy",
        "entry, bytes",
        "with indexes and pages",
        "decision, bytes per query",
    ]
    lines = [
        [s.policy, f"{s.entry:.0f}", f"{s.entry_disk:.0f}", f"{s.decision:.1f}"]
        for s in found.sizes
    ]
    return table(heads, lines, left={0})


def cost_table(found: Found) -> str:
    heads = ["", "feedback", "the base", "over it", "all threads", "elapsed"]
    lines = [
        [
            f"{one.policy}" if one.policy != DECODING else "decoding 32 features",
            "none" if one.mode == MODES[0] else "every 10 queries",
            f"{one.base_median(lambda s: s.loop) * 1e6:.1f}",
            f"{one.median(lambda s: s.loop) * 1e6:+.1f}",
            f"{one.median(lambda s: s.all) * 1e6:+.1f}",
            f"{one.median(lambda s: s.wall) * 1e6:+.1f}",
        ]
        for one in found.differences
    ]
    return table(heads, lines, left={0, 1}) + (
        "\n\nCPU of the loop's thread; then of all threads, and time that passed. The base "
        "is static\nwith the same body: linucb and squarecb have 32 features in it, whose "
        "decoding is a\nline of its own. hedge and majority ask five models, static one."
    )


def straggler_table(found: Found) -> str:
    heads = ["members", "", "mean ms", "p50", "p99", "worst", "missing %", "not needed %"]
    heads += ["refused %", "right", "no answer %", "late ms"]
    lines: list[list[str]] = []
    for members in unique(sample.members for sample in found.stragglers):
        if lines:
            lines.append([""] * len(heads))
        for lane in LANES:
            samples = found.straggler(lane.name, members)
            if samples:
                lines.append([str(members), lane.name, *straggler_cells(samples)])
        if members in PAPER_FIGURE:
            mean, p99, missing = PAPER_FIGURE[members]
            rest = [""] * 3
            cells = [f"{mean:.1f}", "", f"{p99:.1f}", *rest, "", "", "", ""]
            lines.append([str(members), "paper, without", *cells])
            cells = ["17.0", "", "17 to 23", "", f"{missing:.1f}", "", "", "", "", ""]
            lines.append([str(members), "paper, with", *cells])
    return table(heads, lines, left={1})


def straggler_cells(samples: list[StragglerSample]) -> list[str]:
    return [
        f"{median(samples, lambda s: s.mean) * 1e3:.1f}",
        f"{median(samples, lambda s: s.p50) * 1e3:.1f}",
        f"{median(samples, lambda s: s.p99) * 1e3:.1f}",
        f"{max(s.worst for s in samples) * 1e3:.1f}",
        f"{median(samples, lambda s: s.missing) * 1e2:.1f}",
        f"{median(samples, lambda s: s.unwaited) * 1e2:.1f}",
        f"{median(samples, lambda s: s.refused) * 1e2:.1f}",
        f"{median(samples, lambda s: s.accuracy):.3f}",
        f"{median(samples, lambda s: s.defaults) * 1e2:.1f}",
        f"{median(samples, lambda s: s.lag) * 1e3:.1f}",
    ]


def of(samples: list[RateSample], lane: str, form: Form) -> list[RateSample]:
    return [s for s in samples if (s.lane, s.form) == (lane, form)]


# -- targets ---------------------------------------------------------------------------


def goals(found: Found) -> list[Goal]:
    return [*rate_goals(found), *cost_goals(found), *straggler_goals(found)]


def rate_goals(found: Found) -> Iterator[Goal]:
    for form in JUDGED:
        for policy in POLICIES:
            rates = [s.rate for s in of(found.rate, policy, form)]
            text = f"pieces/s, {policy}, {form.text}"
            yield Goal.of_rounds(text, ">=", RATE_TARGET, rates, "{:,.0f}")
    by_id, _, evaluated = (
        {s.round: s.rate for s in found.join if s.lane == lane} for lane in JOINS
    )
    ratios = [by_id[n] / rate for n, rate in evaluated.items() if n in by_id]
    text = "feedback by query id, times that by input, evaluated"
    yield Goal.of_rounds(text, ">=", JOIN_TARGET, ratios, "{:.1f}")


def cost_goals(found: Found) -> Iterator[Goal]:
    for policy, target in TARGETS.items():
        if target is None:
            continue
        for mode in MODES:
            over: Series = []
            for one in found.differences:
                if (one.policy, one.mode) == (policy, mode):
                    over = blocks([spent.loop * 1e6 for spent in one.over])
            text = f"{policy} over static, {mode}, us"
            yield Goal.of_rounds(text, "<=", target, over, "{:.1f}")


def blocks(values: Series) -> Series:
    """The medians of BLOCKS stretches of the values, in order."""
    size = max(1, len(values) // BLOCKS)
    starts = range(0, len(values), size)
    return [statistics.median(values[start : start + size]) for start in starts]


def straggler_goals(found: Found) -> Iterator[Goal]:
    sizes = unique(sample.members for sample in found.stragglers) or FAST_SIZES
    for members in sizes:
        worst = [s.p99 * 1e3 for s in found.straggler(CLIPPER.name, members)]
        text = f"p99 with {members} members, ms"
        yield Goal.of_rounds(text, "<=", 1.1 * SLO * 1e3, worst, "{:.1f}")
    for members in FAST_SIZES:
        means = [s.mean * 1e3 for s in found.straggler(CLIPPER.name, members)]
        text = f"mean with {members} members, ms"
        yield Goal.of_rounds(text, "<=", 0.6 * SLO * 1e3, means, "{:.1f}")
