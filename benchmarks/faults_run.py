"""One run of the fault benchmark: what its parts found, as a table and as a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checked_load import Seen
from benchmarks.command import write_json
from benchmarks.goals import Goal
from benchmarks.load import percentile
from benchmarks.tables import table

LENIENT = 10.0  # times the bound of a duration in a short run, on a machine at other work


@dataclass(frozen=True)
class Finding:
    """What was done, the rows of the fault table that it is of, and what came of it."""

    part: str
    rows: str
    done: str
    goal: Goal


@dataclass
class FaultRun:
    """`long`: with the numbers of the goals, else only long enough to see that it holds.

    Mutable: findings, notes, series of what was measured, and whether a part failed.
    """

    scratch: Path
    about: dict[str, Any]
    long: bool
    seed: int
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    broken: bool = False

    def directory(self, name: str) -> Path:
        path = self.scratch / name
        path.mkdir()
        return path

    def pick(self, long: int, short: int) -> int:
        return long if self.long else short

    # -- what was found -------------------------------------------------------------------

    def found(
        self,
        part: str,
        rows: str,
        done: str,
        text: str,
        sign: str,
        target: float,
        value: float | None,
        *,
        beside: str = "",
        form: str = "{:,.0f}",
    ) -> None:
        """A figure with its goal."""
        goal = Goal(text, sign, target, value, beside, form)
        self.findings.append(Finding(part, rows, done, goal))

    def duration(
        self,
        part: str,
        rows: str,
        done: str,
        text: str,
        bound: float,
        values: Sequence[float],
    ) -> None:
        """Durations in seconds, of which the longest has a bound; told in ms."""
        name = f"{part}: {done}: {text}"
        self.series.setdefault(name, []).extend(values)
        ordered = sorted(1e3 * value for value in values)
        beside = ""
        if len(ordered) > 1:
            p50, p99 = percentile(ordered, 50), percentile(ordered, 99)
            beside = f"median {p50:.1f}, p99 {p99:.1f}"
        target = 1e3 * bound * (1.0 if self.long else LENIENT)
        value = ordered[-1] if ordered else None
        text = f"{text}, at most, ms"
        self.found(
            part, rows, done, text, "<=", target, value, beside=beside, form="{:.1f}"
        )

    def requests(
        self,
        part: str,
        rows: str,
        done: str,
        seen: Seen,
        failures: Counter[str],
        least: int,
    ) -> None:
        """How many of at least so many requests failed; a long run must reach them."""
        asked = len(seen.asked)
        beside = f"of {asked:,}; p50 {1e3 * seen.latency(50):.1f}, "
        beside += f"p99 {1e3 * seen.latency(99):.1f} ms"
        failed = failures.total()
        self.found(part, rows, done, "requests failed", "<=", 0, failed, beside=beside)
        if self.long:
            self.found(part, rows, done, "requests made", ">=", least, asked)
        for reason, times in failures.most_common(5):
            self.note(f"{part}: {times} x {reason}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def fail(self, text: str) -> None:
        """Remark on something that could not be done at all."""
        self.broken = True
        self.note(text)

    @property
    def missed(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.goal.verdict != "met"]

    @property
    def failed(self) -> bool:
        return self.broken or bool(self.missed)

    # -- telling --------------------------------------------------------------------------

    def report(self) -> str:
        heads = ["rows", "what was done", "figure", "goal", "measured", "", "verdict"]
        lines, before = [], ("", "")
        for finding in self.findings:
            done = (finding.rows, finding.done)
            # said once above all that was measured of it
            lines.append([*(done if done != before else ("", "")), *finding.goal.line])
            before = done
        left = {0, 1, 2, 5, 6}
        return "\n\n".join(
            [table(heads, lines, left), *[f"Note: {note}" for note in self.notes]]
        )

    def write(self, path: Path) -> None:
        findings = [
            {**asdict(finding), "verdict": finding.goal.verdict}
            for finding in self.findings
        ]
        write_json(
            path,
            {
                "about": self.about,
                "long": self.long,
                "seed": self.seed,
                "findings": findings,
                "series": self.series,
                "notes": self.notes,
                "failed": self.failed,
            },
        )
