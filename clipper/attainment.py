"""What became of an application's rows: since the start, and lately.

Counting stays as cheap as counting can be: the hot path adds to totals that never go back.
Once in WINDOW seconds, when a row is counted or somebody reads, the totals are written
down; what came lately is the present totals less those of one to two windows ago. There is
no timer, and an application that nobody asks costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from clipper.batching.outcomes import DispatcherStats
from clipper.metrics import Histogram, time_buckets
from clipper.values import RowError

WINDOW = 30.0  # seconds; "lately" is the last one to two of these

OVERLOADED = "overloaded"


class ModelTotals(NamedTuple):
    """Counters of one model version at one time, or what they rose by in so long."""

    seconds: float  # when, or how long
    batches: int
    rows: int
    busy_seconds: float  # of all replicas together
    refused: int
    shed: int
    expired: int
    abandoned: int
    hedged: int
    retried: int
    failed_batches: int

    @property
    def offered(self) -> int:
        """Rows that the model should have evaluated, those that it did included. One that
        was evaluated twice counts twice, which is rare."""
        return self.rows + self.refused + self.shed + self.expired + self.abandoned


class Recent(NamedTuple):
    """What an application was asked in the last `seconds`."""

    seconds: float
    predictions: int
    failures: Counter[str]
    overloads: Counter[str]
    latency: Histogram
    models: dict[DispatcherStats, ModelTotals]

    @property
    def rows(self) -> int:
        return self.predictions + self.failures.total()

    @property
    def attainment(self) -> float | None:
        """The share of the rows that a model answered in time; None if none came."""
        return self.predictions / self.rows if self.rows else None


class _Mark(NamedTuple):
    """Totals as they once were."""

    at: float
    predictions: int
    failures: Counter[str]
    overloads: Counter[str]
    latency: list[int]
    models: dict[DispatcherStats, ModelTotals]


class ApplicationStats:
    """Counters of one application; plain numbers, published at scrape time."""

    # State beside the public counters: the models whose counters are written down too, the
    # totals at the last two turns of the window, and when it turns next.

    def __init__(self, now: float = 0.0) -> None:
        self.predictions = 0  # rows answered by a model
        self.failures: Counter[str] = Counter()  # rows that were not, by code
        self.overloads: Counter[str] = Counter()  # of the overloaded ones, by cause
        self.cancelled = 0  # rows whose client went away
        self.feedback = 0  # pieces of feedback learned from
        self.duplicates = 0  # pieces that had been said before
        self.refused: Counter[str] = Counter()  # pieces that were not taken, by code
        self.missing: Counter[str] = Counter()  # members of an ensemble that came too late
        self.latency = Histogram(time_buckets())
        self._models: tuple[DispatcherStats, ...] = ()
        self._older = self._newer = self._mark(now, now)
        self.turns_at = now + WINDOW

    def follow(self, models: Iterable[DispatcherStats], now: float) -> None:
        """Watch these models from now on, and no others."""
        self.turn(now)  # of one that nobody asks, nobody else ends the window
        self._models = tuple(models)
        for stats in self._models:
            if stats not in self._newer.models:
                self._newer.models[stats] = model_totals(stats, now)
            self._older.models.setdefault(stats, self._newer.models[stats])

    def fail(self, error: RowError) -> None:
        """One row was not answered by a model."""
        self.failures[error.code] += 1
        if error.code == OVERLOADED:
            self.overloads[error.cause] += 1

    def turn(self, now: float) -> None:
        """Begin a window, if the last one is over. Nothing was counted since it was."""
        if now < self.turns_at:
            return
        windows = int((now - self._newer.at) / WINDOW)
        at = self._newer.at + windows * WINDOW
        self._older = self._newer if windows == 1 else self._mark(at - WINDOW, now)
        self._newer = self._mark(at, now)
        self.turns_at = at + WINDOW

    def _mark(self, at: float, now: float) -> _Mark:
        return _Mark(
            at,
            self.predictions,
            self.failures.copy(),
            self.overloads.copy(),
            self.latency.counts.copy(),
            # other applications may have asked them in the meantime
            {stats: model_totals(stats, now) for stats in self._models},
        )

    def recent(self, now: float) -> Recent:
        """What came in the last one to two windows; in less since the start."""
        self.turn(now)
        then = self._older
        latency = Histogram(time_buckets())
        latency.counts = [
            after - before
            for after, before in zip(self.latency.counts, then.latency, strict=True)
        ]
        return Recent(
            now - then.at,
            self.predictions - then.predictions,
            self.failures - then.failures,
            self.overloads - then.overloads,
            latency,
            {
                stats: _difference(model_totals(stats, now), then.models[stats])
                for stats in self._models
                if stats in then.models
            },
        )


def model_totals(stats: DispatcherStats, now: float) -> ModelTotals:
    """The counters of a model version at this moment."""
    return ModelTotals(
        now,
        stats.batches,
        stats.rows,
        stats.service_seconds.sum,
        stats.refused_rows,
        stats.shed_rows,
        stats.expired_rows,
        stats.abandoned_rows,
        stats.hedged_rows,
        stats.retried_rows,
        sum(stats.failed_batches.values()),
    )


def _difference(after: ModelTotals, before: ModelTotals) -> ModelTotals:
    return ModelTotals._make(a - b for a, b in zip(after, before, strict=True))
