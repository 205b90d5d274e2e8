"""Every batch of a model that came back with its outputs.

The server's own histograms are too coarse for a p99, and its controllers are not told of
every small batch. So this looks over the shoulder of the dispatcher.
"""

from __future__ import annotations

from collections import deque

from clipper.batching.dispatcher import Dispatcher
from clipper.values import Batch, BatchResult

KEPT = 500_000  # batches, the latest


class BatchLog:
    """Sizes in rows and service times in seconds, of all replicas of one model."""

    def __init__(self) -> None:
        self.batches: deque[tuple[int, float]] = deque(maxlen=KEPT)

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.batches)

    @property
    def seconds(self) -> list[float]:
        return [seconds for _, seconds in self.batches]

    def clear(self) -> None:
        self.batches.clear()

    def follow(self, dispatcher: Dispatcher) -> None:
        """Note what the dispatcher sends from now on."""
        done = dispatcher._done

        def noted(batch: Batch, result: BatchResult) -> None:
            if type(result) is list:
                self.batches.append((batch.rows, batch.seconds))
            done(batch, result)

        dispatcher._done = noted  # type: ignore[method-assign]
