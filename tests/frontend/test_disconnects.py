"""Clients that go away, at any moment and in any way, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from polling import eventually

from clipper import Server

from .raw import (
    LANES,
    Wire,
    add_echo,
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

LOOPS = ("uvloop", "asyncio")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gated]:
    """A server with the echo, and with a model that waits while a file is there."""
    gate = tmp_path_factory.mktemp("gate") / "closed"
    async with serving() as server:
        await add_echo(server)

        def wait(rows: Any, path: str = str(gate)) -> list[Any]:
            import os
            import time

            while os.path.exists(path):
                time.sleep(0.002)
            return list(rows)

        await server.deploy("gated", 1, wait, "json", batching="none")
        await server.register_application(
            "gated", models=["gated"], input_type="json", slo_micros=60_000_000
        )
        yield Gated(server, gate)


class Gated:
    def __init__(self, server: Server, gate: Path) -> None:
        self.server = server
        self.port = server.port
        self.gate = gate
        (self.model,) = (m for m in server.engine.models.values() if m.id.name == "gated")

    @property
    def rows(self) -> int:
        """Rows that the gated model has evaluated."""
        return self.model.dispatcher.stats.rows

    def close(self) -> None:
        self.gate.touch()

    def open(self) -> None:
        self.gate.unlink(missing_ok=True)

    @property
    def waiting(self) -> int:
        """Rows that are queued for the gated model or with it."""
        dispatcher = self.model.dispatcher
        return dispatcher.intake.queue.rows + sum(
            batch.rows for batch in dispatcher.in_flight
        )


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_is_well(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    before = footprint()
    yield
    gated.open()
    await eventually(lambda: is_quiet(gated.server))
    assert (await ask(gated.port, predict("echo", b'{"input": 7}'))).value["output"] == 7
    await eventually(lambda: is_quiet(gated.server))
    await eventually(lambda: footprint() == before)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def footprint() -> tuple[int, int]:
    """Open sockets, and tasks."""
    sockets = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            sockets += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
        except OSError:
            continue
    return sockets, len(asyncio.all_tasks())


def number(i: int) -> bytes:
    return b'{"input": %d, "cache": false}' % i


@pytest.mark.fault("N11")
@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_queued_work_of_a_client_that_is_gone_is_dropped(
    gated: Gated, send: Callable[[bytes], bytes]
) -> None:
    gated.close()
    before = gated.rows
    async with connected(gated.port, 20) as wires:
        for i, wire in enumerate(wires):
            await wire.send(send(predict("gated", number(i))))
        await eventually(lambda: gated.waiting == 20)
        for wire in wires[:18]:
            wire.reset()
        await eventually(lambda: len(wires) - 18 == _connections(gated))
        gated.open()
        for i in (18, 19):
            assert (await wires[i].answer()).value["output"] == i
    # the two that stayed, and what was with the model already
    assert gated.rows - before <= 2 + 2


def _connections(gated: Gated) -> int:
    lane = lane_of(gated.server)
    return len(lane.connections) + lane.handed_over


@pytest.mark.fault("N11")
async def test_shared_work_goes_on_for_those_who_stay(gated: Gated) -> None:
    gated.close()
    same = predict("gated", b'{"input": "shared by two"}')
    async with await connect(gated.port) as stays:
        async with await connect(gated.port) as goes:
            await goes.send(same)
            await eventually(lambda: gated.waiting == 1)
            await stays.send(same)
            await eventually(lambda: _connections(gated) == 2)
            goes.reset()
        await eventually(lambda: _connections(gated) == 1)
        gated.open()
        assert (await stays.answer()).value["output"] == "shared by two"


@pytest.mark.fault("N11")
@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
async def test_half_close_is_not_disconnect(
    gated: Gated, send: Callable[[bytes], bytes]
) -> None:
    gated.close()
    async with await connect(gated.port) as wire:
        body = b'{"input": "half", "cache": false}'
        await wire.send(send(predict("gated", body)))
        wire.writer.write_eof()
        await eventually(lambda: gated.waiting == 1)
        gated.open()
        assert (await wire.answer()).value["output"] == "half"
        assert await wire.rest() == b""


async def test_pipelined_predictions_with_a_half_close(gated: Gated) -> None:
    async with await connect(gated.port) as wire:
        await wire.send(b"".join(predict("echo", number(i)) for i in range(200)))
        wire.writer.write_eof()
        outputs = [(await wire.answer()).value["output"] for _ in range(200)]
        assert outputs == list(range(200))
        assert await wire.rest() == b""


@pytest.mark.fault("N11")
@pytest.mark.parametrize("send", LANES.values(), ids=LANES)
@pytest.mark.parametrize("how", range(3), ids=["reset", "close", "half-close"])
async def test_leaving_in_the_middle_of_an_answer(
    gated: Gated, send: Callable[[bytes], bytes], how: int
) -> None:
    large = send(predict("echo", b'{"input": "%b"}' % (b"x" * 3_000_000)))
    async with connected(gated.port, 5) as wires:
        for wire in wires:
            await wire.send(large + large)
        for wire in wires:
            assert (await wire.reader.read(1000)).startswith(b"HTTP/1.1 200")
            await leave(wire, how)
        await eventually(lambda: is_quiet(gated.server))


@pytest.mark.fault("N11")
@pytest.mark.parametrize("send", [*LANES.values(), chunked], ids=[*LANES, "chunked"])
@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("how", range(3), ids=["reset", "close", "half-close"])
async def test_leaving_before_the_request_is_whole(
    gated: Gated, send: Callable[[bytes], bytes], part: str, how: int
) -> None:
    """Nothing is asked of the model, and a half-close is no promise of more."""
    before = gated.rows
    data = send(predict("gated", number(1)))
    end = data.index(b"\r\n\r\n") + 4
    cut = end if part == "head" else end + 9
    async with connected(gated.port, 5) as wires:
        for wire in wires:
            await wire.send(data[:cut])
        await eventually(lambda: _connections(gated) == 5)
        for wire in wires:
            await leave(wire, how)
        await eventually(lambda: is_quiet(gated.server))
    assert gated.rows == before


async def leave(wire: Wire, how: int) -> None:
    if how == 0:
        wire.reset()
    elif how == 1:
        wire.writer.close()
    else:
        try:
            wire.writer.write_eof()
            await wire.rest()
        except OSError:
            pass


async def one_client(port: int, rng: random.Random, i: int) -> int:
    """Send some of some requests, read some of the answers, go. Wrong answers."""
    big = b'{"input": "%b"}' % (b"x" * rng.choice((10, 2000, 100_000)))
    requests = [
        rng.choice((lambda d: d, with_trailer, chunked))(
            predict(
                *rng.choice((("echo", number(i)), ("strings", big), ("gated", number(i))))
            )
        )
        for _ in range(rng.randint(1, 3))
    ]
    data = b"".join(requests)
    cut = rng.choice((0, rng.randint(0, len(data)), len(data), len(data)))
    wire = await connect(port)
    wrong = 0
    try:
        async with wire:
            await wire.send(data[:cut])
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.02)
            if rng.random() < 0.3 and cut == len(data):
                output = (await wire.answer()).value.get("output")
                wrong = output not in (i, -1)
            await leave(wire, rng.randint(0, 2))
    except (OSError, asyncio.IncompleteReadError):
        pass
    return wrong


@pytest.mark.fault("N11")
async def test_two_thousand_clients_that_leave_at_random(gated: Gated) -> None:
    rng = random.Random(20_17)
    room = asyncio.Semaphore(100)

    async def bounded(i: int) -> int:
        async with room:
            return await one_client(gated.port, rng, i)

    async def stay() -> None:
        async with await connect(gated.port) as wire:
            for i in range(300):
                await wire.send(predict("echo", number(i)))
                assert (await wire.answer()).value["output"] == i

    staying = asyncio.ensure_future(stay())
    wrong = await asyncio.gather(*(bounded(i) for i in range(2000)))
    assert sum(wrong) == 0
    await staying
    gc.collect()


@pytest.mark.fault("N11")
async def test_health_is_answered_while_many_leave(gated: Gated) -> None:
    async with connected(gated.port, 100) as wires:
        for wire in wires:
            await wire.send(predict("strings", b'{"input": "%b"}' % (b"x" * 5000))[:-9])
        for wire in wires:
            wire.reset()
        answer = await ask(gated.port, request("GET", "/health/live"))
        assert answer.status == 200
