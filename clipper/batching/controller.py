"""The interface of a batch controller."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Plan(NamedTuple):
    """What to do with the queue's head: give up `drop` rows, then take `take` rows."""

    drop: int
    take: int


class Backlog(Protocol):
    """What a controller may know of the queue."""

    @property
    def rows(self) -> int:
        """Rows that wait."""
        ...

    def deadlines(self) -> list[float]:
        """Their deadlines, soonest first, one for each job or block."""
        ...


class BatchController(Protocol):
    """Decides how many rows the next batch may have.

    Pure: it owns no clock and does no I/O. `objective` is the longest a batch should
    run, in seconds; it changes when applications link or leave the model.
    """

    objective: float

    @property
    def cap(self) -> int:
        """The most rows the next batch would get."""
        ...

    def plan(self, now: float, backlog: Backlog) -> Plan:
        """The next step for this queue."""
        ...

    def record(self, size: int, service_seconds: float) -> None:
        """A batch of `size` rows took that long, waiting behind another not counted."""
        ...
