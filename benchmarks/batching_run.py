"""What a run of the batching benchmark is asked for, and what it has found so far."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.mnist import Fit, Images, load_images, make_model
from benchmarks.report import spread, table


@dataclass(frozen=True)
class BatchTime:
    """One batch on an idle replica."""

    model: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class Saturation:
    """One controller under a closed loop of so many callers. Seconds."""

    model: str
    controller: str
    callers: int
    round: int  # -1: while the best number of callers was looked for
    rate: float  # predictions per second that the model answered in time
    refused: float  # per second, answered with the default output
    query_p99: float  # of those in time
    batch_p99: float
    batch_mean: float
    batch_rows: float  # mean
    busy: float  # share of the time in which the replica had a batch
    worker_cpu: float  # CPU seconds of the worker per second
    server_cpu: float  # and of this process: callers and server


@dataclass(frozen=True)
class Wait:
    """One batch_wait under one load. Seconds."""

    model: str
    load: str
    wait: str  # milliseconds, or "auto"
    round: int
    rate: float  # predictions per second that the model answered in time
    mean: float
    p99: float
    batch_rows: float  # mean
    refused: int
    lag: float  # p99 of how late the generator of an open loop was


@dataclass
class Findings:
    about: dict[str, Any]
    accuracy: dict[str, float] = field(default_factory=dict)
    batch_times: list[BatchTime] = field(default_factory=list)
    saturations: list[Saturation] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


@dataclass
class Run:
    """The options of one run, the data, and the models that were fitted."""

    findings: Findings
    models: list[str]
    controllers: list[str]
    runs: int = 3
    seconds: float = 1.0
    calls: str = "predict"
    short: bool = False
    failed: bool = False
    _images: Images | None = None
    _fits: dict[str, Fit] = field(default_factory=dict)

    @property
    def images(self) -> Images:
        if self._images is None:
            self._images = load_images()
        return self._images

    def fit(self, model: str) -> Fit:
        """The model, fitted once per run."""
        if model not in self._fits:
            self._fits[model] = fit = make_model(model, self.images)
            if fit.accuracy is not None:
                self.findings.accuracy[model] = fit.accuracy
                self.progress(f"{model}: fitted in {fit.seconds:.1f} s, {fit.accuracy:.1%}")
        return self._fits[model]

    def fail(self, text: str) -> None:
        """Note that something that was asked for could not be measured."""
        self.failed = True
        self.findings.notes.append(text)
        self.progress(text)

    def progress(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class LaneError(Exception):
    """A model could not be served, or answers something else than it should."""


@dataclass(frozen=True)
class Goal:
    """`text`: what is compared. The worst of `values`, one for each model or load, must
    reach `target`, or where `at_most` stay within it."""

    text: str
    target: float
    values: list[float]
    form: str = "{:.2f}"
    at_most: bool = False

    @property
    def worst(self) -> float:
        return max(self.values) if self.at_most else min(self.values)

    @property
    def verdict(self) -> str:
        if not self.values:
            return "not measured"
        worst = self.worst
        met = worst <= self.target if self.at_most else worst >= self.target
        return "met" if met else "MISSED"

    def line(self) -> list[str]:
        return [
            self.text,
            f"{'<=' if self.at_most else '>='} {self.form.format(self.target)}",
            self.form.format(self.worst) if self.values else "-",
            spread(self.values, self.form),
            self.verdict,
        ]


def goal_table(goals: Iterable[Goal]) -> str:
    heads = ["criterion", "target", "worst", "of all", ""]
    return table(heads, [goal.line() for goal in goals], left={0, 4})
