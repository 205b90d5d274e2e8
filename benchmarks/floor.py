"""The bare floor: what answering HTTP costs in Python when nothing is predicted.

An asyncio.Protocol on uvloop, the httptools parser, a JSON decode of the body and one
constant answer. No routing, no checks, no errors: every other server pays more.
"""

from __future__ import annotations

import argparse
import asyncio

import httptools
import msgspec
import uvloop

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n"
    b'{"output":0.0}'
)

decode = msgspec.json.Decoder().decode


class Floor(asyncio.Protocol):
    """One connection. The callbacks below are httptools'."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        body = self.body
        decode(body[0] if len(body) == 1 else b"".join(body))
        body.clear()
        self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Floor, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, required=True)
    uvloop.run(serve(options.parse_args().port))
