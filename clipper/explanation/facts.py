"""The numbers of an explanation, as they go out in JSON.

Milliseconds and shares from 0 to 1; None where nothing is known yet. `recent` is the last
30 to 60 seconds (see clipper.attainment), everything else since the start of the server.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Attainment(msgspec.Struct, frozen=True):
    """The share of rows that a model answered in time."""

    recent: float | None = None
    since_start: float | None = None
    rows: int = 0
    recent_rows: int = 0
    recent_seconds: float = 0.0


class Failure(msgspec.Struct, frozen=True):
    """Rows without a model's answer, of one code. `answer` is what they get instead:
    "default" or "error"."""

    meaning: str
    answer: str
    rows: int = 0
    recent_rows: int = 0


class Overload(msgspec.Struct, frozen=True):
    """What became of the rows whose code is `overloaded`."""

    refused: int = 0  # on arrival: they could not have been answered in time
    shed: int = 0  # given up when their turn came, for the same reason
    queue_full: int = 0


class Latency(msgspec.Struct, frozen=True):
    """From the arrival of a row to its answer, whatever that was."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    recent_p50_ms: float | None = None
    recent_p99_ms: float | None = None


class CacheUse(msgspec.Struct, frozen=True):
    """The prediction cache, which all applications share; `share` of the rows that asked
    it were spared an evaluation."""

    enabled: bool = True
    ttl_seconds: float | None = None
    rows: int = 0
    share: float | None = None


class Fit(msgspec.Struct, frozen=True):
    """The line fitted to the latest batches: a batch takes `fixed_ms` and `per_row_us` for
    each row, 95 % of them at most `spread_p95_ms` more."""

    fixed_ms: float
    per_row_us: float
    spread_p95_ms: float = 0.0
    batches: int = 0
    largest_rows: int = 0  # ever run

    def ms(self, rows: int) -> float:
        """What a batch of so many rows takes."""
        return self.fixed_ms + rows * self.per_row_us / 1e3

    def rows_within(self, ms: float) -> float:
        """How many rows take so long; infinity where a row costs nothing."""
        if self.per_row_us <= 0.0:
            return float("inf") if self.fixed_ms <= ms else 0.0
        return max(0.0, (ms - self.fixed_ms) * 1e3 / self.per_row_us)


class ReplicaFacts(msgspec.Struct, frozen=True):
    replica: int
    cap_rows: int
    busy: bool = False
    fitted: Fit | None = None
    # a batch here takes so many times what it takes at the replica's median sibling
    times_as_long: float | None = None


class Shed(msgspec.Struct, frozen=True):
    """Rows of a model version that were not evaluated once and for all, and why; rows of
    all applications that it answers for."""

    refused_rows: int = 0  # on arrival: could not be in time, or the queue was full
    shed_rows: int = 0  # the same, told when their turn came
    expired_rows: int = 0  # their time was over before a replica took them
    abandoned_rows: int = 0  # nobody waited for them any more
    hedged_rows: int = 0  # evaluated by a second replica as well
    retried_rows: int = 0  # evaluated again after a failure
    failed_batches: int = 0


class Load(msgspec.Struct, frozen=True):
    """What a model version lately had to do, per second."""

    seconds: float
    offered_rows_per_second: float
    evaluated_rows_per_second: float
    busy_share: float | None = None  # of the time of its replicas
    mean_batch_rows: float | None = None


class ModelFacts(msgspec.Struct, frozen=True):
    """One model version that the application may ask."""

    model: str  # "name:version"
    current: bool = True
    state: str = "live"  # starting, live, failed or stopped
    reason: str = ""
    replicas_ready: int = 1
    replicas_wanted: int = 1
    controller: str = "aimd"
    batch_wait: float | str = "auto"
    bound_rows: int = 4096  # the most that a batch may ever have
    cap_rows: int = 1
    objective_ms: float = 0.0  # the longest that a batch should take
    fitted: Fit | None = None
    full_batch_ms: float | None = None  # predicted, of cap_rows
    capacity_rows_per_second: float | None = None  # all replicas
    batches: int = 0
    rows: int = 0  # evaluated
    mean_batch_rows: float | None = None
    queue_rows: int = 0
    queue_ms: float | None = None  # until those who wait now would be through
    shed: Shed = Shed()
    recent: Load | None = None
    recent_shed: Shed = Shed()
    replicas: list[ReplicaFacts] = []


class ShadowFacts(msgspec.Struct, frozen=True):
    """How a candidate that never answers would have done; `agreement` is the share of its
    outputs that were the answer."""

    agreement: float | None = None
    compared: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


class GuardFacts(msgspec.Struct, frozen=True):
    """How an arm under a guard does since the policy was set."""

    queries: int = 0
    failures: int = 0
    p95_ms: float | None = None


class ArmFacts(msgspec.Struct, frozen=True):
    """One candidate. `weight` is the probability that it answers a query, or how much it
    counts in an ensemble; None where the context decides. `feedback` is how often its loss
    became known."""

    arm: str  # "name:version#generation"
    model: str  # "name:version"
    weight: float | None = None
    feedback: int = 0
    mean_loss: float | None = None
    halted: str | None = None  # why a guard took it out
    missing: int = 0  # answers of the ensemble that it came too late for
    guard: GuardFacts | None = None
    shadow: ShadowFacts | None = None


class Choosing(msgspec.Struct, frozen=True):
    """How the application chooses among its candidates, and from what feedback."""

    policy: str = "static"
    options: dict[str, Any] = {}
    kind: str = "single"  # or "ensemble"
    contextual: bool = False
    personal: bool = False
    learns: bool = False
    unavailable: str | None = None  # why the policy cannot be had
    feedback: int = 0  # pieces taken, the next two too since the start
    duplicates: int = 0
    refused: dict[str, int] = {}  # by code
    users_in_memory: int = 0
    arms: list[ArmFacts] = []


class Facts(msgspec.Struct, frozen=True):
    """Everything that an explanation goes by."""

    application: str
    slo_ms: float
    attainment: Attainment = Attainment()
    failures: dict[str, Failure] = {}
    recent_overload: Overload = Overload()
    latency: Latency = Latency()
    cache: CacheUse = CacheUse()
    linked: list[str] = []  # names of models
    models: list[ModelFacts] = []
    choosing: Choosing = Choosing()


class Explanation(Facts, frozen=True):
    """The facts, and what they mean, the most important first."""

    sentences: list[str] = []
