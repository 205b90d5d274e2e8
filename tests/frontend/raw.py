"""A client that sends bytes as they are given, and a server in front of it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
from msgspec.structs import replace

from clipper import Server
from clipper.config import Limits, Settings
from clipper.frontend.lane import Lane

JSON = "application/json"
PATIENCE = 30.0  # seconds until a test gives up on the other end


class Answer(NamedTuple):
    """One HTTP answer; header names are in lower case."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close" or self.version != "1.1"


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Go away without a farewell: the other end sees a reset."""
        sock = self.writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer. `head_only` for answers to HEAD, which have no body."""
        async with asyncio.timeout(PATIENCE):
            while True:
                head = await self.reader.readuntil(b"\r\n\r\n")
                answer = parse_head(head)
                if answer.status != 100:
                    break
            if head_only:
                return answer
            if answer.headers.get("transfer-encoding") == "chunked":
                return answer._replace(body=await self._chunks())
            size = int(answer.headers["content-length"])
            return answer._replace(body=await self.reader.readexactly(size))

    async def _chunks(self) -> bytes:
        """A body of which nobody said the length."""
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:size]
        await self.reader.readuntil(b"\r\n")
        return body

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""


def parse_head(head: bytes) -> Answer:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = re.fullmatch(r"HTTP/([0-9.]+) ([0-9]{3}) .+", first)
    assert match is not None, first
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        assert name.lower() not in headers, f"{name} came twice"
        headers[name.lower()] = value
    return Answer(match[1], int(match[2]), headers, b"")


async def connect(port: int) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Wire]]:
    """Several connections, all closed in the end."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await connect(port)) for _ in range(count)]


async def ask(port: int, data: bytes, *, head_only: bool = False) -> Answer:
    """Send bytes on a connection of their own; the first answer."""
    async with await connect(port) as wire:
        await wire.send(data)
        return await wire.answer(head_only=head_only)


def request(
    method: str,
    target: str,
    body: bytes | None = None,
    *lines: str,
    media: str | None = JSON,
    host: str | None = "localhost",
    version: str = "1.1",
) -> bytes:
    """A request; `lines` are further header lines."""
    head = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        head.append(f"Host: {host}")
    if body is not None:
        if media is not None:
            head.append(f"Content-Type: {media}")
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + (body or b"")


def predict(app: str, body: bytes, *lines: str, **options: Any) -> bytes:
    return request("POST", f"/{app}/predict", body, *lines, **options)


def update(app: str, body: bytes, *lines: str, **options: Any) -> bytes:
    return request("POST", f"/{app}/update", body, *lines, **options)


def chunked(data: bytes, size: int = 7) -> bytes:
    """The same request with its body in chunks."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"])
    return head + b"\r\n\r\n" + pieces + b"0\r\n\r\n"


def with_trailer(data: bytes) -> bytes:
    """The same request with a header that the hot lane leaves to the other."""
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\nTrailer: none\r\n\r\n" + body


def expecting(data: bytes) -> bytes:
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\nExpect: 100-continue\r\n\r\n" + body


def as_http10(data: bytes) -> bytes:
    return data.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)


# How one request goes through either lane.
LANES: dict[str, Callable[[bytes], bytes]] = {
    "hot": lambda data: data,
    "web": with_trailer,
}


def lane_of(server: Server) -> Lane:
    assert server._ports is not None
    return server._ports.lane


def is_quiet(server: Server) -> bool:
    """Whether nothing is left of any connection or request."""
    lane = lane_of(server)
    return not (lane.connections or lane.handed_over or lane.bytes_in_flight) and not any(
        model.intake.queue.rows or model.dispatcher.in_flight
        for model in server.engine.models.values()
    )


def settings_with(limits: dict[str, Any] | None = None, **values: Any) -> Settings:
    return Settings(
        port=0,
        admin_port=0,
        ephemeral=True,
        limits=replace(Limits(), **(limits or {})),
        **values,
    )


# Applications without a model: they answer at once, with the default output.
KINDS = ("ints", "floats", "doubles", "strings", "bytes", "json")


@asynccontextmanager
async def serving(
    limits: dict[str, Any] | None = None, **values: Any
) -> AsyncIterator[Server]:
    """A server without models: one application for each input type, named after it,
    and `bare`, which has no default output."""
    async with Server(listen=True, settings=settings_with(limits, **values)) as server:
        for kind in KINDS:
            await server.register_application(kind, input_type=kind, default_output="-1")
        await server.register_application("bare", input_type="json")
        yield server


def echo(rows: Any) -> list[Any]:
    return [row.tolist() if hasattr(row, "tolist") else row for row in rows]


async def add_echo(server: Server, slo_seconds: float = 5.0) -> None:
    """Models that return their inputs: `echo` of any JSON and `numbers` of doubles,
    without default outputs, so that a wrong answer cannot pass for a late one."""
    for name, kind in (("echo", "json"), ("numbers", "doubles")):
        await server.deploy(name, 1, echo, kind)
        await server.register_application(
            name, models=[name], input_type=kind, slo_micros=int(slo_seconds * 1e6)
        )
