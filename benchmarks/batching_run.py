"""What a run of the batching benchmark is asked for, and what it has found so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import progress, write_json
from benchmarks.mnist import Fit, Images, load_images, make_model


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
        write_json(path, asdict(self))


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
                progress(f"{model}: fitted in {fit.seconds:.1f} s, {fit.accuracy:.1%}")
        return self._fits[model]

    def fail(self, text: str) -> None:
        """Note that something that was asked for could not be measured."""
        self.failed = True
        self.findings.notes.append(text)
        progress(text)


class LaneError(Exception):
    """A model could not be served, or answers something else than it should."""
