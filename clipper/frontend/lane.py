"""What the connections of the query port share: bounds, remembered heads, the hand-over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from clipper.config import Limits
from clipper.frontend.api import QueryApi
from clipper.frontend.express import Express, Phase
from clipper.frontend.heads import Heads


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
        self._web_handler = web_handler
        # All mutable state: open connections of both lanes, bytes of bodies in flight,
        # seconds counted by the sweep, and whether the server drains.
        self.connections: set[Express] = set()
        self.handed_over: int = 0
        self.bytes_in_flight: int = 0
        self.tick = 0
        self.draining = False
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

    def reserve(self, size: int) -> bool:
        """Count the bytes of a body in; false if too many are in flight."""
        if self.bytes_in_flight + size > self._limits.bytes_in_flight:
            return False
        self.bytes_in_flight += size
        return True

    def release(self, size: int) -> None:
        self.bytes_in_flight -= size

    def drain(self) -> None:
        """Close idle connections; the others close with their next answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.finish()

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
        for connection in list(self.connections):
            connection.overdue(self.tick)
