"""What a web page of somebody else's can send, to every route, with every method: nothing
comes in, not even with the right token at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from clipper import Server

from .raw import serving, with_trailer
from .routes import (
    CHANGES,
    METHODS,
    ON_QUERIES,
    QUESTIONS,
    Route,
    ask_all,
    authorization,
    furnish,
    port_of,
    routes_of,
    state_of,
)

LOOPS = ("uvloop",)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.fault("N8")]

PUBLIC = ("/health/live", "/health/ready", "/metrics")

# Header lines and Host of what a page can bring about, and the answer.
PAGES: dict[str, tuple[tuple[str, ...], str, int]] = {
    "another origin": (("Origin: http://evil.example",), "localhost", 403),
    "no origin to tell": (("Origin: null",), "localhost", 403),
    "another port": (("Origin: http://localhost:8080",), "localhost:1337", 403),
    "another site": (("Sec-Fetch-Site: cross-site",), "localhost", 403),
    "the same site": (("Sec-Fetch-Site: same-site",), "localhost", 403),
    "rebinding": ((), "rebound.evil.example:1337", 421),
    "0.0.0.0": ((), "0.0.0.0:1337", 421),
    "rebinding, and says it is the same": (
        ("Origin: http://evil.example:1337", "Sec-Fetch-Site: same-origin"),
        "evil.example:1337",
        421,
    ),
    "preflight": (
        ("Origin: http://evil.example", "Access-Control-Request-Method: POST",
         "Access-Control-Request-Private-Network: true"),
        "localhost",
        403,
    ),
}  # fmt: skip

# What a form, or a request that needs no preflight, can say of its body.
SIMPLE_MEDIA = (
    "text/plain", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8",
    "text/plain; application/json", "text/json", "", None,
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def furnished() -> AsyncIterator[Server]:
    async with serving() as server:
        await furnish(server)
        yield server


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_changes(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    if "furnished" not in request.fixturenames:
        yield
        return
    server = request.getfixturevalue("furnished")
    before = state_of(server)
    yield
    assert state_of(server) == before


def all_paths(server: Server) -> dict[str, Route]:
    """One route for each path of either router, those with a body before others."""
    found: dict[str, Route] = {}
    for route in sorted(routes_of(server), key=lambda r: r.method != "POST"):
        found.setdefault(f"{route.admin} {route.path}", route)
    return found


@pytest.mark.parametrize("page", PAGES)
async def test_every_route_and_method_is_closed_to_pages(
    furnished: Server, page: str
) -> None:
    lines, host, status = PAGES[page]
    asked: list[tuple[Route, str, bytes]] = []
    for route in all_paths(furnished).values():
        for method in METHODS:
            data = route.request(*lines, authorization(furnished), method=method, host=host)
            asked += [(route, method, data), (route, method, with_trailer(data))]
    assert len(asked) > 2 * 10 * 60
    answers = await ask_all((port_of(furnished, r), data) for r, _, data in asked)
    for (route, method, _), answer in zip(asked, answers, strict=True):
        told = (route, method, answer)
        assert not [name for name in answer.headers if name.startswith("access-")], told
        if method == "FOO":  # what no parser knows is not even looked at
            assert answer.status == 400 and answer.closes, told
        elif status == 421 and not route.admin and route.path.rstrip("/") in PUBLIC:
            # probes and scrapers call a host as they like, and nothing can be changed here
            assert answer.status in (200, 403, 405, 415), told
            assert answer.status == 200 or method not in ("GET", "HEAD"), told
        else:
            assert answer.status == status, told


async def test_no_method_but_the_routes_own(furnished: Server) -> None:
    """Without a page as well: a route takes its method, and a GET's route HEAD."""
    found = routes_of(furnished)
    own = {(r.admin, r.path, r.method) for r in found}
    asked: list[tuple[Route, str]] = [
        (route, method)
        for route in all_paths(furnished).values()
        for method in METHODS
        if (route.admin, route.path, method) not in own
    ]
    answers = await ask_all(
        (port_of(furnished, r), r.request(authorization(furnished), method=method))
        for r, method in asked
    )
    for (route, method), answer in zip(asked, answers, strict=True):
        refused = {"OPTIONS": 403, "FOO": 400}.get(method, 405)
        assert answer.status == refused, (route, method, answer)
        assert ("allow" in answer.headers) == (refused == 405)


@pytest.mark.parametrize("media", SIMPLE_MEDIA)
async def test_bodies_that_need_no_preflight(furnished: Server, media: Any) -> None:
    """A form knows neither Origin nor Sec-Fetch-Site in an old browser."""
    taking = [route for route in routes_of(furnished) if route.method == "POST"]
    asked = [
        (port_of(furnished, route), lane(data))
        for route in taking
        for data in [route.request(authorization(furnished), media=media)]
        for lane in (bytes, with_trailer)
    ]
    for answer in await ask_all(asked):
        assert answer.status == 415


async def test_the_same_requests_do_something_when_they_are_ours() -> None:
    """What the tests above send is refused for what a page is, not for what it says."""
    async with serving() as server:
        await furnish(server)
        found = {(r.admin, r.name): r for r in routes_of(server)}
        order = [(False, name) for name in ON_QUERIES]
        order += [(True, name) for name in (*QUESTIONS, *CHANGES)]
        for key in order:
            route, before = found[key], state_of(server)
            # as the last line says when the answer is one of lines
            data = route.request(authorization(server), "Connection: close")
            (answer,) = (
                await ask_all([(port_of(server, route), data)])
                if (route.name != "deploy")
                else [await deployed(port_of(server, route), data)]
            )
            assert answer.status in (200, 202), (route, answer)
            changed = state_of(server) != before
            assert changed == (route.name not in (*QUESTIONS, "forget_user")), route


async def deployed(port: int, data: bytes) -> Any:
    """An answer of lines, whose length nobody says before."""
    from .raw import Answer, connect, parse_head

    async with await connect(port) as wire:
        await wire.send(data)
        head, _, rest = (await wire.rest()).partition(b"\r\n\r\n")
    answer: Answer = parse_head(head + b"\r\n\r\n")
    assert b'"live"' in rest, rest
    return answer
