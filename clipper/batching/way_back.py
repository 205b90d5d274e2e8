"""How long an answer is under way once its batch came back from the replica."""

from __future__ import annotations

# What sockets and event loops on both sides may take: this share of a batch's objective,
# within bounds in seconds. How long the settling of a batch takes is measured and comes on
# top, with this weight of what was known in what is.
WIRE_SHARE = 0.125
LEAST_WIRE, MOST_WIRE = 0.0002, 0.003
MEMORY = 0.9


class WayBack:
    """`seconds` from the return of a batch until its clients have their answers, of which
    `settling` is what the event loop takes to settle all rows of one."""

    __slots__ = ("seconds", "settling")  # all mutable state

    def __init__(self) -> None:
        self.settling = 0.0
        self.seconds = LEAST_WIRE

    def settled(self, seconds: float, objective: float) -> None:
        """A batch with this objective was settled in so many seconds."""
        self.settling += (1.0 - MEMORY) * (seconds - self.settling)
        wire = min(MOST_WIRE, max(LEAST_WIRE, WIRE_SHARE * objective))
        self.seconds = self.settling + wire
