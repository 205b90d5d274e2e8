"""What a replica set needs of a replica: the real one is in replica.py, a simulated one
in the tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from clipper.clock import Clock
from clipper.values import Batch
from clipper.workers.spec import Patience, ReplicaState, ReplicaStatistics, WorkerSpec

LoadBlob = Callable[[], Awaitable[bytes]]
Report = Callable[[str, float], None]


class Supervised(Protocol):
    """A worker that starts once and ends once."""

    @property
    def state(self) -> ReplicaState: ...

    @property
    def reason(self) -> str:
        """Why it ended, if it did."""
        ...

    @property
    def pid(self) -> int | None: ...

    @property
    def room(self) -> bool:
        """Whether `submit` may be called."""
        ...

    @property
    def in_flight(self) -> int: ...

    def submit(self, batch: Batch) -> None: ...

    async def start(self, load_blob: LoadBlob, report: Report) -> None:
        """Return READY, or leave nothing behind and raise; ReplicaFailed where the
        worker is to blame. `report` hears of finished stages and their seconds."""
        ...

    async def stop(self, drain_seconds: float) -> None:
        """Finish what is in flight within the bound; return when it is gone."""
        ...

    def kill(self) -> None: ...

    async def wait_gone(self) -> None: ...

    def output(self) -> str: ...

    def statistics(self) -> ReplicaStatistics: ...

    def memory(self) -> int | None:
        """Resident bytes of the worker and its children, None where nobody knows."""
        ...


class MakeReplica(Protocol):
    """Makes a replica that has not been started. It calls `on_end` with itself, once,
    when it can serve no more: before its batches are settled, whatever the cause."""

    def __call__(
        self,
        spec: WorkerSpec,
        clock: Clock,
        *,
        on_end: Callable[[Supervised], None],
        patience: Patience | None,
    ) -> Supervised: ...
