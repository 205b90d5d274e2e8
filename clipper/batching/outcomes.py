"""What becomes of rows that no model answered, and the count of all."""

from __future__ import annotations

from clipper.metrics import Histogram, size_buckets, time_buckets
from clipper.values import FailureKind, RowError

REFUSED = RowError("overloaded", "The model is overloaded and could not answer in time")
FULL = RowError("overloaded", "Too much work is waiting for the model")
SHED = RowError("overloaded", "The model is overloaded and cannot answer in time")
ABANDONED = RowError("cancelled", "nobody waits for this row any more")

CODES = {
    FailureKind.RAISED: "model_failed",
    FailureKind.WRONG_COUNT: "model_failed",
    FailureKind.CRASHED: "model_crashed",
    FailureKind.HUNG: "model_hung",
    FailureKind.RETURNED: "unavailable",
}


class DispatcherStats:
    """Counters of one model version, plain numbers that are published at scrape time."""

    def __init__(self) -> None:
        self.batches = 0
        self.rows = 0
        self.failed_batches = dict.fromkeys(FailureKind, 0)
        self.retried_rows = 0
        self.hedged_rows = 0
        self.refused_rows = 0
        self.expired_rows = 0
        self.abandoned_rows = 0
        self.shed_rows = 0
        self.batch_rows = Histogram(size_buckets())
        self.service_seconds = Histogram(time_buckets())
