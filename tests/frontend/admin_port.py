"""An admin port on loopback for tests: the engine behind it and a client in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from clipper.config import make_settings
from clipper.engine import Engine
from clipper.frontend.admin import AdminRoutes
from clipper.frontend.gate import Gate
from clipper.frontend.web import WebLane
from clipper.store.memory import MemoryStore


class Answer:
    """A whole response. `value` is its JSON, or its text where that is its type."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.media = response.content_type
        self.body = body

    @property
    def value(self) -> Any:
        if self.media == "application/json":
            return msgspec.json.decode(self.body)
        return self.body.decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


class AdminPort:
    def __init__(self, engine: Engine, session: aiohttp.ClientSession, url: str) -> None:
        self.engine = engine
        self.session = session
        self.url = url
        self.drains = 0
        self.routes: set[tuple[str, str]] = set()

    @property
    def token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.engine.token}"}

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        options["headers"] = self.token | options.get("headers", {})
        request = self.session.request(method, self.url + path, **options)
        async with request as response:
            return Answer(response, await response.read())

    async def post(self, route: str, body: Any) -> Answer:
        return await self.send("POST", f"/admin/{route}", json=body)

    async def get(self, route: str) -> Answer:
        return await self.send("GET", f"/admin/{route}")

    def drain(self) -> None:
        self.drains += 1


@asynccontextmanager
async def open_admin_port(
    limits: dict[str, Any] | None = None, *, auth: bool = True
) -> AsyncIterator[AdminPort]:
    settings = make_settings({"ephemeral": True, "auth": auth, "limits": limits or {}})
    engine = Engine(settings, MemoryStore())
    await engine.start()
    drains: list[Callable[[], None]] = []
    gate = Gate(settings, engine.token, admin=True)
    routes = AdminRoutes(engine, gate, settings.limits, lambda: drains[0]())
    application = routes.application()
    lane = WebLane(application, settings.limits)
    await lane.start()
    server = await asyncio.get_running_loop().create_server(lane.handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        admin = AdminPort(engine, session, f"http://127.0.0.1:{port}")
        admin.routes = {
            (route.method, route.resource.canonical)
            for route in application.router.routes()
            if route.resource is not None
            and route.method != "HEAD"
            and not route.resource.canonical.endswith("/")
        }
        drains.append(admin.drain)
        yield admin
    engine.begin_drain()
    server.close()
    await lane.stop(1.0)
    await engine.drain(0.0)
    await engine.close()
