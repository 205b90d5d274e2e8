"""The admin token: nothing is done, and nothing is told, to whoever has not got it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from clipper import Server
from clipper.frontend.web import UNAUTHORIZED_DELAY

from .raw import LANES, Answer, ask, predict, request, serving, with_trailer
from .routes import (
    METHODS,
    Route,
    ask_all,
    authorization,
    furnish,
    port_of,
    routes_of,
    state_of,
)

LOOPS = ("uvloop",)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.fault("N9")]

ALL_AT_ONCE = 150  # a refusal for want of the token is delayed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def furnished() -> AsyncIterator[Server]:
    async with serving({"admin_connections": 1000}, require_token=True) as server:
        await furnish(server)
        yield server


def wrong(token: str) -> dict[str, tuple[str, ...]]:
    """Header lines of those who have no token, or not quite."""
    flipped = "0" if token[-1] != "0" else "1"
    values = {
        "a prefix": f"Bearer {token[:-1]}",
        "half": f"Bearer {token[: len(token) // 2]}",
        "one character": f"Bearer {token[0]}",
        "the last one is wrong": f"Bearer {token[:-1]}{flipped}",
        "the first one is wrong": f"Bearer {'0' if token[0] != '0' else '1'}{token[1:]}",
        "longer": f"Bearer {token}0",
        "twice": f"Bearer {token}{token}",
        "upper case": f"Bearer {token.upper()}x",
        "empty": "Bearer",
        "blank": "Bearer  ",
        "another scheme": f"Basic {token}",
        "no scheme": token,
        "a list": f"Bearer {token}, Bearer {token}",
        "quoted": f'Bearer "{token}"',
        "bytes": "Bearer \xff\xfe",
        "long": "Bearer " + "a" * 4000,
    }
    found = {name: (f"Authorization: {value}",) for name, value in values.items()}
    return found | {
        "none": (),
        "in another header": (f"X-Api-Key: {token}", f"Cookie: token={token}"),
        "for a proxy": (f"Proxy-Authorization: Bearer {token}",),
    }


async def test_nothing_is_done_without_the_token(furnished: Server) -> None:
    """Every route that asks for it, and those that are not there: the same answer."""
    before = state_of(furnished)
    asked: list[tuple[Route, str, bytes]] = []
    for route in routes_of(furnished):
        if not route.admin and route.path.rstrip("/") in ("/health/live", "/health/ready"):
            continue
        if not route.admin and route.path.rstrip("/") == "/metrics":
            continue
        for method in METHODS:
            if method not in ("OPTIONS", "FOO"):
                data = route.request(method=method)
                asked += [(route, method, data)]
    answers = await ask_all([(port_of(furnished, r), d) for r, _, d in asked], ALL_AT_ONCE)
    for (route, method, _), answer in zip(asked, answers, strict=True):
        known = method in ("GET", "HEAD", "POST")
        assert answer.status == (401 if known else 405), (route, method, answer)
    paths = ("/admin/none", "/admin", "/", "/admin/../admin/ping", "/admin/logs/x/1")
    none = [(furnished.admin_port, request("GET", path)) for path in paths]
    assert {a.status for a in await ask_all(none)} == {401}
    assert state_of(furnished) == before


async def test_wrong_tokens_are_no_oracle(furnished: Server) -> None:
    """However much of it is right, and wherever it is: byte for byte the same refusal."""
    before = state_of(furnished)
    admin = [r for r in routes_of(furnished) if r.admin and not r.path.endswith("/")]
    asked: list[tuple[int, bytes]] = []
    for lines in wrong(furnished.token).values():
        asked += [(furnished.admin_port, route.request(*lines)) for route in admin]
        query = predict("echo", b'{"input": 1}', *lines)
        asked += [(furnished.port, lane(query)) for lane in LANES.values()]
    answers = await ask_all(asked, ALL_AT_ONCE)
    assert len(answers) > 500
    assert {answer.status for answer in answers} == {401}
    assert len({answer.body for answer in answers if answer.body}) == 1
    assert len({(tuple(_told(a)), a.headers["www-authenticate"]) for a in answers}) == 1
    assert state_of(furnished) == before


def _told(answer: Answer) -> list[str]:
    return sorted(set(answer.headers) - {"date", "connection"})


@pytest.mark.parametrize("where", ["?token={}", "?access_token={}&x=1", "/{}", "#{}"])
async def test_the_right_token_in_an_address_is_none(furnished: Server, where: str) -> None:
    """Addresses are kept by proxies, shells and logs."""
    added = where.format(furnished.token)
    answers = await ask_all(
        [
            (furnished.admin_port, request("GET", f"/admin/ping{added}")),
            (furnished.port, request("GET", f"/echo{added}")),
            (furnished.port, with_trailer(request("GET", f"/echo{added}"))),
            (furnished.port, request("POST", f"/echo/predict{added}", b'{"input": 1}')),
        ]
    )
    for answer in answers:
        assert answer.status in (400, 401)
        assert furnished.token.encode() not in answer.body


async def test_tokens_are_compared_in_constant_time(
    furnished: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def compare(given: Any, right: Any) -> bool:
        compared.append((given, right))
        return real(given, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    given = furnished.token[:-1]
    line = f"Authorization: Bearer {given}"
    answer = await ask(furnished.admin_port, request("GET", "/admin/ping", None, line))
    assert answer.status == 401
    assert compared == [(given.encode(), furnished.token.encode())]


async def test_a_wrong_token_costs_time(furnished: Server) -> None:
    """Guesses on one connection come one after another, each delayed; others are not."""
    gate_count = 5
    ping = request("GET", "/admin/ping", None, "Authorization: Bearer 0")
    began = time.monotonic()
    guesses = asyncio.gather(*(ask(furnished.admin_port, ping) for _ in range(gate_count)))
    good = await ask(
        furnished.admin_port, request("GET", "/admin/ping", None, authorization(furnished))
    )
    assert good.status == 200
    assert {answer.status for answer in await guesses} == {401}
    assert time.monotonic() - began >= UNAUTHORIZED_DELAY


async def test_refusals_are_counted(furnished: Server) -> None:
    async def refused(port: str) -> float:
        answer = await ask(furnished.port, request("GET", "/metrics"))
        name = f'clipper_http_unauthorized_requests_total{{port="{port}"}}'
        found = re.search(rf"^{re.escape(name)} (.+)$", answer.body.decode(), re.M)
        assert found is not None
        return float(found[1])

    query, admin = await refused("query"), await refused("admin")
    await ask(furnished.port, request("GET", "/echo"))
    await ask(furnished.admin_port, request("GET", "/admin/ping"))
    assert (await refused("query"), await refused("admin")) == (query + 1, admin + 1)


async def test_nothing_says_the_token(
    furnished: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """With the right token, every route; it is in no answer and no line of the log."""
    caplog.set_level(logging.DEBUG)
    token, harmless = furnished.token, [
        route for route in routes_of(furnished)
        if route.method != "POST" or route.name.startswith("get_")
    ]  # fmt: skip
    answers = await ask_all(
        (port_of(furnished, r), r.request(authorization(furnished), "Connection: close"))
        for r in harmless
        if "{app}" not in r.path or "feedback" not in r.path
    )
    assert {answer.status for answer in answers} == {200}
    for answer in answers:
        assert token.encode() not in answer.body
        assert token not in str(answer.headers)
    assert token not in caplog.text
    assert token not in repr(furnished) + repr(furnished.engine)
