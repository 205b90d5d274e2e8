"""Everything that a client could make grow, or keep waiting, has its bound."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from polling import eventually

from clipper import Server

from .raw import (
    LANES,
    PATIENCE,
    Wire,
    ask,
    chunked,
    connect,
    connected,
    is_quiet,
    lane_of,
    predict,
    request,
    serving,
    with_trailer,
)

LOOPS = ("uvloop",)
pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = 100_000
LIMITS: dict[str, Any] = {
    "body": BODY,
    "head": 4096,
    "bytes_in_flight": 3 * BODY + BODY // 2,
}
# Only for the tests of these very times: a busy machine may keep any client waiting.
HASTE: dict[str, Any] = {
    "head_seconds": 0.4,
    "body_seconds": 0.4,
    "idle_seconds": 0.5,
    "write_seconds": 0.5,
}
LIVE = request("GET", "/health/live")
GOOD = predict("json", b'{"input": 1}')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict() -> AsyncIterator[Server]:
    async with serving(LIMITS) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty() -> AsyncIterator[Server]:
    async with serving(LIMITS | HASTE) as server:
        lane_of(server).sweep_seconds = 0.2
        yield server


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_is_well(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    yield
    for name in {"strict", "hasty"} & set(request.fixturenames):
        server = request.getfixturevalue(name)
        assert (await ask(server.port, GOOD)).status == 200
        await eventually(lambda server=server: is_quiet(server))


async def drip(wire: Wire, data: bytes, pause: float = 0.05) -> None:
    """Send byte by byte until the server has had enough."""
    for byte in data:
        if wire.reader.at_eof():
            return
        try:
            await wire.send(bytes([byte]))
        except ConnectionError:
            return
        await asyncio.sleep(pause)


# -- time ------------------------------------------------------------------------------


@pytest.mark.fault("N2")
@pytest.mark.parametrize("before", [b"", LIVE, with_trailer(LIVE)], ids=["new", *LANES])
@pytest.mark.parametrize("start", [b"", b"POST /json/pre"], ids=["silent", "half a head"])
async def test_silent_clients_are_let_go(
    hasty: Server, before: bytes, start: bytes
) -> None:
    async with await connect(hasty.port) as wire:
        if before:
            await wire.send(before)
            await wire.answer()
        if start:
            await wire.send(start)
        assert await wire.rest() == b""


@pytest.mark.fault("N2")
@pytest.mark.parametrize("before", [b"", with_trailer(LIVE)], ids=LANES)
async def test_dripping_heads(hasty: Server, before: bytes) -> None:
    async with await connect(hasty.port) as wire:
        if before:
            await wire.send(before)
            await wire.answer()
        began = time.monotonic()
        dripping = asyncio.ensure_future(drip(wire, GOOD * 10))
        assert await wire.rest() == b""
        assert time.monotonic() - began < PATIENCE / 2
        await dripping


@pytest.mark.fault("N2")
@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_dripping_bodies(hasty: Server, send: Any) -> None:
    data = send(predict("json", b'{"input": "' + b"x" * 1000 + b'"}'))
    head, _, body = data.partition(b"\r\n\r\n")
    async with await connect(hasty.port) as wire:
        await wire.send(head + b"\r\n\r\n")
        dripping = asyncio.ensure_future(drip(wire, body))
        answer = await wire.answer()
        assert answer.status == 408 and answer.closes
        assert answer.value["error"] == "request_timeout"
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        await wire.rest()


@pytest.mark.fault("N2")
@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_bodies_that_stop(hasty: Server, send: Any) -> None:
    async with await connect(hasty.port) as wire:
        await wire.send(send(GOOD)[:-8])
        assert (await wire.answer()).status == 408
        assert await wire.rest() == b""


@pytest.mark.fault("N2")
@pytest.mark.parametrize("through", LANES)
async def test_clients_that_do_not_read(hasty: Server, through: str) -> None:
    """Requests without end, and nobody takes the answers."""
    data = LANES[through](request("GET", "/json"))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", hasty.port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await loop.sock_sendall(sock, data * 1000)
    await eventually(lambda: is_quiet(hasty))


@pytest.mark.fault("N2")
@pytest.mark.parametrize("through", LANES)
async def test_a_large_answer_that_is_not_taken(hasty: Server, through: str) -> None:
    """The server keeps what one answer is, and not for long."""
    name, text = f"large-{through}", '"' + "x" * 60_000 + '"'
    await hasty.register_application(name, input_type="json", default_output=text)
    body = b'{"input_batch": [%b]}' % b",".join([b"1"] * 100)
    data = LANES[through](predict(name, body))
    async with connected(hasty.port, 10) as wires:
        for wire in wires:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(data * 10)
        lane = lane_of(hasty)
        await eventually(lambda: not lane.connections and not lane.handed_over)


@pytest.mark.fault("N2")
async def test_others_are_served_while_many_are_slow(hasty: Server) -> None:
    starts = (b"POST", GOOD[:-3], with_trailer(GOOD)[:-3], chunked(GOOD)[:-3], b"")
    async with connected(hasty.port, 200) as wires:
        for number, wire in enumerate(wires):
            if start := starts[number % len(starts)]:
                await wire.send(start)
        began = time.monotonic()
        for _ in range(20):
            assert (await ask(hasty.port, GOOD)).status == 200
        assert time.monotonic() - began < 10.0
        for wire in wires:
            await wire.rest()


# -- size ------------------------------------------------------------------------------


@pytest.mark.fault("N3")
@pytest.mark.parametrize("through", LANES)
@pytest.mark.parametrize("size", [BODY + 1, 2**31, 2**62, 2**64 - 1])
async def test_a_length_past_the_limit_is_refused_unread(
    strict: Server, size: int, through: str
) -> None:
    media = "Content-Type: application/json"
    data = request("POST", "/json/predict", None, media, f"Content-Length: {size}")
    answer = await ask(strict.port, LANES[through](data))
    assert answer.status == 413 and answer.closes


@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_a_body_at_the_limit_is_taken(strict: Server, send: Any) -> None:
    body = b'{"input": "%b"}' % (b"x" * (BODY - 13))
    assert len(body) == BODY
    assert (await ask(strict.port, send(predict("json", body)))).status == 200


@pytest.mark.fault("N3")
async def test_a_chunked_body_past_the_limit(strict: Server) -> None:
    async with await connect(strict.port) as wire:
        await wire.send(chunked(predict("json", b"x" * (BODY + 1)), 10_000))
        answer = await wire.answer()
        assert answer.status == 413 and answer.closes
        await wire.rest()


@pytest.mark.fault("N3")
async def test_a_chunked_body_without_end(strict: Server) -> None:
    head = chunked(GOOD).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"

    async def pour(wire: Wire) -> None:
        try:
            await wire.send(head)
            while True:
                await wire.send(chunk)
        except ConnectionError:
            pass

    async with await connect(strict.port) as wire:
        pouring = asyncio.ensure_future(pour(wire))
        assert (await wire.answer()).status == 413
        await wire.rest()
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)


@pytest.mark.fault("N3")
async def test_chunks_of_one_byte(strict: Server) -> None:
    body = b'{"input": "%b"}' % (b"x" * 20_000)
    began = time.process_time()
    answer = await ask(strict.port, chunked(predict("json", body), 1))
    assert answer.status == 200
    assert time.process_time() - began < 10.0


@pytest.mark.fault("N3")
async def test_a_body_of_single_bytes(strict: Server) -> None:
    """The same over the hot lane: one write for each byte."""
    data = predict("json", b'{"input": "%b"}' % (b"x" * 2000))
    async with await connect(strict.port) as wire:
        for byte in data:
            await wire.send(bytes([byte]))
        assert (await wire.answer()).status == 200


@pytest.mark.fault("N3")
@pytest.mark.parametrize("through", LANES)
async def test_many_who_only_claim_to_send_much_keep_nobody_out(
    strict: Server, through: str
) -> None:
    """What counts is what came, not what a header says will come."""
    data = LANES[through](predict("json", b"x" * BODY)).partition(b"\r\n\r\n")[0]
    async with connected(strict.port, 20) as wires:
        for wire in wires:
            await wire.send(data + b"\r\n\r\n{")
        assert (await ask(strict.port, GOOD)).status == 200
        big = predict("json", b'{"input": "%b"}' % (b"x" * (BODY - 13)))
        assert (await ask(strict.port, big)).status == 200


@pytest.mark.fault("N3")
@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_too_many_bytes_in_flight(strict: Server, send: Any) -> None:
    body = b'{"input": "%b"}' % (b"x" * (BODY - 13))
    data = send(predict("json", body))
    async with connected(strict.port, 3) as wires:
        for wire, app in zip(wires, ("json", "json", "strings"), strict=True):
            await wire.send(send(predict(app, body))[:-20])
        await eventually(lambda: lane_of(strict).bytes_in_flight > 2.9 * BODY)
        answer = await ask(strict.port, data)
        assert answer.status == 503 and answer.headers["retry-after"] == "1"
        assert "in flight" in answer.value["cause"]
        for wire in wires:
            await wire.send(data[-20:])
            assert (await wire.answer()).status == 200


@pytest.mark.fault("N3")
@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/" + "a" * 5000),
        request("GET", "/json", None, "X: " + "a" * 5000),
        request("GET", "/json", None, *(f"X-{i}: {'a' * 100}" for i in range(60))),
        request("GET", "/json", None, *(f"X-{i}: a" for i in range(200))),
        request("GET", "/json", None, "X: " + "a" * 1_000_000),
        b"GET /" + b"a" * 5000,
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 10_000,
    ],
    ids=["target", "header", "together", "number", "huge", "no end", "no end of lines"],
)
@pytest.mark.parametrize("before", [b"", with_trailer(LIVE)], ids=LANES)
async def test_heads_past_the_limit(strict: Server, before: bytes, data: bytes) -> None:
    async with await connect(strict.port) as wire:
        if before:
            await wire.send(before)
            await wire.answer()
        with_error = None
        try:
            await wire.send(data)
            with_error = await wire.answer()
        except ConnectionError:  # it was closed while we still sent
            pass
        if with_error is not None:
            assert with_error.status == 431 and with_error.closes
        assert await wire.rest() == b""


@pytest.mark.fault("N3")
@pytest.mark.parametrize("through", LANES)
async def test_trailers_are_bounded(strict: Server, through: str) -> None:
    data = chunked(GOOD).removesuffix(b"\r\n") + b"X: a\r\n" * 10_000 + b"\r\n"
    async with await connect(strict.port) as wire:
        try:
            await wire.send(LANES[through](data))
            assert (await wire.answer()).status in (200, 400, 431)
        except ConnectionError:
            pass


# -- number ----------------------------------------------------------------------------


@pytest.mark.fault("N3")
@pytest.mark.parametrize("through", LANES)
async def test_ten_thousand_pipelined_requests(strict: Server, through: str) -> None:
    count = 10_000 if through == "hot" else 2_000
    known = {name: i for i, name in enumerate(("json", "ints", "strings"))}

    async def send_all(wire: Wire) -> None:
        for start in range(0, count, 500):
            names = [list(known)[i % 3] for i in range(start, start + 500)]
            data = b"".join(LANES[through](request("GET", f"/{name}")) for name in names)
            await wire.send(data)

    async with await connect(strict.port) as wire:
        sending = asyncio.ensure_future(send_all(wire))
        for i in range(count):
            answer = await wire.answer()
            assert answer.value["name"] == list(known)[i % 3]
        await sending


@pytest.mark.fault("N1")
async def test_connections_past_the_limit_are_told() -> None:
    async with serving({"connections": 10}) as server, connected(server.port, 10) as wires:
        for number, wire in enumerate(wires):
            await wire.send(LIVE if number % 2 else with_trailer(LIVE))
            assert (await wire.answer()).status == 200
        assert lane_of(server).handed_over == 5
        for data in (b"", LIVE, GOOD, predict("json", b"x" * 200_000)):
            async with await connect(server.port) as wire:
                if data:
                    await wire.send(data)
                answer = await wire.answer()
                assert answer.status == 503 and answer.closes
                assert "too many connections" in answer.value["cause"]
                assert await wire.rest() == b""
        wires[1].reset()
        await eventually(lambda: len(lane_of(server).connections) == 4)
        assert (await ask(server.port, LIVE)).status == 200
