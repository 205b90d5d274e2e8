"""The routes of the query port."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from polling import eventually

from clipper import Server

from .raw import (
    LANES,
    ask,
    chunked,
    connect,
    is_quiet,
    predict,
    request,
    serving,
)

LOOPS = ("uvloop",)
pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
    "PROPFIND", "LINK", "QUERY", "M-SEARCH", "BREW",
)  # fmt: skip

ROUTES: dict[str, set[str]] = {
    "/json/predict": {"POST"},
    "/json/predict/": {"POST"},
    "/json": {"GET", "HEAD"},
    "/json/": {"GET", "HEAD"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("route", ROUTES)
async def test_every_method_of_every_route(
    server: Server, route: str, method: str, lane: str
) -> None:
    body = b'{"input": 1}' if method == "POST" else None
    data = LANES[lane](request(method, route, body))
    answer = await ask(server.port, data, head_only=method == "HEAD")
    allowed = ROUTES[route]
    if method in allowed:
        assert answer.status == 200, answer.body
    elif method == "OPTIONS":
        assert answer.status == 403
    elif method in ("CONNECT", "BREW"):  # no path as its target; no method at all
        assert answer.status in (400, 405)
    else:
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
    if answer.status != 200 and method != "HEAD":
        assert answer.value.keys() == {"error", "cause"}
    for name in answer.headers:
        assert not name.startswith("access-control")


NAMES = {
    "dots": "..",
    "dot": ".",
    "escaped dots": "%2e%2e",
    "escaped dots and slash": "%2e%2e%2f",
    "escaped slash": "a%2fb",
    "twice escaped": "%252e%252e%252f",
    "nul": "a%00",
    "crlf": "a%0d%0aX-Evil:%201",
    "backslash": "..%5c..%5cwindows",
    "raw backslash": "..\\..\\windows",
    "look-alike": "%D0%B0pp",  # a Cyrillic letter
    "full width": "%EF%BC%8E%EF%BC%8E",
    "right to left": "%E2%80%AEppa",
    "bad utf-8": "%ff%fe",
    "bad escape": "%zz",
    "10 kB": "a" * 7000,
    "65": "a" * 65,
    "empty": "",
    "blank": "%20",
    "semicolon": "json;x=1",
    "at": "user@host",
    "file": "file:%2f%2f%2fetc%2fpasswd",
    "tilde": "~root",
    "hidden": ".git",
    "option": "-rf",
    "quote": "%27%22%3Cscript%3E",
    "reserved": "admin",
    "health": "health",
}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", ["/{}/predict", "/{}", "/{}/", "/{}/predict/"])
async def test_names_that_are_none(
    server: Server, route: str, name: str, lane: str
) -> None:
    target = route.format(NAMES[name])
    method, body = ("POST", b'{"input": 1}') if "predict" in route else ("GET", None)
    answer = await ask(server.port, LANES[lane](request(method, target, body)))
    assert answer.status in (400, 404, 405), answer
    assert answer.value.keys() == {"error", "cause"}
    cause = answer.value["cause"]
    assert len(cause) < 200 and cause.isprintable()
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", ["../x", "a\0", "", "a\r\nX: 1", "\u0430", "a" * 65, "."])
async def test_versions_that_are_none(server: Server, name: str, lane: str) -> None:
    body = msgspec.json.encode({"input": 1, "version": name})
    answer = await ask(server.port, LANES[lane](predict("json", body)))
    assert answer.status == 400
    assert answer.value["cause"].isprintable()


@pytest.mark.parametrize("lane", LANES)
async def test_an_unknown_application_is_named(server: Server, lane: str) -> None:
    for data in (predict("nope", b'{"input": 1}'), request("GET", "/nope")):
        answer = await ask(server.port, LANES[lane](data))
        assert answer.status == 404
        assert answer.value == {
            "error": "not_found",
            "cause": "there is no application 'nope'",
        }


async def test_an_application_shows_itself(server: Server) -> None:
    answer = await ask(server.port, request("GET", "/doubles"))
    assert answer.value["input_type"] == "doubles"
    example = answer.value["example_request"]
    again = await ask(server.port, predict("doubles", msgspec.json.encode(example)))
    assert again.status == 200


async def test_an_application_that_is_deleted_is_gone(server: Server) -> None:
    await server.register_application("passing", input_type="json", default_output="1")
    async with await connect(server.port) as wire:
        for expected in (200, 404):
            for data in (predict("passing", b'{"input": 1}'), request("GET", "/passing")):
                await wire.send(data)
                assert (await wire.answer()).status == expected
            if expected == 200:
                await server.engine.delete_application("passing")
    await server.register_application("passing", input_type="strings", default_output="2")
    answer = await ask(server.port, predict("passing", b'{"input": 1}'))
    assert answer.status == 400  # it is of another type now


async def test_descriptions(server: Server) -> None:
    document = (await ask(server.port, request("GET", "/openapi.json"))).value
    assert document["openapi"].startswith("3.1")
    page = await ask(server.port, request("GET", "/docs"))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "server" not in page.headers
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_metrics_count_connections_and_refusals() -> None:
    async with serving(require_token=True) as server:
        for lane in LANES.values():
            answer = await ask(server.port, lane(predict("json", b'{"input": 1}')))
            assert answer.status == 401
        text = (await ask(server.port, request("GET", "/metrics"))).body.decode()
    assert 'clipper_http_unauthorized_requests_total{port="query"} 2.0' in text
    assert "clipper_http_connections 1.0" in text


async def test_openmetrics_by_accept(server: Server) -> None:
    data = request("GET", "/metrics", None, "Accept: application/openmetrics-text")
    answer = await ask(server.port, data)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("lane", LANES)
async def test_the_token_on_the_query_port(lane: str) -> None:
    async with serving(require_token=True) as server:
        body = b'{"input": 1}'
        for line, status in (
            ((), 401),
            (("Authorization: Bearer wrong",), 401),
            ((f"Authorization: Bearer {server.token[:-1]}",), 401),
            ((f"Authorization: Basic {server.token}",), 401),
            ((f"Authorization: Bearer {server.token}",), 200),
        ):
            for data in (
                predict("json", body, *line),
                request("GET", "/json", None, *line),
            ):
                answer = await ask(server.port, LANES[lane](data))
                assert answer.status == status
                assert server.token not in answer.body.decode()
                if status == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
        query = f"/json/predict?token={server.token}"
        answer = await ask(server.port, LANES[lane](request("POST", query, body)))
        assert answer.status == 401
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await ask(server.port, LANES[lane](request("GET", path)))).status == 200


@pytest.mark.parametrize("lane", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_a_refused_body_closes_the_connection(server: Server, lane: Any) -> None:
    """What was not read could pass for the next request."""
    smuggled = request("GET", "/health/live")
    for data in (
        predict("json", smuggled, media="text/plain"),
        predict("json", smuggled, host="evil.example"),
        predict("json", smuggled, "Origin: http://evil.example"),
        request("POST", "/health/live", smuggled),
        request("POST", "/a/b/c", smuggled),
        request("DELETE", "/json", smuggled),
    ):
        async with await connect(server.port) as wire:
            await wire.send(lane(data) + smuggled)
            answer = await wire.answer()
            assert 400 <= answer.status < 500
            assert answer.closes
            assert await wire.rest() == b""


@pytest.mark.parametrize("lane", LANES)
async def test_draining_refuses_and_closes(lane: str) -> None:
    async with serving() as server:
        ports = server._ports
        assert ports is not None
        async with await connect(server.port) as wire:
            await wire.send(LANES[lane](request("GET", "/health/live")))
            assert (await wire.answer()).status == 200
            server.engine.begin_drain()
            ports.lane.draining = ports._web._stopping = True
            await wire.send(LANES[lane](predict("json", b'{"input": 1}')))
            answer = await wire.answer()
            assert answer.status == 503 and answer.closes
            assert "shutting down" in answer.value["cause"]
            assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("lane", LANES)
async def test_readiness_while_draining(lane: str) -> None:
    async with serving() as server:
        server.engine.begin_drain()
        answer = await ask(server.port, LANES[lane](request("GET", "/health/ready")))
        assert (answer.status, answer.value["status"]) == (503, "draining")
        answer = await ask(server.port, LANES[lane](request("GET", "/health/live")))
        assert answer.status == 200


async def test_expect_asks_for_the_body_only_if_it_is_welcome(server: Server) -> None:
    body = b'{"input": 1}'
    expecting = "Expect: 100-continue"
    head = predict("json", body, expecting).removesuffix(body)
    async with await connect(server.port) as wire:
        await wire.send(head)
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(body)
        assert (await wire.answer()).status == 200
        await wire.send(predict("json", body))
        assert (await wire.answer()).status == 200
    for data, status in (
        (predict("json", body, expecting, media="text/plain"), 415),
        (predict("json", body, expecting, host="evil"), 421),
    ):
        async with await connect(server.port) as wire:
            await wire.send(data.removesuffix(body))
            head = await wire.reader.readuntil(b"\r\n\r\n")
            assert b" %d " % status in head
    size = ("Content-Type: application/json", "Content-Length: 99999999999")
    huge = request("POST", "/json/predict", None, expecting, *size)
    answer = await ask(server.port, huge)
    assert answer.status == 413 and answer.closes
    await eventually(lambda: is_quiet(server))
