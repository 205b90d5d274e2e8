"""Hostile names, in every place of every route where a name can stand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from json import dumps
from urllib.parse import quote

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from clipper import Server

from .names import HOSTILE, in_paths, slots, with_text
from .raw import LANES, ask, predict, request, serving, update
from .routes import ask_all, authorization, furnish, port_of, routes_of, state_of

LOOPS = ("uvloop",)
pytestmark = [pytest.mark.asyncio(loop_scope="module")]

# Texts that are kept and shown, and are no names.
FREE = {"default_output", "uid"}

# All that our answers may have.
HEADERS = {
    "allow", "cache-control", "connection", "content-length", "content-type", "date",
    "retry-after", "www-authenticate", "x-content-type-options", "x-accel-buffering",
    "transfer-encoding",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def furnished() -> AsyncIterator[Server]:
    async with serving() as server:
        await furnish(server)
        yield server


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_changes(furnished: Server) -> AsyncIterator[None]:
    before = state_of(furnished)
    yield
    after = state_of(furnished)
    assert (after[0], after[3:]) == (before[0], before[3:])


@pytest.mark.fault("N6")
async def test_names_in_paths(furnished: Server) -> None:
    asked = []
    for route in routes_of(furnished):
        for slot in route.slots:
            asked += [
                (
                    port_of(furnished, route),
                    lane(
                        route.request(
                            authorization(furnished), path=route.filled(**{slot: name})
                        )
                    ),
                )
                for name in in_paths()
                for lane in LANES.values()
            ]
    assert len(asked) > 2000
    for (_, data), answer in zip(asked, await ask_all(asked), strict=True):
        # `/{app}/` with a dot before it is the path above: whatever route that is
        assert answer.status in (400, 404, 405), (data[:200], answer)
        assert set(answer.headers) <= HEADERS
        assert b"root:" not in answer.body
        assert len(answer.body) < 500


@pytest.mark.fault("N6")
async def test_names_in_bodies(furnished: Server) -> None:
    asked = []
    for route in routes_of(furnished):
        content = route.content
        if content is None or not route.admin or route.path.endswith("/"):
            continue
        for slot in slots(content):
            if slot[-1] in FREE or (route.name, *slot) == ("scale", "model_version"):
                continue
            asked += [
                (
                    slot,
                    name,
                    route.request(
                        authorization(furnished),
                        body=route.body(with_text(content, slot, name)),
                    ),
                )
                for name in HOSTILE
            ]
    assert len(asked) > 1000
    answers = await ask_all((furnished.admin_port, data) for *_, data in asked)
    for (slot, name, data), answer in zip(asked, answers, strict=True):
        told = (data.partition(b" HTTP")[0], slot, name, answer)
        if b"/get_" in data[:40]:  # the original answers questions about nothing with {}
            assert answer.status in (200, 400, 404), told
            assert answer.status != 200 or answer.body in (b"{}", b"[]"), told
        else:
            assert answer.status in (400, 404), told
            assert answer.value.keys() == {"error", "cause"}, told
            assert len(answer.body) < 2000, told
        assert b"root:" not in answer.body
        assert set(answer.headers) <= HEADERS


@pytest.mark.fault("N6")
@pytest.mark.parametrize("lane", LANES)
async def test_names_in_questions(furnished: Server, lane: str) -> None:
    """Versions and query ids, and parameters that come twice."""
    asks = []
    for name in HOSTILE:
        text = dumps(name)
        asks += [
            predict("echo", f'{{"input": 1, "version": {text}}}'.encode()),
            update("echo", f'{{"query_id": {text}, "label": 1}}'.encode()),
            update("echo", f'{{"query_id": {text}, "reward": 1}}'.encode()),
        ]
    file = BytesIO()
    np.save(file, np.ones(3))
    for query in (
        "uid=a&uid=b", "version=1&version=1", "version=..%2f..", "version=%00", "x=%00",
        "version=1&version=../..", "deadline_ms=1&deadline_ms=1", "&".join("x" * 17),
    ):  # fmt: skip
        target = f"/numbers/predict?{query}"
        asks += [
            request("POST", target, file.getvalue(), media="application/x-npy"),
            request("POST", f"/echo/update?{query}", b'{"input": 1, "label": 1}'),
        ]
    sent = [(furnished.port, LANES[lane](data)) for data in asks]
    for (_, data), answer in zip(sent, await ask_all(sent), strict=True):
        assert answer.status in (400, 404), (data, answer)
        assert set(answer.headers) <= HEADERS


CRLF = ("\r\nX-Evil: 1", "\nX-Evil: 1", "\r\n\r\n<html>", "\x0bX-Evil: 1", "\x85X-Evil: 1")


@pytest.mark.fault("N7")
async def test_no_text_of_a_client_is_a_header(furnished: Server) -> None:
    """Escaped in paths and queries, as it is in bodies, raw where a header takes it."""
    asked: list[tuple[int, bytes]] = []
    token = authorization(furnished)
    for route in routes_of(furnished):
        port = port_of(furnished, route)
        for text in CRLF:
            hidden = quote(text, safe="")
            names = dict.fromkeys(route.slots, f"a{hidden}")
            asked += [
                (port, lane(route.request(token, *more, path=path, body=body)))
                for path, body, more in (
                    (route.filled(**names), route.body() if names else b"{", ()),
                    (f"{route.filled()}?a={hidden}", b"{}", ()),
                    (route.filled(), dumps({text: text, "name": text}).encode(), ()),
                    (route.filled(), b"{", (f"X-Request-Id: a{hidden}",)),
                    (route.filled(), b"{", (f"X-Request-Id: a{text}",)),
                    (route.filled(), b"{", (f"Accept: a{text}", f"Cookie: {text}")),
                )
                for lane in LANES.values()
                if route.name not in ("drain", "openapi.json")
            ]
    assert len(asked) > 1000
    for (_, data), answer in zip(asked, await ask_all(asked), strict=True):
        told = (data[:300], answer)
        assert set(answer.headers) <= HEADERS, told
        assert answer.status < 500 or answer.headers.get("retry-after"), told
        if answer.headers["content-type"] == "application/json" and answer.body:
            assert b"\r" not in answer.body and b"\n" not in answer.body, told
            assert answer.value is not None


@pytest.mark.fault("N7")
async def test_names_of_models_in_answers_and_metrics_are_encoded(
    furnished: Server,
) -> None:
    """Texts that are kept and shown come back inside JSON, and in no line of metrics."""
    text = 'x"} 1\r\nclipper_forged 1\n# HELP \u2028</script>'
    body = {
        "name": "texts",
        "input_type": "json",
        "default_output": text,
        "latency_slo_micros": 1000,
    }
    data = request(
        "POST", "/admin/add_app", msgspec.json.encode(body), authorization(furnished)
    )
    assert (await ask(furnished.admin_port, data)).status == 200
    try:
        for lane in LANES.values():
            answer = await ask(furnished.port, lane(predict("texts", b'{"input": 1}')))
            assert answer.value["output"] == text
            assert b"\n" not in answer.body and b"\r" not in answer.body
            assert set(answer.headers) <= HEADERS
        metrics = await ask(furnished.port, request("GET", "/metrics"))
        assert b"clipper_forged" not in metrics.body
    finally:
        await furnished.engine.delete_application("texts")
