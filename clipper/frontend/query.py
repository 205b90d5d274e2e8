"""The query port in aiohttp: predictions in any valid HTTP, metrics and descriptions."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from clipper.config import Limits
from clipper.errors import MethodNotAllowed, NotFound, Overloaded
from clipper.frontend.answers import batch_answer, prediction_answer
from clipper.frontend.api import QueryApi
from clipper.frontend.exposition import Exposition
from clipper.frontend.gate import Gate
from clipper.frontend.heads import PREDICT_MEDIA
from clipper.frontend.lane import Lane
from clipper.frontend.openapi import DOCS_PAGE, openapi_document
from clipper.frontend.web import (
    HEAD,
    SAFE_HEADERS,
    LaneHandler,
    json_response,
    middleware,
    read_body,
)
from clipper.query import BatchQuery, Query
from clipper.values import NAME


class QueryRoutes:
    """Handlers of the query port."""

    def __init__(
        self, api: QueryApi, gate: Gate, limits: Limits, metrics: Exposition
    ) -> None:
        self._api = api
        self._gate = gate
        self._limits = limits
        self._metrics = metrics
        self.lane: Lane  # set once both lanes exist: they share the bytes in flight

    def application(self) -> web.Application:
        application = web.Application(
            middlewares=[middleware(self._gate)], client_max_size=self._limits.body
        )
        application.router.add_get("/metrics", self.metrics)
        application.router.add_get("/openapi.json", self.openapi)
        application.router.add_get("/docs", self.docs)
        application.router.add_route("*", "/{path:.*}", self.other)
        return application

    async def other(self, request: web.Request) -> web.StreamResponse:
        """Predictions, and the GETs that the hot lane knows."""
        path = request.path.rstrip("/") or "/"
        match = re.fullmatch(r"/([^/]+)/predict", path)
        if match is not None and NAME.fullmatch(match[1]):
            if request.method != "POST":
                raise MethodNotAllowed("this route takes POST")
            return await self._predict(request, match[1])
        answer = self._api.get(path)
        if answer is None:
            raise NotFound("there is no such route")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("this route takes GET")
        return json_response(*answer)

    async def _predict(self, request: web.Request, name: str) -> web.StreamResponse:
        media = self._gate.check_body(request[HEAD], PREDICT_MEDIA, self._limits.body)
        reserved = request.content_length or self._limits.body
        if not self.lane.reserve(reserved):
            raise Overloaded("too many bytes are in flight")
        try:
            body = await read_body(request, self._limits.body, self._limits.body_seconds)
            waiting = Waiting()
            waiting.query = self._api.predict(
                name, media, body, request.query_string, waiting
            )
            handler = request.protocol
            assert isinstance(handler, LaneHandler)
            handler.waiting = waiting
            try:
                return json_response(*await waiting.answer)
            finally:
                handler.waiting = None
        finally:
            self.lane.release(reserved)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        content_type, body = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(
            body=body, headers={"Content-Type": content_type, **SAFE_HEADERS}
        )

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return json_response(200, openapi_document())

    async def docs(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=DOCS_PAGE, content_type="text/html", charset="utf-8")


class Waiting:
    """Receives an answer for a coroutine that waits for it."""

    def __init__(self) -> None:
        self.query: Query | BatchQuery | None = None
        self.answer: asyncio.Future[tuple[int, bytes]] = (
            asyncio.get_running_loop().create_future()
        )

    def query_settled(self, query: Query) -> None:
        self._set(*prediction_answer(query))

    def batch_settled(self, batch: BatchQuery) -> None:
        self._set(200, batch_answer(batch))

    def abandon(self) -> None:
        """The client went away. The coroutine ends with an answer that nobody reads:
        cancelling the future would take the handler's clean-up with it."""
        if self.query is not None:
            self.query.cancel()
        self._set(503, b"{}")

    def _set(self, status: int, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result((status, body))
