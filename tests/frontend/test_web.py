"""The aiohttp lane by itself: errors of aiohttp's own making, and half-closed clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from polling import eventually

from clipper.config import Limits, Settings
from clipper.errors import Overloaded
from clipper.frontend.bodies import ignore_expectation, read_body
from clipper.frontend.gate import Gate
from clipper.frontend.responses import json_response
from clipper.frontend.web import HEAD, WebLane, middleware

from .raw import Wire, ask, connect, request

LOOPS = ("uvloop", "asyncio")


class Site:
    """An application of a few routes behind the gate."""

    def __init__(self) -> None:
        self.gate = Gate(Settings(), "secret", admin=True)
        application = web.Application(middlewares=[middleware(self.gate)])
        for path, handler in (
            ("/echo", self.echo),
            ("/wait", self.wait),
            ("/busy", self.busy),
            ("/broken", self.broken),
            ("/retired", self.retired),
            ("/moved", self.moved),
            ("/stream", self.stream),
        ):
            application.router.add_route(
                "POST", path, handler, expect_handler=ignore_expectation
            )
        application.router.add_get("/plain", self.plain)
        self.connections = 0
        self.lane = WebLane(application, Limits(), on_connection=self.count)
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.port = 0

    def count(self, change: int) -> None:
        self.connections += change

    async def echo(self, request: web.Request) -> web.Response:
        assert request[HEAD].method == "POST"
        return json_response(200, await read_body(request, 1000, 5.0))

    async def wait(self, request: web.Request) -> web.Response:
        self.asked.set()
        await self.go_on.wait()
        return json_response(200, b'"waited"')

    async def busy(self, request: web.Request) -> web.Response:
        raise Overloaded("busy", retry_after=7)

    async def broken(self, request: web.Request) -> web.Response:
        raise ZeroDivisionError("secret words")

    async def retired(self, request: web.Request) -> web.Response:
        raise web.HTTPGone

    async def moved(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/echo")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"line\n")
        return response

    async def plain(self, request: web.Request) -> web.Response:
        return web.Response(text="plain")


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    site = Site()
    await site.lane.start()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(site.lane.handler, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        site.go_on.set()
        await site.lane.stop(1.0)
        await server.wait_closed()


def post(path: str, body: bytes = b"{}", *lines: str) -> bytes:
    token = "Authorization: Bearer secret"
    return request("POST", path, body, token, *lines)


async def test_no_answer_names_the_software() -> None:
    async with open_site() as site:
        token = "Authorization: Bearer secret"
        for data in (
            post("/echo"),
            post("/stream"),
            post("/nowhere"),
            post("/plain"),
            request("GET", "/plain", None, token),
            post("/moved"),
            request("GET", "/plain", None, "Expect: something"),
            b"no http\r\n\r\n",
        ):
            async with await connect(site.port) as wire:
                await wire.send(data)
                head = await wire.reader.readuntil(b"\r\n\r\n")
                assert b"erver:" not in head
                assert b"ython" not in head and b"aiohttp" not in head


async def test_errors_as_json(caplog: pytest.LogCaptureFixture) -> None:
    async with open_site() as site:
        for path, status, code in (
            ("/nowhere", 404, "not_found"),
            ("/plain", 405, "method_not_allowed"),
            ("/busy", 503, "overloaded"),
            ("/retired", 400, "malformed_request"),
        ):
            answer = await ask(site.port, post(path))
            assert (answer.status, answer.value["error"]) == (status, code)
            assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get("retry-after") is None
        assert (await ask(site.port, post("/busy"))).headers["retry-after"] == "7"
        assert (await ask(site.port, post("/plain"))).headers["allow"] == "GET, HEAD"
        moved = await ask(site.port, post("/moved"))
        assert (moved.status, moved.headers["location"]) == (302, "/echo")
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


async def test_an_unforeseen_failure_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_site() as site:
        answer = await ask(site.port, post("/broken"))
        assert answer.status == 500
        assert answer.value["error"] == "internal_error"
        assert b"secret" not in answer.body and b"ZeroDivision" not in answer.body
    assert "secret words" in caplog.text


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
            431,
        ),
        (post("/echo", b"").replace(b"Content-Length: 0", b"Content-Length: x"), 400),
    ],
)
async def test_what_is_no_request(
    data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A short answer, a closed connection, and nothing in the log that a stranger could
    fill."""
    async with open_site() as site:
        async with await connect(site.port) as wire:
            await wire.send(data)
            answer = await wire.answer()
            assert answer.status == status
            assert answer.value.keys() == {"error", "cause"}
            assert b"aaa" not in answer.body and b"X" not in answer.body
            assert await wire.rest() == b""
        await eventually(lambda: site.connections == 0)
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
    ],
)
async def test_malformed_chunks(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    head = post("/echo", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with open_site() as site, await connect(site.port) as wire:
        await wire.send(head + body)
        answer = await wire.answer()
        assert answer.status == 400 and answer.closes
        assert answer.value["error"] == "malformed_request"
        await wire.rest()
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


async def test_an_unknown_expectation_is_no_reason_to_fail() -> None:
    async with open_site() as site:
        answer = await ask(site.port, post("/echo", b"1", "Expect: a-miracle"))
        assert (answer.status, answer.body) == (200, b"1")


# -- the client's end ------------------------------------------------------------------


async def until_asked(site: Site, wire: Wire, data: bytes) -> None:
    await wire.send(data)
    async with asyncio.timeout(60):
        await site.asked.wait()


async def test_half_close_is_not_disconnect() -> None:
    async with open_site() as site, await connect(site.port) as wire:
        await until_asked(site, wire, post("/wait"))
        server: Any = site.lane._runner.server
        (handler,) = server.connections
        wire.writer.write_eof()
        await eventually(lambda: handler._half_closed)
        site.go_on.set()
        assert (await wire.answer()).body == b'"waited"'
        assert await wire.rest() == b""
        await eventually(lambda: site.connections == 0)


async def test_requests_that_came_before_the_half_close_are_answered() -> None:
    async with open_site() as site, await connect(site.port) as wire:
        await wire.send(post("/wait") + post("/echo", b"2") + post("/echo", b"3"))
        wire.writer.write_eof()
        async with asyncio.timeout(60):
            await site.asked.wait()
        site.go_on.set()
        bodies = [(await wire.answer()).body for _ in range(3)]
        assert bodies == [b'"waited"', b"2", b"3"]
        assert await wire.rest() == b""
        await eventually(lambda: site.connections == 0)


@pytest.mark.parametrize("sent", [b"", b"POST /echo", post("/echo", b"12345")[:-1]])
async def test_half_a_request_before_the_half_close_ends_it(sent: bytes) -> None:
    async with open_site() as site, await connect(site.port) as wire:
        if sent:
            await wire.send(sent)
        await eventually(lambda: site.connections == 1)
        wire.writer.write_eof()
        assert await wire.rest() == b""
        await eventually(lambda: site.connections == 0)


async def test_a_client_that_is_gone_abandons_its_work() -> None:
    class Work:
        abandoned = False

        def abandon(self) -> None:
            self.abandoned = True

    async with open_site() as site:
        async with await connect(site.port) as wire:
            await until_asked(site, wire, post("/wait"))
            server: Any = site.lane._runner.server
            (handler,) = server.connections
            handler.waiting = work = Work()
            wire.reset()
        await eventually(lambda: work.abandoned)
        assert handler.waiting is None
        assert site.connections == 0


# -- the end of the server -------------------------------------------------------------


async def test_stopping_answers_what_is_under_way() -> None:
    async with open_site() as site:
        async with await connect(site.port) as idle, await connect(site.port) as wire:
            await eventually(lambda: site.connections == 2)
            await until_asked(site, wire, post("/wait"))
            stopping = asyncio.ensure_future(site.lane.stop(5.0))
            assert await idle.rest() == b""
            assert not stopping.done()
            site.go_on.set()
            answer = await wire.answer()
            assert answer.body == b'"waited"' and answer.closes
            await stopping
        assert site.connections == 0


async def test_stopping_has_a_bound() -> None:
    async with open_site() as site, await connect(site.port) as wire:
        await until_asked(site, wire, post("/wait"))
        async with asyncio.timeout(60):
            await site.lane.stop(0.05)
        assert await wire.rest() == b""
        await eventually(lambda: site.connections == 0)
