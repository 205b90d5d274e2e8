"""How many connections there may be, and that descriptors are left beside them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest
from polling import eventually
from served import ServeProcess

from clipper.client import AsyncClipper
from clipper.config import Limits
from clipper.frontend.room import MOST_REFUSED, RESERVED, fitted, most_refused

from .raw import Wire, ask, connect, connected, lane_of, request, serving

LOOPS = ("uvloop", "asyncio")
LIVE = request("GET", "/health/live")
PING = request("GET", "/admin/ping")


def test_no_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: raised.append(pair))

    def found(soft: int, hard: int) -> Limits:
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
        return fitted(Limits())

    assert found(1024, 4096).connections == 4096 - RESERVED
    assert raised == [(4096, 4096)]
    few = found(256, 256)
    assert (few.connections, few.admin_connections) == (128, 32)
    kept = 256 - few.connections - few.admin_connections - most_refused(few.connections)
    assert kept >= 80
    for wide in (resource.RLIM_INFINITY, 1_000_000):
        assert found(wide, wide) == Limits()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (4096, 4096))
    assert fitted(Limits(connections=100)).connections == 100


@pytest.mark.fault("N12")
async def test_the_admin_port_has_room_of_its_own() -> None:
    limits = {"connections": 4, "admin_connections": 3}
    async with serving(limits) as server:
        admin = request("GET", "/admin/ping", None, f"Authorization: Bearer {server.token}")
        async with connected(server.port, 4) as wires:
            for wire in wires:
                await wire.send(LIVE)
                assert (await wire.answer()).status == 200
            assert (await ask(server.port, LIVE)).status == 503
            assert (await ask(server.admin_port, admin)).status == 200
            async with connected(server.admin_port, 3) as others:
                for wire in others:
                    await wire.send(admin)
                    assert (await wire.answer()).status == 200
                for data in (b"", admin, admin * 10_000):
                    async with await connect(server.admin_port) as wire:
                        with contextlib.suppress(ConnectionError):
                            await wire.send(data)
                        answer = await wire.answer()
                        assert answer.status == 503 and answer.closes
                        assert answer.headers["retry-after"] == "1"
                        assert await wire.rest() == b""
            await eventually(lambda: server._ports._admin_door.inside == 0)
            await eventually(lambda: server._ports._admin_door.refused == 0)
            assert (await ask(server.admin_port, admin)).status == 200


@pytest.mark.fault("N12")
@pytest.mark.parametrize("port", ["port", "admin_port"])
async def test_of_those_beyond_the_bound_few_are_told(port: str) -> None:
    """Who is told holds a descriptor until the answer is read."""
    limits = {"connections": 8, "admin_connections": 8}
    async with serving(limits) as server, contextlib.AsyncExitStack() as stack:
        wires: list[Wire] = []
        for _ in range(300):
            with contextlib.suppress(OSError):
                wire = await connect(getattr(server, port))
                wires.append(await stack.enter_async_context(wire))
        ports: Any = server._ports
        open_ = len(lane_of(server).connections), ports._admin_door.inside
        refused = ports._admin_door.refused
        assert max(open_) <= 8 + most_refused(8) + 1 and refused <= MOST_REFUSED
        told = 0
        for wire in wires[8:]:
            told += b"503" in await wire.rest()
        assert told >= 1


def sockets_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def is_served(client: AsyncClipper) -> bool:
    prediction = await client.predict("app", [20.5])
    return (prediction.output, prediction.default) == (41.0, False)


@pytest.mark.fault("N12")
async def test_descriptors_run_out(tmp_path: Path) -> None:
    """256 descriptors and 600 clients: the excess is refused, a worker that is killed comes
    back, the operator deploys, and when the crowd has gone all is as before."""
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("prlimit of util-linux is not installed")
    before = (prlimit, "--nofile=256:256")
    server = ServeProcess(tmp_path, uuid.uuid4().hex, before=before)
    server.start()
    crowd: list[socket.socket] = []
    try:
        async with await server.client() as client:
            double = "lambda rows: [2 * float(row[0]) for row in rows]"
            await client.deploy_predict_function("m", 1, eval(double), "doubles")
            await client.register_application("app", "m", "doubles", None, 5_000_000)
            assert await is_served(client)
            quiet = sockets_of(server.process.pid)
            for _ in range(600):
                one = socket.socket()
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(("127.0.0.1", client.port))
                crowd.append(one)
            await eventually(lambda: sockets_of(server.process.pid) > 128)
            # the connection that was there before goes on, and so does the admin port
            assert await is_served(client)
            told = await asyncio.to_thread(first_answers, client.port)
            assert b" 503 " in told or told == b""
            for _ in range(3):
                old = server.workers()
                os.kill(old[0], signal.SIGKILL)
                await eventually(lambda old=old: set(server.workers()) - set(old))
                await until_served(client)
            await client.deploy_predict_function("m", 2, eval(double), "doubles")
            assert await is_served(client)
            assert sockets_of(server.process.pid) <= 256
            for one in crowd:
                one.close()
            await eventually(lambda: sockets_of(server.process.pid) < quiet + 20)
            assert await is_served(client)
            assert server.process.poll() is None
    finally:
        for one in crowd:
            one.close()
        server.kill()


def first_answers(port: int) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as one:
        one.settimeout(10)
        return one.recv(1000)
    return b""


async def until_served(client: AsyncClipper) -> None:
    async def served() -> bool:
        with contextlib.suppress(Exception):
            return await is_served(client)
        return False

    await eventually(served)
