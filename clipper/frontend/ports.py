"""The two listening sockets of a server, and what answers behind them."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from clipper.engine import Engine
from clipper.errors import ConfigError
from clipper.frontend.admin import AdminRoutes
from clipper.frontend.api import QueryApi
from clipper.frontend.exposition import Exposition
from clipper.frontend.gate import Gate
from clipper.frontend.heads import Heads
from clipper.frontend.lane import AT_ONCE, Admitted, Lane
from clipper.frontend.query import QueryRoutes
from clipper.frontend.room import Door, fitted
from clipper.frontend.web import WebLane
from clipper.listening import Listening, duplicates

logger = logging.getLogger(__name__)

BACKLOG = 2048


# Turns of the loop from the acceptance of a connection until its protocol has it.
ACCEPT_TURNS = 3

# While connections are passed on: how often it is looked who may go, and how many looks in
# a row must find nobody, since what was accepted takes some turns of the loop to show.
ROUND_SECONDS = 0.002
QUIET_ROUNDS = 3

# Takes whether it is a connection of the admin port, its descriptor, and what was read.
PassOn: TypeAlias = Callable[[bool, int, bytes], None]


class Ports:
    """Query port and admin port of one engine."""

    def __init__(
        self,
        engine: Engine,
        on_drain: Callable[[], None],
        listening: Listening | None = None,
    ) -> None:
        settings = engine.settings
        limits = fitted(settings.limits)
        query_gate = Gate(settings, engine.token, admin=False)
        admin_gate = Gate(settings, engine.token, admin=True)
        api = QueryApi(engine)
        metrics = Exposition(engine, {"query": query_gate, "admin": admin_gate})
        routes = QueryRoutes(api, query_gate, limits, metrics)
        self._settings = settings
        # connections that come at once take their descriptors before they are counted
        self._backlog = min(BACKLOG, max(16, limits.connections // 2))
        self._web = WebLane(
            routes.application(), limits, on_connection=self._count_handed_over
        )
        admin = AdminRoutes(engine, admin_gate, limits, on_drain=on_drain)
        self._admin = WebLane(
            admin.application(), limits, on_connection=lambda n: self._admin_door.count(n)
        )
        self._admin_door = Door(limits.admin_connections, self._admin.handler)
        heads = Heads(query_gate, limits.body, limits.head)
        self.lane = Lane(api, heads, limits, self._web.handler)
        routes.lane = metrics.lane = self.lane
        self._given = listening or Listening([], [])
        # All mutable state: what listens for queries and what for admin requests, their
        # real port numbers, and connections that another server passed and that are not
        # ours yet.
        self._servers: tuple[list[asyncio.Server], list[asyncio.Server]] = ([], [])
        self._admitting: set[asyncio.Task[None]] = set()
        self.port = self.admin_port = 0

    async def open(self) -> None:
        """Listen, with duplicates of sockets that were given. Raises ConfigError naming the
        address that cannot be had."""
        settings = self._settings
        await self._web.start()
        await self._admin.start()
        queries, admin = self._servers
        make, make_admin = self.lane.connect, self._admin_door.connect
        for given in duplicates(one.fileno() for one in self._given.query):
            queries.append(await self._accept(make, given))
        if not queries:
            queries.append(await self._listen(make, settings.host, settings.port))
        for given in duplicates(one.fileno() for one in self._given.admin):
            admin.append(await self._accept(make_admin, given))
        if not admin:
            address = settings.admin_host, settings.admin_port
            admin.append(await self._listen(make_admin, *address))
        self.port, self.admin_port = _port_of(queries), _port_of(admin)

    def listening(self) -> Listening:
        """Duplicates of what listens, which stay open when these are closed."""
        queries, admin = (
            duplicates(one.fileno() for server in servers for one in server.sockets)
            for servers in self._servers
        )
        return Listening(queries, admin)

    async def stop_listening(self) -> None:
        """Accept no more. What was accepted by now becomes a connection first: asyncio
        would drop it where its server is closed by then."""
        loop = asyncio.get_running_loop()
        closing = [server for servers in self._servers for server in servers]
        for servers in self._servers:
            servers.clear()
        for server in closing:
            for listening in server.sockets:
                loop.remove_reader(listening.fileno())  # of asyncio's loop
        for _ in range(ACCEPT_TURNS if closing else 0):
            await asyncio.sleep(0)
        for server in closing:
            server.close()

    # -- one server after another -------------------------------------------------------

    async def pass_on(self, admit: PassOn, seconds: float) -> bool:
        """Accept no more, and give each connection to another server as soon as nothing is
        owed to it. Returns when all are, or the time is over; whether all are."""
        await self.stop_listening()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        quiet = 0
        while quiet < QUIET_ROUNDS:
            left = self.lane.pass_on(partial(admit, False))
            left += self._web.pass_on(partial(admit, False))
            left += self._admin.pass_on(partial(admit, True))
            quiet = 0 if left else quiet + 1
            if left and loop.time() >= end:
                return False
            await asyncio.sleep(ROUND_SECONDS if quiet or left < AT_ONCE else 0)
        return True

    def admit(self, admin: bool, descriptor: int, data: bytes) -> None:
        """Serve a connection that another server has passed, which had read `data` of a
        request. The descriptor is ours."""
        make = self._admin_door.connect if admin else self.lane.connect
        task = asyncio.ensure_future(_admit(make, descriptor, data))
        self._admitting.add(task)
        task.add_done_callback(self._admitting.discard)

    async def close(self, seconds: float) -> None:
        """Close idle connections at once and the others after their answers."""
        await self.stop_listening()
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
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(factory, host, port, backlog=self._backlog)
        except OSError as error:
            raise ConfigError(_why_not(host, port, error)) from None
        return self._bounded(server)

    async def _accept(
        self, factory: Callable[[], asyncio.BaseProtocol], given: socket.socket
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return self._bounded(
            await loop.create_server(factory, sock=given, backlog=self._backlog)
        )

    def _bounded(self, server: asyncio.Server) -> asyncio.Server:
        for listening in server.sockets:
            _bound_unread(listening.fileno(), self._settings.limits.write_seconds)
        return server

    def _count_handed_over(self, change: int) -> None:
        self.lane.handed_over += change


async def _admit(
    make: Callable[[], asyncio.Protocol], descriptor: int, data: bytes
) -> None:
    connection = socket.socket(fileno=descriptor)
    try:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: Admitted(make, data), connection)
    except OSError as error:  # the client has gone
        connection.close()
        logger.debug("a connection that was passed is gone: %s", error)


def _port_of(servers: list[asyncio.Server]) -> int:
    port: int = servers[0].sockets[0].getsockname()[1]
    return port


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
