"""A replica set of puppets, for the tests of what happens to sets."""

from __future__ import annotations

from typing import Any

from clipper.clock import Clock, SystemClock
from clipper.inputs import InputType, encode_python
from clipper.workers.replica_set import ReplicaSet, Restarts, WorkerSpec
from clipper.workers.spec import ReplicaState

from .puppets import Puppet, Troupe

FAST = Restarts(first_pause=0.01, last_pause=0.05, window=5.0, retry=0.2)
EXAMPLE = encode_python(InputType.STRINGS, "example")


class Stage:
    """A replica set of puppets."""

    def __init__(
        self, restarts: Restarts = FAST, clock: Clock | None = None, **options: Any
    ) -> None:
        self.troupe = Troupe()
        self.told: list[int] = []

        async def load() -> bytes:
            return b""

        self.set = ReplicaSet(
            WorkerSpec("model", "1", InputType.STRINGS, EXAMPLE, **options),
            load,
            clock=clock or SystemClock(),
            on_change=lambda: self.told.append(self.set.live),
            restarts=restarts,
            jitter=lambda: 0.0,
            make_replica=self.troupe,
        )

    @property
    def serving(self) -> list[int]:
        """The numbers of the puppets that take batches."""
        return [replica.pid or 0 for replica in self.set.ready]

    @property
    def spares(self) -> int:
        return self.set.statistics().spares

    def puppet(self, number: int) -> Puppet:
        return self.troupe.all[number]

    @property
    def alive(self) -> int:
        over = (ReplicaState.STOPPED, ReplicaState.FAILED)
        return sum(puppet.state not in over for puppet in self.troupe.all)
