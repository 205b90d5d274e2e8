"""What a replica is made from and what it says of itself: values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from clipper.inputs import InputType, Row


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker of one model version needs to start. `example` is one encoded input
    on which the function runs before it goes live; `environment` are variables over the
    inherited ones; `memory_limit` is bytes of address space. `spares` workers stand by
    beside those that take batches. A worker is replaced after about `recycle_after`
    batches, or once it and its children have `recycle_memory` resident bytes."""

    name: str
    version: str
    input_type: InputType
    example: Row | None = None
    environment: dict[str, str] = field(default_factory=dict)
    memory_limit: int | None = None
    spares: int = 0
    recycle_after: int | None = None
    recycle_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds in seconds. A query's deadline never kills a worker; these do. `first` is the
    rows and seconds of the first batch of an earlier worker, for what has no example."""

    start: float = 30.0  # from spawning to Hello
    load: float = 300.0  # to load the function, and again to run the example
    hang_floor: float = 1.0
    hang_ceiling: float = 30.0
    first: tuple[int, float] | None = None


class ReplicaState(Enum):
    STARTING = "starting"  # the interpreter starts
    LOADING = "loading"  # the function is being loaded
    EXAMPLE = "example"  # it runs its example
    READY = "ready"  # it takes batches
    DRAINING = "draining"  # it finishes what it has, then ends
    STOPPED = "stopped"  # ended because we wanted it
    FAILED = "failed"  # ended because it died, hung or broke the protocol


_S = ReplicaState
_ENDS = {_S.STOPPED, _S.FAILED}
MOVES: dict[ReplicaState, set[ReplicaState]] = {
    _S.STARTING: {_S.LOADING, _S.DRAINING} | _ENDS,
    _S.LOADING: {_S.EXAMPLE, _S.READY, _S.DRAINING} | _ENDS,
    _S.EXAMPLE: {_S.READY, _S.DRAINING} | _ENDS,
    _S.READY: {_S.DRAINING} | _ENDS,
    _S.DRAINING: _ENDS,
    _S.STOPPED: set(),
    _S.FAILED: set(),
}


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    state: ReplicaState
    pid: int | None
    batches: int
    rows: int
    in_flight: int
    busy_seconds: float  # service time of all batches
    reason: str  # why it ended, if it did
    first: tuple[int, float] | None = None  # rows and seconds of its first batch
    killed: bool = False  # it ended because somebody else killed it


class ReplicaFailed(Exception):
    """A replica did not start. `detail` is the worker's traceback or output."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return self.cause
