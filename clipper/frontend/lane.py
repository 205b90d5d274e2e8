"""What the connections of the query port share: bounds, remembered heads, the hand-over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

from clipper.config import Limits
from clipper.frontend.api import QueryApi
from clipper.frontend.express import Express, Phase
from clipper.frontend.heads import Heads
from clipper.frontend.room import most_refused

# Of the bytes in flight, what one application may have.
LARGEST_SHARE = 0.75

LOOKED_AT = 200  # connections whose time limits are looked at in one turn of the loop

# Connections that are passed on in one turn of the loop.
AT_ONCE = 500


class Lane:
    """All connections of the hot lane."""

    sweep_seconds = 1.0  # the time limits of connections count its rounds

    def __init__(
        self,
        api: QueryApi,
        heads: Heads,
        limits: Limits,
        web_handler: Callable[[], asyncio.Protocol],
    ) -> None:
        self.api = api
        self.heads = heads
        self.plans = heads.plans  # looked up for each request, without a call
        self.head_limit = limits.head
        self.write_ticks = limits.write_seconds
        self.patience = {
            Phase.IDLE: limits.idle_seconds,
            Phase.HEAD: limits.head_seconds,
            Phase.BODY: limits.body_seconds,
            Phase.ANSWERING: float("inf"),
            Phase.CLOSING: float("inf"),  # LINGER_TICKS
        }
        self._limits = limits
        self._most = limits.connections + most_refused(limits.connections)
        # one request is not too many
        self._most_of_one = max(limits.body, limits.bytes_in_flight * LARGEST_SHARE)
        self._web_handler = web_handler
        # All mutable state: open connections of both lanes, bytes of bodies in flight,
        # seconds counted by the sweep, whether the server drains, and whether its
        # connections go to another.
        self.connections: set[Express] = set()
        self.handed_over: int = 0
        self.bytes_in_flight: int = 0
        self._in_flight_of: dict[str, int] = {}  # by the name that was asked for
        self.tick = 0
        self.draining = False
        self.leaving = False
        self._empty = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<Lane connections={len(self.connections)} handed_over={self.handed_over} "
            f"bytes_in_flight={self.bytes_in_flight}>"
        )

    def connect(self) -> Express:
        """The protocol of a new connection."""
        return Express(self)

    def add(self, connection: Express) -> bool:
        """Count a connection in; false if there is no room for it, or no time left."""
        room = len(self.connections) + self.handed_over < self._limits.connections
        self.connections.add(connection)
        if self._timer is None:
            self._arm()
        return room and not self.draining

    @property
    def crowded(self) -> bool:
        """Whether even those who are being refused are too many."""
        return len(self.connections) + self.handed_over > self._most

    def remove(self, connection: Express) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def hand_over(self, connection: Express, data: bytes) -> None:
        """Give the connection to aiohttp, with the bytes of the request at hand."""
        self.remove(connection)
        handler = self._web_handler()
        transport = connection.transport
        transport.resume_reading()
        handler.connection_made(transport)
        transport.set_protocol(handler)
        handler.data_received(data)
        if connection.eof and not handler.eof_received():
            transport.close()
        connection.eof = False

    def reserve(self, size: int, application: str) -> bool:
        """Count the bytes of a body in; false if too many are in flight, of all
        applications or of this one, which leaves the others a part."""
        most = self._limits.bytes_in_flight
        own = self._in_flight_of.get(application, 0) + size
        if self.bytes_in_flight + size > most or own > self._most_of_one:
            return False
        self.bytes_in_flight += size
        self._in_flight_of[application] = own
        return True

    def release(self, size: int, application: str) -> None:
        self.bytes_in_flight -= size
        left = self._in_flight_of.get(application, 0) - size
        if left > 0:
            self._in_flight_of[application] = left
        else:
            self._in_flight_of.pop(application, None)

    def drain(self) -> None:
        """Close idle connections; the others close with their next answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.finish()

    def pass_on(self, admit: Callable[[int, bytes], None]) -> int:
        """Give connections to which nothing is owed to another server, some of them at a
        time; how many are left."""
        self.leaving = True
        gone = 0
        for connection in list(self.connections):
            gone += connection.leave(admit)
            if gone == AT_ONCE:
                break
        return len(self.connections) - gone

    async def wait_closed(self, seconds: float) -> None:
        """Wait until the last connection of this lane is closed, within the bound."""
        if self.connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    def close(self) -> None:
        """Drop every connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self.connections):
            connection.transport.abort()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.sweep_seconds, self._sweep)

    def _sweep(self) -> None:
        """One timer for the time limits of all connections; none while there are none."""
        self._timer = None
        self.tick += 1
        if self.connections:
            self._arm()
        self._look_at(list(self.connections))

    def _look_at(self, connections: list[Express]) -> None:
        """See to the time limits of some connections, and of the rest in later turns:
        ten thousand would hold up everybody else."""
        rest = connections[LOOKED_AT:]
        if rest:
            asyncio.get_running_loop().call_soon(self._look_at, rest)
        for connection in connections[:LOOKED_AT]:
            if connection in self.connections:
                connection.overdue(self.tick)


class Admitted(asyncio.Protocol):
    """Begins a connection that another server has begun, with what it has read."""

    def __init__(self, make: Callable[[], asyncio.Protocol], data: bytes) -> None:
        self._make = make
        self._data = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._make()
        # a cast: uvloop's transports do not derive from asyncio's
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data:
            protocol.data_received(self._data)
