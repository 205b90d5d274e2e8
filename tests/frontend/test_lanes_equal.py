"""Whichever lane a request comes in by, it gets the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from clipper import Server
from clipper.frontend.api import RECENT_SIZE

from .raw import (
    Answer,
    as_http10,
    ask,
    chunked,
    connect,
    expecting,
    lane_of,
    predict,
    request,
    update,
    with_trailer,
)

LOOPS = ("uvloop", "asyncio")
pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = b'{"input": [1, 2.5]}'
BATCH = b'{"input_batch": [[1.0], [2.0], [1.0]]}'

# Requests that the hot lane answers itself, with what the answer must be.
PLAIN: dict[str, tuple[bytes, int]] = {
    "one": (predict("numbers", ONE), 200),
    "trailing slash": (request("POST", "/numbers/predict/", ONE), 200),
    "batch": (predict("numbers", BATCH), 200),
    "batch of one": (predict("numbers", b'{"input_batch": [[1]]}'), 200),
    "empty batch": (predict("numbers", b'{"input_batch": []}'), 200),
    "input wins": (predict("echo", b'{"input": 1, "input_batch": 2}'), 200),
    "any json": (predict("echo", '{"input": {"a": ["ä", null]}}'.encode()), 200),
    "null": (predict("echo", b'{"input": null}'), 200),
    "no cache": (predict("numbers", b'{"input": [1], "cache": false}'), 200),
    "batch, no cache": (predict("numbers", BATCH[:-1] + b', "cache": false}'), 200),
    "ragged": (predict("numbers", b'{"input_batch": [[1], [1, 2]]}'), 200),
    "shaped": (predict("numbers", b'{"input": [[1, 2], [3, 4]]}'), 200),
    "uid and context": (predict("echo", b'{"input": 1, "uid": 0, "context": [1]}'), 200),
    "version": (predict("echo", b'{"input": 1, "version": 1}'), 200),
    "unknown version": (predict("echo", b'{"input": 1, "version": "9"}'), 400),
    "default output": (predict("strings", b'{"input": "x"}'), 200),
    "no model, no default": (predict("bare", b'{"input": 1}'), 503),
    "charset": (
        predict("echo", b'{"input": 1}', media="Application/JSON; Charset=UTF-8"),
        200,
    ),
    "msgpack": (predict("echo", b"\x81\xa5input\x07", media="application/msgpack"), 200),
    "wrong type": (predict("numbers", b'{"input": [1, "x"]}'), 400),
    "wrong row": (predict("numbers", b'{"input_batch": [[1], [null]]}'), 400),
    "not json": (predict("numbers", b"{"), 400),
    "no body": (predict("numbers", b""), 400),
    "no input": (predict("numbers", b"{}"), 400),
    "bool uid": (predict("numbers", b'{"input": [1], "uid": true}'), 400),
    "unknown application": (predict("nope", ONE), 404),
    "feedback, forged id": (update("numbers", b'{"query_id": "x", "label": 1}'), 404),
    "feedback/": (request("POST", "/numbers/update/", b'{"feedback": []}'), 200),
    "feedback, list": (
        update("numbers", b'{"feedback": [{"query_id": "x", "reward": 1}]}'),
        200,
    ),
    "feedback, msgpack": (
        update("numbers", b"\x81\xa8feedback\x90", media="application/msgpack"),
        200,
    ),
    "feedback of nothing": (update("numbers", b"{}"), 400),
    "feedback, no label": (update("numbers", b'{"query_id": "x"}'), 400),
    "feedback, both": (
        update("numbers", b'{"query_id": "x", "label": 1, "reward": 1}'),
        400,
    ),
    "feedback, no query": (update("numbers", b'{"reward": 1}'), 400),
    "feedback, reward and input": (update("numbers", b'{"input": [], "reward": 1}'), 400),
    "feedback, reward as text": (
        update("numbers", b'{"query_id": "x", "reward": "0.9"}'),
        400,
    ),
    "feedback by input": (update("numbers", b'{"input": [1], "label": [1]}'), 200),
    "feedback, parameters": (
        request("POST", "/numbers/update?uid=0", b'{"feedback": []}'),
        400,
    ),
    "feedback, unknown application": (update("nope", b'{"feedback": []}'), 404),
    "live": (request("GET", "/health/live"), 200),
    "ready": (request("GET", "/health/ready"), 200),
    "application": (request("GET", "/numbers"), 200),
    "application/": (request("GET", "/numbers/"), 200),
}

# Requests that the hot lane hands over by itself; nothing may change the answer.
ODD: dict[str, tuple[bytes, int]] = {
    "close": (predict("numbers", ONE, "Connection: close"), 200),
    "GET, close": (request("GET", "/numbers", None, "Connection: close"), 200),
    "batch, close": (predict("numbers", BATCH, "Connection: close"), 200),
    "unknown GET": (request("GET", "/nope"), 404),
    "no route": (request("GET", "/a/b/c"), 404),
    "root": (request("GET", "/"), 404),
    "double slash": (request("GET", "//health/live"), 404),
    "query string": (request("GET", "/numbers?a=b"), 200),
    "escaped name": (request("POST", "/n%75mbers/predict", ONE), 200),
    "GET predict": (request("GET", "/numbers/predict"), 405),
    "POST application": (request("POST", "/numbers", b"{}"), 405),
    "POST health": (request("POST", "/health/live", b"{}"), 405),
    "GET update": (request("GET", "/numbers/update"), 405),
    "feedback, npy": (update("numbers", b"", media="application/x-npy"), 415),
    "feedback, close": (
        update("numbers", b'{"feedback": []}', "Connection: close"),
        200,
    ),
    "feedback, other origin": (
        update("numbers", b"{}", "Origin: http://evil.example"),
        403,
    ),
    "DELETE": (request("DELETE", "/numbers"), 405),
    "no media type": (predict("numbers", ONE, media=None), 415),
    "text": (predict("numbers", ONE, media="text/plain"), 415),
    "form": (predict("numbers", ONE, media="application/x-www-form-urlencoded"), 415),
    "latin-1": (predict("numbers", ONE, media="application/json; charset=latin-1"), 415),
    "gzip": (predict("numbers", ONE, "Content-Encoding: gzip"), 415),
    "identity": (predict("numbers", ONE, "Content-Encoding: identity"), 415),
    "other host": (predict("numbers", ONE, host="evil.example"), 421),
    "other origin": (predict("numbers", ONE, "Origin: http://evil.example"), 403),
    "null origin": (predict("numbers", ONE, "Origin: null"), 403),
    "own origin": (predict("numbers", ONE, "Origin: http://localhost"), 200),
    "cross-site": (predict("numbers", ONE, "Sec-Fetch-Site: cross-site"), 403),
    "same-site": (predict("numbers", ONE, "Sec-Fetch-Site: same-site"), 403),
    "same-origin": (predict("numbers", ONE, "Sec-Fetch-Site: same-origin"), 200),
    "typed in": (predict("numbers", ONE, "Sec-Fetch-Site: none"), 200),
    "two origins": (predict("numbers", ONE, "Origin: a", "Origin: b"), 400),
    "two media types": (predict("numbers", ONE, "Content-Type: application/json"), 400),
    "two agents": (predict("numbers", ONE, "User-Agent: a", "User-Agent: b"), 400),
    "two harmless": (predict("numbers", ONE, "X-Any: a", "X-Any: b"), 200),
    "65 headers": (predict("numbers", ONE, *(f"X-{i}: a" for i in range(65))), 431),
    "50 headers": (predict("numbers", ONE, *(f"X-{i}: a" for i in range(50))), 200),
    "8 kB header": (predict("numbers", ONE, "X-Any: " + "a" * 8000), 200),
    "9 kB header": (predict("numbers", ONE, "X-Any: " + "a" * 9000), 431),
    "17 kB of headers": (
        predict("numbers", ONE, *(f"X-{i}: " + "a" * 4000 for i in range(5))),
        431,
    ),
}

FORCES: dict[str, Callable[[bytes], bytes]] = {
    "trailer": with_trailer,
    "expect": expecting,
    "http/1.0": as_http10,
}


def comparable(answer: Answer) -> tuple[int, bytes, str | None, str | None]:
    """An answer without what differs from one to the next: ids of queries."""
    return (
        answer.status,
        re.sub(rb'"query_id":"[\w.-]+"', b"", answer.body),
        answer.headers["content-type"],
        answer.headers.get("retry-after"),
    )


def check_manners(answer: Answer) -> None:
    assert ("retry-after" in answer.headers) == (answer.status == 503)
    assert "server" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    if answer.status >= 400 and answer.status != 503:
        assert answer.value.keys() == {"error", "cause"}
        assert ("allow" in answer.headers) == (answer.status == 405)


@pytest.mark.parametrize("force", FORCES)
@pytest.mark.parametrize("name", [*PLAIN, *ODD])
async def test_one_answer(echo_server: Server, name: str, force: str) -> None:
    data, status = {**PLAIN, **ODD}[name]
    plain = await ask(echo_server.port, data)
    forced = await ask(echo_server.port, FORCES[force](data))
    assert plain.status == status, plain.body
    if "close" in name or name in ("65 headers", "17 kB of headers"):
        assert plain.closes and forced.closes
    assert comparable(plain) == comparable(forced)
    check_manners(plain)
    check_manners(forced)


@pytest.mark.parametrize("name", [n for n, (data, _) in PLAIN.items() if b"POST" in data])
async def test_one_answer_for_chunks(echo_server: Server, name: str) -> None:
    data, _ = PLAIN[name]
    plain = await ask(echo_server.port, data)
    forced = await ask(echo_server.port, chunked(data))
    assert comparable(plain) == comparable(forced)


@pytest.mark.parametrize("name", PLAIN)
async def test_the_hot_lane_keeps_plain_requests(echo_server: Server, name: str) -> None:
    lane = lane_of(echo_server)
    async with await connect(echo_server.port) as wire:
        for _ in range(2):
            await wire.send(PLAIN[name][0])
            await wire.answer()
        assert (len(lane.connections), lane.handed_over) == (1, 0)


@pytest.mark.parametrize("force", [with_trailer, chunked, expecting])
async def test_a_connection_goes_on_in_the_other_lane(
    echo_server: Server, force: Callable[[bytes], bytes]
) -> None:
    """Plain, odd, plain, pipelined: three answers in order."""
    first, second, third = (
        predict("echo", b'{"input": %d}' % number) for number in (1, 2, 3)
    )
    async with await connect(echo_server.port) as wire:
        await wire.send(first + force(second) + third)
        assert [(await wire.answer()).value["output"] for _ in range(3)] == [1, 2, 3]
        await wire.send(predict("echo", b'{"input": 4}'))
        assert (await wire.answer()).value["output"] == 4


@pytest.mark.parametrize("force", [with_trailer, chunked, expecting])
async def test_feedback_that_came_in_one_lane_is_known_in_the_other(
    echo_server: Server, force: Callable[[bytes], bytes]
) -> None:
    port = echo_server.port
    for first, second in ((bytes, force), (force, bytes)):
        query_id = (await ask(port, predict("numbers", ONE))).value["query_id"].encode()
        said = update("numbers", b'{"query_id": "%b", "label": [1, 2.5]}' % query_id)
        other = update("numbers", b'{"query_id": "%b", "label": [1]}' % query_id)
        answer = await ask(port, first(said))
        assert answer.value == {"accepted": True, "duplicate": False}
        answer = await ask(port, second(said))
        assert answer.value == {"accepted": True, "duplicate": True}
        for send in (first, second):
            answer = await ask(port, send(other))
            assert (answer.status, answer.value["error"]) == (409, "conflict")


async def test_feedback_on_the_rows_of_a_batch(echo_server: Server) -> None:
    answer = await ask(echo_server.port, predict("numbers", BATCH))
    ids = [row["query_id"].encode() for row in answer.value["batch_predictions"]]
    said = b",".join(b'{"query_id": "%b", "reward": 1}' % each for each in ids)
    answer = await ask(echo_server.port, update("numbers", b'{"feedback": [%b]}' % said))
    assert answer.value["feedback"] == [{"accepted": True, "duplicate": False}] * 3


async def test_outputs_are_the_inputs(echo_server: Server) -> None:
    cases = {
        ("numbers", b"[1, 2.5]"): [1.0, 2.5],
        ("numbers", b"[[1, 2], [3, 4]]"): [[1.0, 2.0], [3.0, 4.0]],
        ("echo", '{"a": ["ä", null]}'.encode()): {"a": ["ä", None]},
        ("echo", b'"6.6"'): "6.6",
    }
    for (app, value), output in cases.items():
        for force in (lambda data: data, chunked):
            data = force(predict(app, b'{"input": %b}' % value))
            answer = await ask(echo_server.port, data)
            assert answer.value["output"] == output
            assert answer.value["default"] is False


async def test_what_is_remembered_of_bodies(echo_server: Server) -> None:
    """The same bytes mean the same only in the same media type and application; the
    number of bodies that are kept is bounded, and large ones are not."""
    api = lane_of(echo_server).api
    body = b'{"input": [1, 2]}'
    for _ in range(2):
        for app, output in (("numbers", [1.0, 2.0]), ("echo", [1, 2])):
            answer = await ask(echo_server.port, predict(app, body))
            assert repr(answer.value["output"]) == repr(output)
        wrong = predict("echo", body, media="application/msgpack")
        assert (await ask(echo_server.port, wrong)).status == 400
    _, decoder = api._decoders["echo"]
    assert body in decoder.recent
    large = b'{"input": "%b"}' % (b"x" * RECENT_SIZE)
    assert (await ask(echo_server.port, predict("echo", large))).status == 200
    assert large not in decoder.recent
    decoder.recent.clear()


async def test_head_is_get_without_a_body(echo_server: Server) -> None:
    for path in ("/numbers", "/health/live", "/metrics"):
        async with await connect(echo_server.port) as wire:
            await wire.send(request("HEAD", path))
            answer = await wire.answer(head_only=True)
            assert answer.status == 200
            await wire.send(request("GET", "/health/live"))
            assert (await wire.answer()).value["status"] == "live"
