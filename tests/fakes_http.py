"""A server that keeps to the HTTP contract as far as a client sees it, runs in a thread,
and remembers every request."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

TOKEN = "5ec7e7"


@dataclass
class Request:
    method: str
    path: str
    content_type: str
    token: str | None
    body: Any  # decoded, or the parts of a multipart body by name


@dataclass
class Answer:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    lines: list[Any] | None = None  # JSON lines instead of a body
    hang_up: bool = False  # close the connection after the lines, in mid-answer


class FakeServer:
    """Two ports on loopback. `answers` maps a path to the Answer it gives; a path that
    is not in it answers 200 `{}`, and under /admin/ the token is asked for."""

    def __init__(self, *, query_needs_token: bool = False) -> None:
        self.requests: list[Request] = []
        self.answers: dict[str, Answer] = {}
        self.query_needs_token = query_needs_token
        self.port = self.admin_port = 0

    @property
    def last(self) -> Request:
        return self.requests[-1]

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        for _ in range(2):
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        (_, self.port), (_, self.admin_port) = self._runner.addresses

    async def _close(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        seen = Request(
            request.method,
            request.path,
            request.content_type if request.can_read_body else "",
            token if scheme == "Bearer" else None,
            await _read_body(request),
        )
        self.requests.append(seen)
        guarded = self.query_needs_token or request.path.startswith("/admin/")
        if guarded and seen.token != TOKEN:
            return _respond(
                Answer({"error": "unauthorized", "cause": "The token is wrong."}, 401)
            )
        answer = self.answers.get(request.path, Answer({}))
        if answer.lines is None:
            return _respond(answer)
        return await _stream(request, answer)


def _respond(answer: Answer) -> web.Response:
    body = answer.body
    data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    headers = {"Content-Type": answer.content_type} | answer.headers
    return web.Response(body=data, status=answer.status, headers=headers)


async def _stream(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for line in answer.lines or ():
        data = line if isinstance(line, bytes) else msgspec.json.encode(line) + b"\n"
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            await response.write(half)
    if answer.hang_up and request.transport is not None:
        request.transport.close()
    return response


async def _read_body(request: web.BaseRequest) -> Any:
    if request.content_type.startswith("multipart/"):
        parts: dict[str, Any] = {}
        async for part in await request.multipart():
            data = await part.read()  # type: ignore[union-attr]
            kind = part.headers["Content-Type"]
            parts[str(part.name)] = (kind, data)  # type: ignore[union-attr]
        return parts
    data = await request.read()
    if not data:
        return None
    if request.content_type == "application/msgpack":
        return msgspec.msgpack.decode(data)
    return msgspec.json.decode(data)
