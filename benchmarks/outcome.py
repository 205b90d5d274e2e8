"""What became of the arrivals of one open-loop load, and the process that makes it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from benchmarks.load import LoadError, Target, percentile
from benchmarks.process import ROOT

if TYPE_CHECKING:
    from benchmarks.arrivals import Arrivals

GRACE = 0.005  # seconds after the deadline by which a default must have come
BUCKET = 0.05  # seconds of arrivals that are counted together
LAG_LIMIT = 0.002  # p99 of the generator's lag past which it limited the load

Pairs = list[tuple[float, float]]  # (requests per second, seconds)


@dataclass(frozen=True)
class Explained:
    """The default answers with one explanation. `premature`: those that came before the
    objective had passed since the request was sent."""

    count: int
    in_time: int
    premature: int


@dataclass(frozen=True)
class Part:
    """One load of an outcome, by when requests were due. Latencies in seconds.

    good: the model's answer within the objective; late: after it, `barely` of them by at
    most GRACE. told: a default answer with an explanation by the objective and GRACE.
    """

    rate: float
    seconds: float
    offered: int
    good: int
    late: int
    barely: int
    told: int
    kinds: dict[str, int]  # everything but the model's answers, by what it was
    explanations: dict[str, Explained]
    p50: float  # of the good answers
    p99: float
    p99_all: float | None  # of all arrivals, None where too many were never answered

    @property
    def goodput(self) -> float:
        return self.good / self.seconds

    @property
    def good_share(self) -> float:
        return self.good / max(1, self.offered)

    @property
    def told_share(self) -> float | None:
        """Of what was not good, the share that was told so in time."""
        rest = self.offered - self.good
        return self.told / rest if rest else None


@dataclass(frozen=True)
class Outcome:
    """All of one run. `offered` and `good` count arrivals in buckets of BUCKET seconds."""

    begun: float  # on the monotonic clock, which all processes of a machine share
    parts: list[Part]
    offered: list[int]
    good: list[int]
    lag_p50: float  # how late the generator looked at what was due
    lag_p99: float
    lag_max: float
    cpu: float  # CPU seconds of the generator
    answers: int

    @property
    def limited(self) -> bool:
        """True if the generator was too late for its figures to mean the server."""
        return self.lag_p99 > LAG_LIMIT

    @property
    def part(self) -> Part:
        """The only load."""
        [part] = self.parts
        return part

    @property
    def end(self) -> float:
        return self.begun + sum(part.seconds for part in self.parts)

    @classmethod
    def load(cls, text: str) -> Self:
        fields: dict[str, Any] = json.loads(text)
        parts = []
        for each in fields.pop("parts"):
            told = {name: Explained(**it) for name, it in each.pop("explanations").items()}
            parts.append(Part(explanations=told, **each))
        return cls(parts=parts, **fields)


def make_outcome(
    arrivals: Arrivals, begun: float, loads: Pairs, slo: float, cpu: float
) -> Outcome:
    """Count what the generator has noted."""
    import numpy as np

    due = np.asarray(arrivals.due) - begun
    kind = np.frombuffer(arrivals.kind, dtype=np.uint8)
    answered = np.asarray(arrivals.answered) - begun
    latency = answered - due
    premature = answered - (np.asarray(arrivals.sent) - begun) < slo
    good = (kind == arrivals.kinds.index("model")) & (latency <= slo)
    parts = []
    start = 0.0
    for rate, seconds in loads:
        chosen = (due >= start) & (due < start + seconds)
        start += seconds
        counts = _count(arrivals.kinds, kind[chosen])
        model = latency[chosen & (kind == arrivals.kinds.index("model"))]
        explanations = {}
        for code, name in enumerate(arrivals.kinds):
            if name.startswith("default ") and name in counts:
                told = chosen & (kind == code)
                explanations[name.removeprefix("default ")] = Explained(
                    counts[name],
                    int((latency[told] <= slo + GRACE).sum()),
                    int(premature[told].sum()),
                )
        everything = np.where(np.isnan(latency[chosen]), np.inf, latency[chosen])
        worst = percentile(np.sort(everything).tolist(), 99)
        fine = np.sort(latency[chosen & good]).tolist()
        parts.append(
            Part(
                rate=rate,
                seconds=seconds,
                offered=int(chosen.sum()),
                good=len(fine),
                late=int((model > slo).sum()),
                barely=int(((model > slo) & (model <= slo + GRACE)).sum()),
                told=sum(it.in_time for text, it in explanations.items() if text),
                kinds={name: n for name, n in counts.items() if name != "model"},
                explanations=explanations,
                p50=percentile(fine, 50),
                p99=percentile(fine, 99),
                p99_all=worst if worst < float("inf") else None,
            )
        )
    buckets = (due / BUCKET).astype(int)
    total = round(start / BUCKET)
    lag = np.sort(np.asarray(arrivals.lag)).tolist()
    return Outcome(
        begun=begun,
        parts=parts,
        offered=np.bincount(buckets, minlength=total).tolist(),
        good=np.bincount(buckets[good], minlength=total).tolist(),
        lag_p50=percentile(lag, 50),
        lag_p99=percentile(lag, 99),
        lag_max=percentile(lag, 100),
        cpu=cpu,
        answers=int((~np.isnan(answered)).sum()),
    )


def _count(kinds: Sequence[str], codes: Any) -> dict[str, int]:
    import numpy as np

    counts = np.bincount(codes, minlength=len(kinds)).tolist()
    return {kind: n for kind, n in zip(kinds, counts, strict=True) if n}


class LoadProcess:
    """A load that a process of its own makes for `seconds`; leaving the context ends it.

    `begun` is the moment of its first second, on the clock of time.monotonic().
    """

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        self.begun: float = json.loads(line)["begin"]

    def wait_until(self, seconds: float) -> None:
        """Sleep until that many seconds of the load have passed."""
        time.sleep(max(0.0, self.begun + seconds - time.monotonic()))

    def text(self) -> str:
        """Wait for its end, and what it wrote of what it saw."""
        left = max(0.0, self.begun + self._seconds - time.monotonic())
        try:
            text, _ = self._process.communicate(timeout=left + 60)
        except subprocess.TimeoutExpired:
            raise LoadError("the generator did not come to an end") from None
        if self._process.returncode != 0:
            raise self._failure()
        return text

    def _failure(self) -> LoadError:
        self._process.kill()
        _, error = self._process.communicate()
        return LoadError(f"the generator failed: {error[-500:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class OpenLoad(LoadProcess):
    """The open-loop load of benchmarks.openloop."""

    def __init__(
        self,
        target: Target,
        loads: Pairs,
        *,
        slo: float,
        seed: int = 1,
        connections: int = 512,
        retries: int = 0,
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.openloop", target.url]
        for rate, seconds in loads:
            command += ["--load", f"{rate:.3f}:{seconds:g}"]
        command += ["--bodies", str(target.listing), "--content-type", target.content_type]
        command += ["--slo-ms", f"{slo * 1e3:g}", "--seed", str(seed)]
        command += ["--connections", str(connections), "--retries", str(retries)]
        super().__init__(command, sum(seconds for _, seconds in loads))

    def outcome(self) -> Outcome:
        """Wait for its end, and what it saw."""
        return Outcome.load(self.text())


def dump(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome))
