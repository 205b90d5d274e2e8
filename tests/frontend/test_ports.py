"""The listening sockets."""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest
from msgspec.structs import replace
from polling import eventually

from clipper import Server
from clipper.errors import ConfigError

from .raw import (
    ask,
    connect,
    is_quiet,
    lane_of,
    predict,
    request,
    serving,
    settings_with,
)

LOOPS = ("uvloop", "asyncio")


def listening() -> set[tuple[str, int]]:
    """Addresses that this process listens on, as the system tells it."""
    inodes = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            inodes.add(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    found = set()
    with open("/proc/self/net/tcp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, _, port = fields[1].partition(":")
                packed = bytes.fromhex(address)[::-1]
                found.add((str(ipaddress.IPv4Address(packed)), int(port, 16)))
    return found


async def test_listens_on_loopback_alone() -> None:
    before = listening()
    async with serving() as server:
        assert listening() - before == {
            ("127.0.0.1", server.port),
            ("127.0.0.1", server.admin_port),
        }
    assert listening() == before


async def test_both_ports_answer() -> None:
    async with serving() as server:
        assert (await ask(server.port, request("GET", "/health/ready"))).status == 200
        assert (await ask(server.admin_port, request("GET", "/admin/ping"))).status == 401


@pytest.mark.parametrize("which", ["port", "admin_port"])
async def test_a_port_that_is_taken(which: str) -> None:
    before = listening()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        settings = replace(settings_with(), **{which: taken})
        with pytest.raises(ConfigError, match=f"127.0.0.1:{taken} is taken"):
            await Server(listen=True, settings=settings).start()
    assert listening() == before


async def test_an_address_that_is_not_ours() -> None:
    settings = settings_with(host="192.0.2.1", allowed_hosts=["192.0.2.1"])
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        await Server(listen=True, settings=settings).start()


async def test_a_server_can_be_stopped_twice() -> None:
    async with serving() as server:
        await server.stop()


async def test_closing_ends_every_connection() -> None:
    async with serving({"connections": 50}) as server:
        wires = [await connect(server.port) for _ in range(20)]
        for number, wire in enumerate(wires):
            lane = "Trailer: x" if number % 2 else "X-Plain: x"
            await wire.send(predict("json", b'{"input": 1}', lane))
            assert (await wire.answer()).status == 200
    for wire in wires:
        assert await wire.rest() == b""
        async with wire:
            pass
    assert is_quiet(server)


async def test_readers_that_take_nothing_are_bounded_by_the_system() -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("the system has no such option")
    async with serving({"write_seconds": 7.5}) as server, await connect(server.port):
        await eventually(lambda: lane_of(server).connections)
        (express,) = lane_of(server).connections
        number = express.transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(number)) as accepted:
            option = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert option == 7500
