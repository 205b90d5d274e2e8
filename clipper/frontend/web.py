"""The aiohttp lane: every request that the hot lane leaves alone, and the admin port.

The gate is the outermost middleware, and whatever goes wrong, in a handler, in routing
or in the parser, becomes the same JSON error as in the hot lane.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import http_parser, web
from aiohttp.web_protocol import RequestHandler

from clipper.config import Limits
from clipper.errors import (
    BodyTimeout,
    ClipperError,
    HeadersTooLarge,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from clipper.frontend.answers import error_answer
from clipper.frontend.gate import Gate, Head, error_headers, make_head

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEAD: web.RequestKey[Head] = web.RequestKey("head", Head)

# A wrong token is answered this much later, so that guessing is slow.
UNAUTHORIZED_DELAY = 0.2

if not http_parser.HttpRequestParser.__module__.endswith(
    "_http_parser"
):  # pragma: no cover
    raise ImportError(
        "aiohttp's C parser is missing; the pure-Python one is laxer about malformed "
        "requests. Reinstall aiohttp from a wheel and unset AIOHTTP_NO_EXTENSIONS."
    )


class WebLane:
    """An aiohttp application that can be given single connections."""

    def __init__(
        self,
        application: web.Application,
        limits: Limits,
        *,
        on_connection: Callable[[int], None] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "keepalive_timeout": limits.idle_seconds,
            "lingering_time": 1.0,
            "access_log": None,
            "auto_decompress": False,
            "max_line_size": min(8190, limits.head),
            "max_field_size": min(8190, limits.head),
            "max_headers": 64,
        }
        self._runner = web.AppRunner(application, handle_signals=False, **self._options)
        self._on_connection = on_connection

    async def start(self) -> None:
        await self._runner.setup()

    def handler(self) -> LaneHandler:
        """The protocol of one connection."""
        server = self._runner.server
        assert server is not None
        return LaneHandler(
            server,
            on_connection=self._on_connection,
            loop=asyncio.get_running_loop(),
            **self._options,
        )

    async def stop(self, seconds: float) -> None:
        """Finish the requests under way, within the bound, and close all connections."""
        server = self._runner.server
        if server is not None:
            server.pre_shutdown()
            await server.shutdown(seconds)
        await self._runner.cleanup()


class Abandonable(Protocol):
    """Work that a client waits for."""

    def abandon(self) -> None: ...


class LaneHandler(RequestHandler):
    """aiohttp's connection, with our errors, and a query that ends with its client."""

    __slots__ = ("_on_connection", "waiting")

    def __init__(
        self, *args: Any, on_connection: Callable[[int], None] | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._on_connection = on_connection
        self.waiting: Abandonable | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._on_connection is not None:
            self._on_connection(1)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._on_connection is not None:
            self._on_connection(-1)
        if self.waiting is not None:
            self.waiting.abandon()
            self.waiting = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer where no handler could give one; the connection closes."""
        if status == 400:
            text = str(exc)
            too_large = "too large" in text.lower() or "more than" in text.lower()
            error: ClipperError = (
                HeadersTooLarge("the request line or the headers are too large")
                if too_large or "LineTooLong" in type(exc).__name__
                else MalformedRequest("the request is not valid HTTP/1.1")
            )
        else:
            logger.error("a request failed", exc_info=exc)
            error = ClipperError("the server failed on this request")
        response = error_response(error)
        response.force_close()
        return response


def error_response(error: ClipperError) -> web.Response:
    return json_response(error.status, error_answer(error), error_headers(error))


def json_response(
    status: int, body: bytes, headers: dict[str, str] | None = None
) -> web.Response:
    """A response as the hot lane would write it."""
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={**(headers or {}), **SAFE_HEADERS},
    )


SAFE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def middleware(gate: Gate) -> Any:
    """The gate and the translation of errors, around every handler."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[HEAD] = head = _head_of(request)
            gate.admit(head)
            return await handler(request)
        except ClipperError as error:
            if error.status == 401:
                await asyncio.sleep(UNAUTHORIZED_DELAY)
            response = error_response(error)
            if not request.content.at_eof():
                response.force_close()
            return response
        except web.HTTPNotFound:
            return error_response(NotFound("there is no such route"))
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            response = error_response(MethodNotAllowed(f"this route takes {allowed}"))
            response.headers["Allow"] = allowed
            return response
        except web.HTTPRequestEntityTooLarge:
            return error_response(PayloadTooLarge("the body is too large"))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            logger.exception("a request to %s failed", request.path)
            return error_response(ClipperError("the server failed on this request"))

    return guarded


def _head_of(request: web.Request) -> Head:
    version = (request.version.major, request.version.minor)
    return make_head(request.method, request.raw_path, version, request.raw_headers)


async def read_body(request: web.Request, limit: int, seconds: float) -> bytes:
    """The whole body, bounded in size and time."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                part = await request.content.readany()
                if not part:
                    return b"".join(parts)
                size += len(part)
                if size > limit:
                    raise PayloadTooLarge(f"the body may have at most {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise BodyTimeout("the body took too long") from None
    except (web.RequestPayloadError, ValueError) as error:
        raise MalformedRequest("the body is not valid HTTP/1.1") from error
