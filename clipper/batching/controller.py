"""The interface of a batch controller."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from clipper.batching.latency import LatencyModel


class Plan(NamedTuple):
    """What to do with the queue's head: give up `drop` rows, then take `take` rows."""

    drop: int
    take: int


class Backlog(Protocol):
    """What a controller may know of the queue."""

    @property
    def rows(self) -> int:
        """Rows that wait; at least one when a plan is asked for."""
        ...

    @property
    def head(self) -> float:
        """The earliest deadline among them."""
        ...

    def deadlines(self, limit: int) -> list[float]:
        """The deadlines of the first rows, soonest first, one for each row; at most
        `limit` of them."""
        ...


class BatchController(Protocol):
    """Decides how many rows the next batch of one replica may have.

    Pure: it owns no clock and does no I/O. `objective` is the longest that a batch should
    run, in seconds; it changes when applications link or leave the model. `latency` is
    what the controller knows of the replica's speed, and what admission, waiting and the
    choice of a replica go by; with None they do without. `bound` is the most rows that a
    batch may ever have, whatever is learned.
    """

    objective: float
    bound: int

    @property
    def latency(self) -> LatencyModel | None: ...

    @property
    def cap(self) -> int:
        """The most rows that a batch would get."""
        ...

    def plan(self, now: float, backlog: Backlog) -> Plan:
        """The next step for this queue, if a batch can begin to run at `now`."""
        ...

    def record(self, size: int, service_seconds: float) -> None:
        """A batch of `size` rows took that long, waiting behind another not counted."""
        ...
