"""The replicas of one model version as the dispatcher sees them, and which comes next.

A replica is chosen by its expected finish, not by the number of batches it has: one that
is slow gets work when the others could not have done it sooner.

Rows stay in the queue until a replica can begin with them, so that they may still join a
larger batch, be given up, or go to whoever is free first. A second batch goes to a replica
that still works on one only where nothing is lost by that: a full batch, or batches that
cost by the row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from clipper.batching.controller import Backlog, BatchController
from clipper.batching.load import Replica, ReplicaLoad

# What a worker stands idle between two batches when the second is sent upon the answer to
# the first, in seconds. Where a batch costs less than that beside its rows, it is better
# sent ahead.
IDLE_BETWEEN = 0.0002

# A replica that was passed over for so many seconds is tried with one row, to learn
# whether it has become faster.
TRIAL_SECONDS = 1.0


class Fleet:
    """Loads of the replicas that are ready."""

    # State: the replicas that were ready when last told, and their loads; `controller`
    # is the first one's, kept when it goes, so that what was learned outlives a worker;
    # `may_copy`, whether a second replica may be given what one has already.

    def __init__(self, controller: BatchController, *, copies: bool = True) -> None:
        self._copies = copies
        self.may_copy = False
        self.replicas: Sequence[Replica] = ()
        self.loads: list[ReplicaLoad] = []
        self.controller = controller

    def renew(self, ready: Sequence[Replica]) -> None:
        """Follow replicas that came and went."""
        self.replicas = ready
        before = {load.replica: load for load in self.loads}
        kept = [before[replica] for replica in ready if replica in before]
        loads: list[ReplicaLoad] = []
        for replica in ready:
            load = before.get(replica)
            if load is None:
                # like its siblings until it shows otherwise; the only one takes over
                first = kept[0].controller if kept else self.controller
                alone = not kept and not loads
                load = ReplicaLoad(replica, first if alone else deepcopy(first))
            loads.append(load)
        self.loads = loads
        self.may_copy = self._copies and len(loads) > 1
        if loads:
            self.controller = loads[0].controller

    def set_objective(self, seconds: float) -> None:
        self.controller.objective = seconds
        for load in self.loads:
            load.controller.objective = seconds

    def idle(self, but: ReplicaLoad | None = None) -> ReplicaLoad | None:
        """A ready replica with nothing to do, not `but`."""
        for load in self.loads:
            if load is not but and not load.flights and load.replica.room:
                return load
        return None

    def choose(self, now: float, queue: Backlog) -> ReplicaLoad | None:
        """The replica that the next of what waits should go to now, if any should."""
        loads = self.loads
        if len(loads) == 1:
            load = loads[0]
            open_ = _is_open(load, queue.rows) if load.flights else load.replica.room
            return load if open_ else None
        rows = max(1, queue.rows)
        best: ReplicaLoad | None = None
        soonest = float("inf")
        for load in loads:
            if not load.replica.room and len(load.flights) < 2:
                continue  # it is not full, so it is ending
            finish = load.finish(now, rows)
            if finish < soonest or (
                finish == soonest and best and len(load.flights) < len(best.flights)
            ):
                best, soonest = load, finish
        if best is None or _is_open(best, rows):
            return best
        return self._second(best, soonest, now, rows, queue.head)

    def _second(
        self, best: ReplicaLoad, soonest: float, now: float, rows: int, head: float
    ) -> ReplicaLoad | None:
        """Another replica, if it is done before the faster ones would have come to all
        that waits, and in time for the first of it."""
        for load in self.loads:
            if load is best or not _is_open(load, rows):
                continue
            faster = sum(other.rate for other in self.loads if other is not load)
            finish = load.finish(now, rows)
            in_time = finish + load.spread <= head
            if in_time and finish <= soonest + rows / max(faster, 1e-9):
                return load
        return None

    def neglected(self, now: float) -> ReplicaLoad | None:
        """An idle replica that was passed over for long."""
        for load in self.loads:
            if (
                not load.flights
                and now - load.used_at >= TRIAL_SECONDS
                and load.replica.room
            ):
                return load
        return None

    def share(self, load: ReplicaLoad, rows: int) -> int:
        """How many of the rows this replica should get while others are idle too: an
        equal part, where larger batches take longer by more than they save."""
        idle = sum(not other.flights and other.replica.room for other in self.loads)
        latency = load.controller.latency
        if idle < 2 or latency is None:
            return rows
        longer = latency.per_row * rows * (1.0 - 1.0 / idle)
        return -(-rows // idle) if longer > latency.fixed else rows


def _is_open(load: ReplicaLoad, rows: int) -> bool:
    """Whether a batch of the `rows` that wait should go to this replica now."""
    if not load.replica.room:
        return False
    if not load.flights:
        return True
    controller = load.controller
    latency = controller.latency
    return latency is None or latency.fixed <= IDLE_BETWEEN or rows >= controller.cap
