"""Bodies of requests in the aiohttp lane: asked for late, read in bounded time and size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from clipper.errors import BodyTimeout, MalformedRequest, PayloadTooLarge


async def ignore_expectation(request: web.Request) -> None:
    """For routes that use read_body: it asks for the body when the request turned out
    to be welcome, instead of aiohttp for every request."""


async def _ask_for_body(request: web.Request) -> None:
    expected = request.headers.get("Expect", "").lower() == "100-continue"
    if expected and request.version == HttpVersion11 and not request.content.total_bytes:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # this was no part of the answer


async def read_body(
    request: web.Request,
    limit: int,
    seconds: float,
    count: Callable[[int], None] = lambda size: None,
) -> bytes:
    """The whole body, bounded in size and time. `count` is told the bytes as they come
    and may raise."""
    # Grown in one block, which is mapped by itself when it is large and given back whole:
    # thousands of pieces would leave holes in the heap.
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            await _ask_for_body(request)
            while True:
                part = await request.content.readany()
                if not part:
                    return bytes(body)
                if len(body) + len(part) > limit:
                    raise PayloadTooLarge(f"the body may have at most {limit} bytes")
                count(len(part))
                body += part
    except TimeoutError:
        raise BodyTimeout("the body took too long") from None
    except RuntimeError:
        if request.transport is not None:
            raise
        # aiohttp's way to say that there is nobody left to read from
        raise ConnectionResetError("the client went away") from None
    except (web.RequestPayloadError, HttpProcessingError, ValueError) as error:
        raise MalformedRequest("the body is not valid HTTP/1.1") from error
