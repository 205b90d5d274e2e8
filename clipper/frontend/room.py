"""Room for connections: how many each port takes, so that descriptors are left for workers,
the store and the operator, and what is said to those who find none.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import cast

import msgspec

from clipper.config import Limits
from clipper.errors import Overloaded
from clipper.frontend.answers import error_answer
from clipper.frontend.gate import error_headers, message

# Descriptors kept for workers, five each, the store, the admin port and the listening
# sockets; of few descriptors half.
RESERVED = 1536

# Who is refused is told so, up to this many at a time; the others are cut off.
MOST_REFUSED = 64

# For this many seconds what the refused still send is read and thrown away: they would
# lose the answer to a reset if it were left unread.
LINGER_SECONDS = 2.0


def fitted(limits: Limits) -> Limits:
    """The limits with no more connections than the process may have descriptors, after
    raising that number as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + RESERVED
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft == resource.RLIM_INFINITY:
        return limits
    reserve = min(RESERVED, soft // 2)
    return msgspec.structs.replace(
        limits,
        connections=min(limits.connections, soft - reserve),
        admin_connections=min(limits.admin_connections, max(1, reserve // 4)),
    )


def most_refused(connections: int) -> int:
    """How many may be told at a time that there is no room, beside so many that have it."""
    return min(MOST_REFUSED, max(1, connections // 8))


class Door:
    """Counts the connections of a port in and out, and refuses those beyond its bound."""

    def __init__(self, most: int, make: Callable[[], asyncio.Protocol]) -> None:
        self._most = most
        self._make = make
        # All mutable state: connections that are open, and those that are being refused.
        self.inside = 0
        self.refused = 0

    def count(self, change: int) -> None:
        self.inside += change

    def connect(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return self._make() if self.inside < self._most else _Refusal(self)


class _Refusal(asyncio.Protocol):
    """Says that there is no room, and hears no more."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.Transport, transport)
        self._door.refused += 1
        if self._door.refused > MOST_REFUSED:
            connection.abort()
            return
        error = Overloaded("too many connections")
        connection.write(
            message(error.status, error_answer(error), error_headers(error), close=True)
        )
        try:
            connection.write_eof()
        except OSError:  # the client is gone already
            connection.abort()
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(LINGER_SECONDS, connection.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.refused -= 1
        if self._end is not None:
            self._end.cancel()
