"""The two listening sockets of a server, and what answers behind them."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import resource
import socket
from collections.abc import Callable

import msgspec

from clipper.config import Limits
from clipper.engine import Engine
from clipper.errors import ConfigError
from clipper.frontend.admin import AdminRoutes
from clipper.frontend.api import QueryApi
from clipper.frontend.exposition import Exposition
from clipper.frontend.gate import Gate
from clipper.frontend.heads import Heads
from clipper.frontend.lane import Lane
from clipper.frontend.query import QueryRoutes
from clipper.frontend.web import WebLane

BACKLOG = 2048

# Descriptors kept for workers, the store and the listening sockets.
RESERVED_DESCRIPTORS = 256


class Ports:
    """Query port and admin port of one engine."""

    def __init__(self, engine: Engine, on_drain: Callable[[], None]) -> None:
        settings = engine.settings
        limits = _fitted(settings.limits)
        query_gate = Gate(settings, engine.token, admin=False)
        admin_gate = Gate(settings, engine.token, admin=True)
        api = QueryApi(engine)
        metrics = Exposition(engine, query_gate)
        routes = QueryRoutes(api, query_gate, limits, metrics)
        self._settings = settings
        self._web = WebLane(
            routes.application(), limits, on_connection=self._count_handed_over
        )
        self._admin = WebLane(
            AdminRoutes(engine, admin_gate, limits, on_drain=on_drain).application(), limits
        )
        heads = Heads(query_gate, limits.body, limits.head)
        self.lane = Lane(api, heads, limits, self._web.handler)
        routes.lane = metrics.lane = self.lane
        # All mutable state: the listening sockets and their real port numbers.
        self._servers: list[asyncio.Server] = []
        self.port = self.admin_port = 0

    async def open(self) -> None:
        """Listen. Raises ConfigError naming the address that cannot be had."""
        settings = self._settings
        await self._web.start()
        await self._admin.start()
        self.port = await self._listen(self.lane.connect, settings.host, settings.port)
        self.admin_port = await self._listen(
            self._admin.handler, settings.admin_host, settings.admin_port
        )

    def stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self, seconds: float) -> None:
        """Close idle connections at once and the others after their answers."""
        self.stop_listening()
        self.lane.drain()
        try:
            await asyncio.gather(
                self.lane.wait_closed(seconds),
                self._web.stop(seconds),
                self._admin.stop(seconds),
            )
        finally:
            self.lane.close()

    async def _listen(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> int:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(factory, host, port, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(_why_not(host, port, error)) from None
        self._servers.append(server)
        for listening in server.sockets:
            _bound_unread(listening.fileno(), self._settings.limits.write_seconds)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def _count_handed_over(self, change: int) -> None:
        self.lane.handed_over += change


def _bound_unread(descriptor: int, seconds: float) -> None:
    """Have the system end connections whose client takes nothing of what was sent for
    this long. Accepted sockets inherit it; Linux only."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            listening.setsockopt(socket.IPPROTO_TCP, option, math.ceil(seconds * 1000))


def _why_not(host: str, port: int, error: OSError) -> str:
    address = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{address} is taken by another process; choose another port or stop it"
    if error.errno == errno.EACCES:
        return f"no permission to listen on {address}; ports below 1024 are privileged"
    return (
        f"cannot listen on {address}: {os.strerror(error.errno) if error.errno else error}"
    )


def _fitted(limits: Limits) -> Limits:
    """The limits with no more connections than the process may have descriptors, after
    raising that number as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + RESERVED_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    room = max(16, soft - RESERVED_DESCRIPTORS) if soft > 0 else limits.connections
    return msgspec.structs.replace(limits, connections=min(limits.connections, room))
