"""What a run of the serving benchmark measured, round by round."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import write_json

Series = list[float]  # one number per round


@dataclass(frozen=True)
class Sample:
    """One lane under load at one number of connections for one round. Seconds."""

    case: str
    lane: str
    connections: int
    round: int
    rate: float  # good answers per second
    rows: int  # rows per answer
    p50: float
    p99: float
    front_cpu: float  # CPU seconds of the server's own process, per answer
    worker_cpu: float  # and of the processes that evaluate models
    errors: int
    other_cores: float  # CPU that neither this server nor the generator used


@dataclass
class Results:
    """Samples of loads, series of everything else, and remarks for the reader."""

    about: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, case: str, lane: str, connections: int) -> list[Sample]:
        """The samples of one place in the tables, in the order of the rounds."""
        return [
            sample
            for sample in self.samples
            if (sample.case, sample.lane, sample.connections) == (case, lane, connections)
        ]

    def add(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append(value)

    def lanes(self, case: str) -> list[str]:
        return unique(sample.lane for sample in self.samples if sample.case == case)

    def connections(self, case: str) -> list[int]:
        return unique(sample.connections for sample in self.samples if sample.case == case)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def median(samples: list[Sample], value: Callable[[Sample], float]) -> float:
    return statistics.median(value(sample) for sample in samples)


def describe_machine() -> dict[str, Any]:
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "processor": names[0] if names else model,
        "cores": len(names),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
