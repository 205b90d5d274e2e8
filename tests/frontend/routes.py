"""Every route of both ports, as the routers themselves tell, and for each a request that
would do something."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from msgspec.structs import replace

from clipper import Server
from clipper.frontend.web import WebLane
from clipper.records import ModelRecord
from clipper.workers.packaging import pack

from .raw import JSON, Answer, add_echo, ask, echo, request

MSGPACK = "application/msgpack"

# Beside those that are known; nobody's is forgotten.
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "FOO",
)  # fmt: skip

# What each route of the admin port that takes a body would do, in an order in which all of
# it can be done one after another on a server that `furnish` was told of.
CHANGES: dict[str, Any] = {
    "deploy": {"manifest": {"model_name": "new", "model_version": 1, "input_type": "json"}},
    "add_app": {
        "name": "fresh",
        "input_type": "json",
        "default_output": "-1",
        "latency_slo_micros": 1_000_000,
    },
    "add_model": {"model_name": "m", "model_version": "9", "input_type": "json"},
    "set_model_version": {"model_name": "m", "model_version": "1"},
    "rollback": {"model_name": "m"},
    "scale": {"model_name": "echo", "num_replicas": 2},
    "add_model_links": {"app_name": "json", "model_names": ["m"]},
    "delete_model_links": {"app_name": "json", "model_names": ["m"]},
    "set_policy": {"app_name": "json", "policy": "epsilon_greedy"},
    "forget_user": {"app_name": "echo", "uid": "somebody"},
    "undeploy": {"model_name": "m", "model_version": "2"},
    "delete_versioned_model": {"model_name": "m", "model_version": "1"},
    "delete_app": {"name": "bare"},
    "drain": {},
}
QUESTIONS: dict[str, Any] = {
    "get_linked_models": {"app_name": "json"},
    "get_all_applications": {"verbose": True},
    "get_application": {"name": "json"},
    "get_all_models": {"verbose": True},
    "get_model": {"model_name": "m", "model_version": "1"},
    "get_all_containers": {"verbose": True},
    "get_container": {"model_name": "echo", "model_version": "1", "replica_id": 0},
    "get_state": {"app_name": "echo", "uid": "somebody"},
}
ON_QUERIES: dict[str, Any] = {
    "predict": {"input": 1},
    "update": {"input": 1, "label": 1, "uid": "somebody"},
}
NAMES = {"app": "echo", "model": "echo", "version": "1"}


class Route(NamedTuple):
    """One method of one path of a router. `slots` are the names in the path."""

    admin: bool
    method: str
    path: str

    @property
    def name(self) -> str:
        """The last fixed part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def slots(self) -> list[str]:
        return [name for name in NAMES if f"{{{name}}}" in self.path]

    def filled(self, **names: str) -> str:
        """The path with names in its slots, by default those of what is there."""
        return self.path.format(**(NAMES | names))

    @property
    def content(self) -> Any:
        """What its body would say, None where it takes none."""
        return ({} if not self.admin else CHANGES | QUESTIONS).get(
            self.name, None if self.admin else ON_QUERIES.get(self.name)
        )

    @property
    def media(self) -> str:
        return MSGPACK if self.name == "deploy" else JSON

    def body(self, content: Any = None) -> bytes | None:
        content = self.content if content is None else content
        if content is None:
            return None
        if self.media == MSGPACK:
            return msgspec.msgpack.encode({"function": function(), **content})
        return msgspec.json.encode(content)

    def request(self, *lines: str, path: str | None = None, **options: Any) -> bytes:
        """What would do something, with further header lines."""
        body = options.pop("body", self.body())
        method = options.pop("method", self.method)
        options.setdefault("media", self.media)
        return request(method, path or self.filled(), body, *lines, **options)


@cache
def function() -> bytes:
    return pack(echo).blob


def _of(lane: WebLane, admin: bool) -> Iterable[Route]:
    application: web.Application = lane._runner.app
    for route in application.router.routes():
        assert route.resource is not None
        yield Route(admin, route.method, route.resource.canonical)


def routes_of(server: Server) -> list[Route]:
    """Every route, with and without its trailing slash."""
    assert server._ports is not None
    found = [*_of(server._ports._web, False), *_of(server._ports._admin, True)]
    known = set(CHANGES | QUESTIONS | ON_QUERIES)
    taking = {route.name for route in found if route.method == "POST"}
    assert taking == known, "a route is new: say here what it would do"
    return found


def port_of(server: Server, route: Route) -> int:
    return server.admin_port if route.admin else server.port


def authorization(server: Server) -> str:
    return f"Authorization: Bearer {server.token}"


async def furnish(server: Server) -> None:
    """What the requests above are about."""
    await add_echo(server)
    for version in ("1", "2", "3"):
        await server.engine.add_model(ModelRecord("m", version, "json", 0))
    for version in ("3", "1", "2"):
        await server.engine.set_version("m", version)


def state_of(server: Server) -> Any:
    """All that a request could have changed."""
    engine = server.engine
    stats = {
        name: (app.stats.predictions, app.stats.feedback, +app.stats.failures)
        for name, app in engine.applications.items()
    }
    models = {
        str(model.id): (model.replicas.wanted, model.dispatcher.stats.rows)
        for model in engine.models.values()
    }
    return (
        msgspec.json.encode(replace(engine.catalog.state, last_number=0)),
        stats,
        models,
        len(engine.deploys),
        server.stopping.is_set(),
    )


async def ask_all(requests: Iterable[tuple[int, bytes]], at_once: int = 32) -> list[Answer]:
    """The answers to requests on connections of their own, some at a time."""
    free = asyncio.Semaphore(at_once)

    async def one(port: int, data: bytes) -> Answer:
        async with free:
            return await ask(port, data, head_only=data.startswith(b"HEAD "))

    return await asyncio.gather(*(one(port, data) for port, data in requests))
