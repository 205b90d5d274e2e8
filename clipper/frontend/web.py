"""The aiohttp lane: every request that the hot lane leaves alone, and the admin port.

The gate is the outermost middleware, and whatever goes wrong, in a handler, in routing
or in the parser, becomes the same JSON error as in the hot lane.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import StreamReader, http_parser, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from clipper.config import Limits
from clipper.errors import (
    ClipperError,
    HeadersTooLarge,
    MalformedRequest,
)
from clipper.frontend.answers import error_answer
from clipper.frontend.express import duplicate
from clipper.frontend.gate import (
    HEAD_TOO_LARGE,
    MAX_HEADERS,
    MAX_LINE,
    Gate,
    Head,
    make_head,
)
from clipper.frontend.responses import (
    SAFE_HEADERS,
    Unnamed,
    refusal,
    translated,
)

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEAD: web.RequestKey[Head] = web.RequestKey("head", Head)
HEAD_LIMIT: web.AppKey[int] = web.AppKey("head_limit", int)  # bytes of a request's head

# What may come with a body that is not a part of it: heads and trailers, and for each of
# its bytes what is around a chunk of one byte, and some more.
MOST_FRAMING = 64 * 1024
FRAMING_OF_A_BYTE = 10

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
            "max_line_size": min(MAX_LINE, limits.head),
            "max_field_size": min(MAX_LINE, limits.head),
            "max_headers": MAX_HEADERS,
        }
        application.on_response_prepare.append(self._finish_headers)
        application[HEAD_LIMIT] = limits.head
        self._runner = web.AppRunner(application, handle_signals=False, **self._options)
        self._on_connection = on_connection
        # All mutable state beside aiohttp's own: whether the server drains, and whether
        # its connections go to another.
        self._stopping = self._leaving = False

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

    def pass_on(self, admit: Callable[[int, bytes], None]) -> int:
        """Give connections to which nothing is owed to another server; how many are
        left."""
        self._leaving = True
        server = self._runner.server
        handlers = server.connections if server is not None else []
        return sum(
            not handler.leave(admit)
            for handler in handlers
            if isinstance(handler, LaneHandler)
        )

    async def stop(self, seconds: float) -> None:
        """Finish the requests under way, within the bound, and close all connections."""
        self._stopping = True
        server = self._runner.server
        if server is not None:
            server.pre_shutdown()
            await server.shutdown(seconds)
        await self._runner.cleanup()

    async def _finish_headers(
        self, request: web.Request, response: web.StreamResponse
    ) -> None:
        response.headers.pop("Server", None)
        # no other protocol is spoken here, but the parser has stopped at such a request and
        # would lose those behind it
        upgrade = "Upgrade" in request.headers
        stays = not self._leaving or _can_leave(request)
        if self._stopping or upgrade or not stays:
            response.headers["Connection"] = "close"
        if upgrade or not stays:
            response.force_close()


def _size_of(message: Any, data: bytes) -> int | None:
    """How many bytes the request has that begins where `data` does; as `_rest`."""
    head = data.find(b"\r\n\r\n")
    if head < 0 or not isinstance(message, RawRequestMessage) or message.upgrade:
        return None
    if message.chunked:
        return -1
    length = message.headers.get("Content-Length", "0")
    return head + 4 + int(length) if length.isdecimal() else None


def _can_leave(request: web.Request) -> bool:
    """Whether another server could go on with the connection after the answer."""
    handler = request.protocol
    return isinstance(handler, LaneHandler) and handler.accounted


class Abandonable(Protocol):
    """Work that a client waits for."""

    def abandon(self) -> None: ...


class LaneHandler(RequestHandler):
    """aiohttp's connection, with our errors, and a query that ends with its client."""

    __slots__ = (
        "_begun", "_broken", "_framing", "_half_closed", "_last_body", "_on_connection",
        "_rest", "waiting",
    )  # fmt: skip

    def __init__(
        self, *args: Any, on_connection: Callable[[int], None] | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._on_connection = on_connection
        self._half_closed = False
        self._broken = False  # nothing that still comes is looked at
        self._framing = 0  # bytes that came since the newest request began
        self._last_body: StreamReader | None = None  # of the newest request
        self._begun = b""  # what came of a head that is not whole
        # Bytes of the newest request that are to come, -1 while that is not known; None
        # once a client has sent more, which are in the parser and cannot be had back.
        self._rest: int | None = 0
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

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return  # what follows on something that is no HTTP is nothing
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._framing = 0
        if self._messages:
            message, body = self._messages[-1]
            if isinstance(message, http_parser.RawRequestMessage):
                self._last_body = body
            else:
                self._broken = True
                if isinstance(message.exc, Exception):
                    message.exc.with_traceback(None)  # which holds all that was sent
        self._check_body(len(data))
        if self._rest is not None:
            self._count(data, self._request_count - before)

    def _check_body(self, size: int) -> None:
        """Refuse a body that is not valid, or of which much comes that is no body:
        extensions of chunks, which the parser skips without an end."""
        body = self._last_body
        if body is None or body.is_eof():
            return
        self._framing += size
        most = MOST_FRAMING + FRAMING_OF_A_BYTE * body.total_bytes
        if self._broken or self._framing > most:
            self._broken = True
            body.set_exception(web.RequestPayloadError("chunks are not what they must be"))

    def _count(self, data: bytes, heads: int) -> None:
        """Keep account of where the newest request ends; so many heads were whole now."""
        if self._rest == 0:
            data = self._begun + data
            if not heads:
                self._begun = data
                return
            self._begun = b""
            one = heads == 1 and self._messages
            self._rest = _size_of(self._messages[-1][0], data) if one else None
        elif heads:
            self._rest = None
        if self._rest == -1:
            body = self._last_body
            if body is not None and body.is_eof():
                # no head has come of what follows the last chunk, so nothing follows
                self._rest = 0 if data.endswith(b"\r\n\r\n") else None
        elif self._rest is not None:
            self._rest -= len(data)
            if self._rest < 0:
                self._rest = None

    @property
    def accounted(self) -> bool:
        """Whether it is known what the parser holds of further requests."""
        return self._rest is not None

    def leave(self, pass_on: Callable[[int, bytes], None]) -> bool:
        """Another server takes over: if nothing is owed, let it have the connection with
        what has come of a head. Whether it has gone."""
        transport = self.transport
        waiting = self._waiter is not None and not self._waiter.done()
        if (
            transport is None
            or transport.is_closing()
            or not waiting
            or self._messages
            or self._rest != 0
            or transport.get_write_buffer_size()
        ):
            return False
        descriptor = duplicate(transport)
        if descriptor is None:
            return False
        transport.pause_reading()
        pass_on(descriptor, self._begun)
        transport.abort()
        return True

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that only stopped sending still gets the answers it is owed; one
        whose request is incomplete is gone."""
        waiting = self._waiter is not None and not self._waiter.done()
        body = self._last_body
        if waiting or body is None or not body.is_eof():
            return False
        self._half_closed = True
        if not self._messages:
            self.close()  # after the request under way
        return True

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            # raised outside our middleware
            resp = refusal(request, translated(resp))
        if self._half_closed and not self._messages:
            self.close()  # this is the last one
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer where no handler could give one; the connection closes."""
        if status == 400:
            text = str(exc).lower()
            error: ClipperError = (
                HeadersTooLarge(HEAD_TOO_LARGE)
                if isinstance(exc, LineTooLong) or "too many headers" in text
                else MalformedRequest("the request is not valid HTTP/1.1")
            )
        else:
            if not isinstance(exc, ConnectionError):  # the client went away
                logger.error("a request failed", exc_info=exc)
            error = ClipperError("the server failed on this request")
        response = Unnamed(
            status=error.status,
            body=error_answer(error),
            content_type="application/json",
            headers=SAFE_HEADERS,
        )
        response.force_close()
        return response


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
                gate.unauthorized += 1
                await asyncio.sleep(UNAUTHORIZED_DELAY)
            return refusal(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return refusal(request, translated(error))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            logger.exception("a request to %.200r failed", request.path)
            return refusal(request, ClipperError("the server failed on this request"))

    return guarded


def _head_of(request: web.Request) -> Head:
    size = len(request.raw_path) + sum(len(n) + len(v) for n, v in request.raw_headers)
    if size > request.app[HEAD_LIMIT]:
        raise HeadersTooLarge(HEAD_TOO_LARGE)
    version = (request.version.major, request.version.minor)
    return make_head(request.method, request.raw_path, version, request.raw_headers)
