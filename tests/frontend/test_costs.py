"""What requests that are too much of something cost a server in a process of its own."""

from __future__ import annotations

import asyncio
import gzip
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from polling import eventually
from served import ServeProcess

from clipper.frontend.gate import MAX_HEADERS

from .raw import LANES, Wire, ask, chunked, connect, predict, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
BODY = 16 * MIB
MOST_RSS = 10 * MIB  # more than before
# Seconds of the processor: on a quiet machine it is 50 ms and less, which is what such a
# request may cost; CPU time too grows where others want the same caches.
MOST_CPU = 0.5

MEDIA = "Content-Type: application/json"
LIVE = request("GET", "/health/live")
GOOD = predict("app", b'{"input": [1]}')
CHUNKED = chunked(GOOD).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


class Cost:
    """A server, its memory and its processor time."""

    def __init__(self, process: ServeProcess, port: int) -> None:
        self.pid = process.process.pid
        self.port = port

    @property
    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def rss(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cost]:
    process = ServeProcess(tmp_path_factory.mktemp("costs"), uuid.uuid4().hex)
    process.start()
    try:
        async with await process.client() as client:
            await client.register_application("app", None, "doubles", "-1", 5_000_000)
            await client.deploy_predict_function("slow", 1, sleep, "doubles")
            await client.register_application("slow", "slow", "doubles", "-1", 5_000_000)
            cost = Cost(process, client.port)
            for data in (GOOD, chunked(GOOD), LIVE):
                assert (await ask(cost.port, data)).status == 200
            yield cost
    finally:
        process.kill()


def sleep(rows: Any) -> list[float]:
    import time

    time.sleep(0.5)
    return [float(row[0]) for row in rows]


async def pour(wire: Wire, data: bytes, most: int) -> None:
    """The same again and again, until the server has had enough."""
    with suppress(ConnectionError):
        for _ in range(most // len(data)):
            await wire.send(data)


def repeated(line: bytes, count: int) -> bytes:
    return LIVE[:-2] + line * count + b"\r\n"


# What is sent once, what then without end, and the answers that are right.
ATTACKS: dict[str, tuple[bytes, bytes, set[int]]] = {
    "a length that lies": (predict("app", b"[")[:-1], b"", set()),
    "a length past all bounds": (
        request("POST", "/app/predict", None, MEDIA, f"Content-Length: {2**62}"),
        b" " * MIB,
        {413},
    ),
    "chunks without end": (CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n", {413}),
    "one chunk without end": (CHUNKED + b"7fffffff\r\n", b" " * MIB, {413}),
    "a chunk extension without end": (CHUNKED + b"1;", b"a" * MIB, {400}),
    "trailers without end": (CHUNKED + b"0\r\n", b"X: a\r\n" * 10_000, {400, 431}),
    "a target without end": (b"GET /", b"a" * MIB, {431}),
    "a header without end": (LIVE[:-2] + b"X: ", b"a" * MIB, {431}),
    "headers without end": (LIVE[:-2], b"X: a\r\n" * 10_000, {431}),
    "10,000 headers": (repeated(b"X: a\r\n", 10_000), b"", {431}),
    "one header too many": (repeated(b"X: a\r\n", MAX_HEADERS), b"", {431}),
    "a gzip bomb": (
        predict("app", gzip.compress(bytes(50 * MIB)), "Content-Encoding: gzip"),
        b"",
        {415},
    ),
    "an unknown application": (
        request("POST", "/nobody/predict", None, MEDIA, f"Content-Length: {BODY}"),
        b" " * MIB,
        {404},
    ),
    "the wrong media type": (
        request("POST", "/app/predict", None, "Content-Type: text/plain",
                f"Content-Length: {BODY}"),
        b" " * MIB,
        {415},
    ),
    "bytes that are no HTTP": (b"\x16\x03\x01", b"\x00" * MIB, {400}),
}  # fmt: skip


@pytest.mark.fault("N3")
@pytest.mark.parametrize("name", ATTACKS)
async def test_what_is_oversized_costs_little(server: Cost, name: str) -> None:
    once, then, expected = ATTACKS[name]
    cpu, rss = server.cpu, server.rss
    async with await connect(server.port) as wire:
        with suppress(ConnectionError):
            await wire.send(once)
        pouring = asyncio.ensure_future(pour(wire, then, 64 * MIB) if then else nothing())
        if expected:
            # it may be closed while we still send, and the answer lost to that
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                answer = await wire.answer()
                assert answer.status in expected and answer.closes
            await wire.rest()
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)
        peak = server.rss
    assert (await ask(server.port, GOOD)).status == 200
    assert server.cpu - cpu < MOST_CPU
    assert max(peak, server.rss) - rss < MOST_RSS


async def nothing() -> None: ...


async def is_busy(port: int) -> bool:
    """Whether a batch is with the model that sleeps."""
    metrics = (await ask(port, request("GET", "/metrics"))).body.decode()
    return 'clipper_model_in_flight_batches{model="slow",version="1"} 1' in metrics


@pytest.mark.fault("N3")
@pytest.mark.parametrize("data", [LIVE, GOOD], ids=["GET", "POST"])
async def test_pipelined_requests_are_not_gathered(server: Cost, data: bytes) -> None:
    """Ten thousand at once, of which the answers are not read: the server stops reading.
    They cost what as many requests cost, and no memory."""
    before, cpu = server.rss, server.cpu
    async with await connect(server.port) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.ensure_future(pour(wire, data * 100, 100 * 100 * len(data)))
        await asyncio.wait([sending], timeout=2.0)
        assert server.rss - before < MOST_RSS
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(10_000):
            assert (await wire.answer()).status == 200
        await sending
    assert server.rss - before < MOST_RSS
    assert server.cpu - cpu < 20 * MOST_CPU


@pytest.mark.fault("N3")
@pytest.mark.parametrize("through", LANES)
async def test_what_is_behind_a_request_and_no_request_is_not_kept(
    server: Cost, through: str
) -> None:
    """While the first is with its model. Each piece would be an error, with its bytes."""
    first = LANES[through](predict("slow", b'{"input": [7], "cache": false}'))
    before = peak = server.rss
    async with await connect(server.port) as wire:
        await wire.send(first)
        await eventually(lambda: is_busy(server.port))
        pouring = asyncio.ensure_future(pour(wire, bytes(MIB), 64 * MIB))
        answering = asyncio.ensure_future(wire.answer())
        while not answering.done():
            peak = max(peak, server.rss)
            await asyncio.sleep(0.01)
        with suppress(ConnectionError):  # a reset may have overtaken it
            answer = await answering
            assert (answer.status, answer.value.get("output")) == (200, 7.0), answer
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)
        await wire.rest()
    assert max(peak, server.rss) - before < MOST_RSS


@pytest.mark.fault("N3")
@pytest.mark.parametrize("send", [lambda data: data, lambda data: chunked(data, 1)])
async def test_bodies_byte_by_byte(server: Cost, send: Callable[[bytes], bytes]) -> None:
    """A hundred thousand pieces, as fast as they can be sent."""
    data = send(predict("app", b'{"input": [%b1]}' % (b" " * 100_000)))
    cpu, rss = server.cpu, server.rss
    assert (await ask(server.port, data)).status == 200
    await eventually(lambda: server.rss - rss < MOST_RSS)
    assert server.cpu - cpu < 4 * MOST_CPU
