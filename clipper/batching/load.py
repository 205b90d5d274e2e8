"""What one replica has to do, and how fast it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from clipper.batching.controller import BatchController
from clipper.batching.job import Part
from clipper.values import Batch, BatchResult, Layout

if TYPE_CHECKING:
    from clipper.batching.suspicion import Suspicion

RENEWAL = 8  # batches after which the rate of a replica that is not NEW is renewed
NEW = 64


class Replica(Protocol):
    """What the dispatcher needs of a replica."""

    @property
    def room(self) -> bool:
        """Whether `submit` may be called."""
        ...

    def submit(self, batch: Batch) -> None: ...


class Flight(Batch):
    """A batch that is with a replica, and the work that its rows are of."""

    __slots__ = ("due", "hedged", "load", "parts", "suspicion")

    def __init__(
        self,
        rows: int,
        buffers: Sequence[bytes | memoryview],
        layout: Layout,
        done: Callable[[Batch, BatchResult], None],
        parts: list[Part],
        load: ReplicaLoad,
    ) -> None:
        # what Batch does, without calling it: one is made for every batch
        self.rows = rows
        self.buffers = buffers
        self.layout = layout
        self.done = done
        self.seconds = 0.0
        self.parts = parts
        self.load = load
        self.due = 0.0  # when its answer is expected
        self.hedged = False  # another flight has, had or shall have the same work
        self.suspicion: Suspicion | None = None  # what its rows are tried for


class ReplicaLoad:
    """The batches in flight at one replica, in order, and the controller that sizes them.

    All times are seconds on the dispatcher's clock.
    """

    # State: `flights`, the running one first; `free_at`, when they should all be answered;
    # `used_at`, when it was last given or answered a batch; `recorded`, the batches that
    # something was learned from, and `recorded_at`, when; `rate`, the rows per second that
    # it could do, 0 where nothing is known, renewed every few batches.

    def __init__(self, replica: Replica, controller: BatchController) -> None:
        self.replica = replica
        self.controller = controller
        self.flights: deque[Flight] = deque()
        self.free_at = 0.0
        self.used_at = self.recorded_at = float("-inf")
        self.rate = 0.0
        self.recorded = 0

    def predicted(self, rows: int) -> float:
        """Seconds that a batch of so many rows takes here; 0 where nothing is known."""
        latency = self.controller.latency
        return 0.0 if latency is None else latency.seconds(rows)

    @property
    def spread(self) -> float:
        """Seconds by which nearly all batches stay below what was predicted."""
        latency = self.controller.latency
        return 0.0 if latency is None else latency.spread

    def _best_rate(self) -> float:
        """Rows per second in the largest batches that meet the objective, tried or not."""
        controller = self.controller
        latency = controller.latency
        if latency is None:
            return 0.0
        rows = latency.rows_within(controller.objective, controller.bound)
        seconds = latency.seconds(rows)
        return rows / seconds if seconds > 0.0 else 0.0

    def finish(self, now: float, rows: int) -> float:
        """When a batch of these rows that is sent now would be answered."""
        return self.start(now) + self.predicted(min(rows, self.controller.cap))

    def start(self, now: float) -> float:
        """When a batch that is sent now would begin to run. A running batch that is late
        is expected to take as much longer as it is late already."""
        if not self.flights:
            return now
        late = now - self.flights[0].due
        if late <= 0.0:
            return self.free_at
        return max(self.free_at, now) + late

    def sent(self, flight: Flight, now: float) -> None:
        latency = self.controller.latency
        free_at = self.start(now) if self.flights else now
        if latency is not None:
            free_at += latency.fixed + latency.per_row * flight.rows
        flight.due = self.free_at = free_at
        self.flights.append(flight)
        self.used_at = now

    def answered(self, flight: Flight, now: float) -> None:
        """A batch came back, the running one: the others move up."""
        self.flights.remove(flight)
        self.used_at = self.free_at = now
        for other in self.flights:
            self.free_at += self.predicted(other.rows)
            other.due = self.free_at

    def record(self, rows: int, seconds: float, now: float) -> None:
        """What the batch that came back took."""
        self.controller.record(rows, seconds)
        self.recorded_at = now
        self.recorded += 1
        if self.recorded < NEW or self.recorded % RENEWAL == 0:
            self.rate = self._best_rate()
