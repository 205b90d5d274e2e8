"""Messages and descriptors between two servers."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from clipper.handover import link as module
from clipper.handover.link import (
    Failed,
    HandoverFailed,
    Hello,
    Link,
    Passed,
    Prepared,
    close_all,
)


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[Link, Link]]:
    left, right = map(Link, socket.socketpair())
    yield left, right
    left.close()
    right.close()


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


async def test_messages_come_in_order_and_whole(ends: tuple[Link, Link]) -> None:
    left, right = ends
    sent = [
        Passed(False, bytes([n]) * size) for n, size in enumerate((0, 5_000_000, 1, 70_000))
    ]
    for message in sent:
        left.send(message)
    left.send(Prepared())
    received = [(await right.receive(10)).message for _ in range(5)]
    assert received == [*sent, Prepared()]
    await left.flush()


async def test_descriptors_come_with_their_message(ends: tuple[Link, Link]) -> None:
    left, right = ends
    pipes = [os.pipe() for _ in range(200)]
    for n, (_, write) in enumerate(pipes):
        left.send(Passed(False, bytes(n * 1000)), (write,))
        left.send(Prepared())
    try:
        for n, (read, write) in enumerate(pipes):
            message, [number] = await right.receive(10)
            assert message == Passed(False, bytes(n * 1000))
            assert number != write and not os.get_inheritable(number)
            os.write(number, b"%d" % n)
            assert os.read(read, 10) == b"%d" % n
            os.close(number)
            assert (await right.receive(10)).message == Prepared()
        assert all(is_open(write) for _, write in pipes)  # ours stay ours
    finally:
        close_all([number for pair in pipes for number in pair])


async def test_the_end_of_the_other_is_told(ends: tuple[Link, Link]) -> None:
    left, right = ends
    left.send(Hello("1"))
    await left.flush()
    left.close()
    assert (await right.receive(10)).message == Hello("1")  # what was said before
    with pytest.raises(HandoverFailed, match="has ended"):
        await right.receive(10)
    await asyncio.wait_for(right.over.wait(), 10)
    right.send(Prepared())  # to nobody
    await right.flush()


async def test_what_came_and_nobody_took_is_closed(ends: tuple[Link, Link]) -> None:
    left, right = ends
    read, write = os.pipe()
    left.send(Passed(False, b""), (write,))
    await left.flush()
    os.close(write)
    async with asyncio.timeout(10):
        await right._news.wait()
    right.close()
    assert os.read(read, 1) == b""  # nobody holds the other end
    os.close(read)


async def test_silence_and_failure_are_errors(ends: tuple[Link, Link]) -> None:
    left, right = ends
    with pytest.raises(HandoverFailed, match="it said nothing"):
        await right.receive(0.01)
    left.send(Failed("no room"))
    with pytest.raises(HandoverFailed, match="no room"):
        await right.receive(10)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"\xff" * 5, "another language"),
        (struct.pack("<IB", 1, 1) + b"\xc0", "another language"),
        (struct.pack("<IB", 1, 0) + b"\xc1", "does not understand"),
        (struct.pack("<IB", 1, 0) + b"\x80", "does not understand"),
    ],
    ids=["too-large", "no-descriptor", "no-msgpack", "no-message"],
)
async def test_nonsense_ends_it(frame: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    with theirs:
        theirs.sendall(frame)
        with pytest.raises(HandoverFailed, match=why):
            await link.receive(10)
    link.close()


async def test_what_a_later_version_adds_is_ignored() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    body = msgspec.msgpack.encode({"kind": "hello", "version": "9", "news": [1]})
    with theirs:
        theirs.sendall(module._HEAD.pack(len(body), 0) + body)
        assert (await link.receive(10)).message == Hello("9")
    link.close()
