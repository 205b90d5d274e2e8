"""Connections that one server passes to another, whatever they are in the middle of."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from polling import eventually, turns

from clipper import Server

from .raw import (
    Wire,
    chunked,
    connect,
    is_quiet,
    lane_of,
    predict,
    request,
    settings_with,
)

LOOPS = ("uvloop", "asyncio")

BODY = b'{"input": [1]}'
ASK = predict("ints", BODY)
CHUNKED = chunked(ASK, 3)


def slow(rows: Any) -> list[Any]:
    time.sleep(0.3)
    return list(rows)


class Two:
    """A server that lets go and one that takes; the default output tells which answered."""

    def __init__(self, old: Server, new: Server) -> None:
        self.old, self.new = old, new
        self.passed: list[tuple[bool, bytes]] = []
        self.wires: list[Wire] = []

    async def connect(self, port: int = 0) -> Wire:
        """A connection to the old server that is closed at the end."""
        self.wires.append(await connect(port or self.old.port))
        return self.wires[-1]

    async def pass_on(self, seconds: float = 10.0) -> bool:
        def admit(admin: bool, descriptor: int, data: bytes) -> None:
            self.passed.append((admin, data))
            self.new.admit(admin, descriptor, data)

        return await self.old.pass_on(admit, seconds)


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Two]:
    async with (
        Server(listen=True, settings=settings_with()) as old,
        Server(listen=True, settings=settings_with()) as new,
    ):
        for server, default in ((old, "-1"), (new, "-2")):
            await server.register_application(
                "ints", input_type="ints", default_output=default
            )
        two = Two(old, new)
        yield two
        for wire in two.wires:
            wire.writer.transport.abort()  # type: ignore[attr-defined]
        await eventually(lambda: is_quiet(old))


async def answered_by(wire: Wire, data: bytes = b"") -> int:
    """Which default came."""
    if data:
        wire.writer.write(data)
    answer = await wire.answer()
    assert answer.status == 200, answer
    output: int = json.loads(answer.body)["output"]
    return output


@pytest.mark.fault("S3")
@pytest.mark.parametrize(
    "cut", [0, 1, 30, ASK.index(b"\r\n\r\n") + 2, len(ASK) - 14, len(ASK) - 1]
)
async def test_an_unfinished_request_is_finished_there(two: Two, cut: int) -> None:
    """Also the next one of a connection that has had answers."""
    wires = [await two.connect() for _ in range(3)]
    for before, wire in enumerate(wires):
        for _ in range(before):
            assert await answered_by(wire, ASK) == -1
        wire.writer.write(ASK[:cut])
    await eventually(lambda: len(lane_of(two.old).connections) == len(wires))
    await turns()  # their bytes are read by now, or are still in the socket
    assert await two.pass_on()
    for wire in wires:
        assert await answered_by(wire, ASK[cut:]) == -2
        assert await answered_by(wire, ASK) == -2


@pytest.mark.fault("S3")
async def test_what_waits_behind_an_answer_goes_along(two: Two) -> None:
    await two.old.deploy("slow", 1, slow, "json")
    await two.old.register_application(
        "slow", models=["slow"], input_type="json", slo_micros=10**7
    )
    wire = await two.connect()
    wire.writer.write(predict("slow", b'{"input": "here"}') + ASK + ASK[:20])
    await eventually(lambda: any(c._query for c in lane_of(two.old).connections))
    assert await two.pass_on()
    assert json.loads((await wire.answer()).body)["output"] == "here"
    assert two.passed == [(False, ASK + ASK[:20])]
    assert await answered_by(wire) == -2
    assert await answered_by(wire, ASK[20:]) == -2


@pytest.mark.fault("S3")
@pytest.mark.parametrize("cut", [0, 1, 40, CHUNKED.index(b"\r\n\r\n") + 2])
async def test_connections_of_the_other_lane_go_as_well(two: Two, cut: int) -> None:
    wire = await two.connect()
    for _ in range(3):
        assert await answered_by(wire, CHUNKED) == -1
    assert lane_of(two.old).handed_over == 1
    wire.writer.write(CHUNKED[:cut])
    await turns()
    assert await two.pass_on()
    assert two.passed == [(False, CHUNKED[:cut])]
    assert await answered_by(wire, CHUNKED[cut:]) == -2
    assert await answered_by(wire, ASK) == -2


@pytest.mark.fault("S3")
async def test_a_body_under_way_in_the_other_lane_is_awaited(two: Two) -> None:
    wire = await two.connect()
    cut = len(CHUNKED) - 8
    wire.writer.write(CHUNKED[:cut])
    await eventually(lambda: lane_of(two.old).handed_over == 1)
    passing = asyncio.create_task(two.pass_on())
    await turns()
    assert not two.passed
    assert await answered_by(wire, CHUNKED[cut:]) == -1
    assert await passing
    assert two.passed == [(False, b"")]
    assert await answered_by(wire, ASK) == -2


@pytest.mark.fault("S3")
async def test_what_the_parser_holds_is_not_passed(two: Two) -> None:
    """Bytes of a second request that came with the end of the first cannot be had back:
    the connection stays for the answer, which says that it closes."""
    wire = await two.connect()
    wire.writer.write(CHUNKED + CHUNKED[:30])
    assert await answered_by(wire) == -1
    passing = asyncio.create_task(two.pass_on(10.0))
    await turns()
    assert not two.passed
    wire.writer.write(CHUNKED[30:])
    answer = await wire.answer()
    assert json.loads(answer.body)["output"] == -1
    assert answer.headers["connection"] == "close"
    assert await passing


@pytest.mark.fault("S3")
async def test_connections_of_the_admin_port_go_as_well(two: Two) -> None:
    def ask(server: Server) -> bytes:
        token = f"Authorization: Bearer {server.token}"
        return request("GET", "/admin/status", b"", token)

    wire = await two.connect(two.old.admin_port)
    wire.writer.write(ask(two.old))
    assert (await wire.answer()).status == 200
    assert await two.pass_on()
    assert two.passed == [(True, b"")]
    wire.writer.write(ask(two.new))
    assert (await wire.answer()).status == 200


@pytest.mark.fault("S3")
async def test_many_idle_ones(two: Two) -> None:
    wires = [await two.connect() for _ in range(200)]
    for wire in wires[::2]:
        assert await answered_by(wire, ASK) == -1
    assert await two.pass_on()
    assert len(two.passed) == len(wires)
    for wire in wires:
        assert await answered_by(wire, ASK) == -2


async def test_one_whose_client_has_gone(two: Two) -> None:
    wire = await two.connect()
    await eventually(lambda: lane_of(two.old).connections)
    wire.writer.close()
    assert await two.pass_on()
    await eventually(lambda: is_quiet(two.new))


async def test_one_that_keeps_its_server_waiting(two: Two) -> None:
    """An answer that nobody reads is not another server's to send."""
    wire = await two.connect()
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire.writer.write(predict("ints", BODY) * 100_000)
    await eventually(lambda: any(not c._writable for c in lane_of(two.old).connections))
    assert not await two.pass_on(0.1)
    assert not two.passed


async def test_no_descriptors_are_left(two: Two) -> None:
    before = len(os.listdir("/proc/self/fd"))
    wires = [await two.connect() for _ in range(20)]
    for wire in wires:
        assert await answered_by(wire, ASK) == -1
    assert await two.pass_on()
    for wire in wires:
        assert await answered_by(wire, ASK) == -2
        wire.writer.close()
    await eventually(lambda: is_quiet(two.new))
    # the listening sockets of the old server are closed
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
