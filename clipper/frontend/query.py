"""The query port in aiohttp: predictions and feedback in any valid HTTP, metrics and
descriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from clipper.config import Limits
from clipper.errors import Overloaded
from clipper.frontend.answers import answer_headers, batch_answer, prediction_answer
from clipper.frontend.api import QueryApi
from clipper.frontend.bodies import ignore_expectation, read_body
from clipper.frontend.exposition import Exposition
from clipper.frontend.gate import Gate
from clipper.frontend.heads import PREDICT_MEDIA, UPDATE_MEDIA
from clipper.frontend.lane import Lane
from clipper.frontend.openapi import DOCS_PAGE, openapi_document
from clipper.frontend.responses import SAFE_HEADERS, json_response
from clipper.frontend.update import Update
from clipper.frontend.web import HEAD, LaneHandler, middleware
from clipper.query import BatchQuery, Query

# Asks for what a body wants: application, media type, body, parameters, receiver.
Ask = Callable[[str, str, bytes, str, "Waiting"], Query | BatchQuery | Update]


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
        for path, handler in (
            ("/health/live", self.known),
            ("/health/ready", self.known),
            ("/metrics", self.metrics),
            ("/openapi.json", self.openapi),
            ("/docs", self.docs),
            ("/{app}", self.known),
        ):
            for spelling in (path, f"{path}/"):
                application.router.add_get(
                    spelling, handler, expect_handler=ignore_expectation
                )
        for name, handler in (("predict", self.predict), ("update", self.update)):
            for spelling in (f"/{{app}}/{name}", f"/{{app}}/{name}/"):
                application.router.add_post(
                    spelling, handler, expect_handler=ignore_expectation
                )
        return application

    async def known(self, request: web.Request) -> web.StreamResponse:
        """The GETs that the hot lane answers as well."""
        answer = self._api.get(request.path.removesuffix("/"))
        if answer is None:
            raise self._api.refusal(request.match_info.get("app", ""))
        return _answered(*answer)

    async def predict(self, request: web.Request) -> web.StreamResponse:
        return await self._ask(request, PREDICT_MEDIA, self._api.predict)

    async def update(self, request: web.Request) -> web.StreamResponse:
        return await self._ask(request, UPDATE_MEDIA, self._api.update)

    async def _ask(
        self, request: web.Request, allowed: tuple[str, ...], ask: Ask
    ) -> web.StreamResponse:
        head = request[HEAD]
        media = self._gate.check_body(head, allowed, self._limits.body)
        lane, reserved, name = self.lane, 0, request.match_info["app"]

        def count(size: int) -> None:
            nonlocal reserved
            if not lane.reserve(size, name):
                raise Overloaded("too many bytes are in flight")
            reserved += size

        if not (self._api.knows(name) or request.content.is_eof()):
            raise self._api.refusal(name)
        try:
            limits = self._limits
            body = await read_body(request, limits.body, limits.body_seconds, count)
            # as it was sent, because the parameters are decoded where they are used
            parameters = head.target.partition("?")[2]
            waiting = Waiting()
            waiting.query = ask(name, media, body, parameters, waiting)
            handler = request.protocol
            assert isinstance(handler, LaneHandler)
            handler.waiting = waiting
            try:
                return _answered(*await waiting.answer)
            finally:
                handler.waiting = None
        finally:
            lane.release(reserved, name)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        content_type, pieces = self._metrics.pieces(request.headers.get("Accept", ""))
        parts = []
        for piece in pieces:
            parts.append(piece)
            await asyncio.sleep(0)  # queries go first
        return web.Response(
            body=b"".join(parts), headers={"Content-Type": content_type, **SAFE_HEADERS}
        )

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return json_response(200, openapi_document())

    async def docs(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=DOCS_PAGE, content_type="text/html", charset="utf-8", headers=SAFE_HEADERS
        )


def _answered(status: int, body: bytes) -> web.Response:
    return json_response(status, body, answer_headers(status))


class Waiting:
    """Receives an answer for a coroutine that waits for it."""

    def __init__(self) -> None:
        self.query: Query | BatchQuery | Update | None = None
        self.answer: asyncio.Future[tuple[int, bytes]] = (
            asyncio.get_running_loop().create_future()
        )

    def query_settled(self, query: Query) -> None:
        self._set(*prediction_answer(query))

    def batch_settled(self, batch: BatchQuery) -> None:
        self._set(200, batch_answer(batch))

    def update_settled(self, update: Update) -> None:
        self._set(*update.answer())

    def abandon(self) -> None:
        """The client went away. The coroutine ends with an answer that nobody reads:
        cancelling the future would take the handler's clean-up with it."""
        if self.query is not None:
            self.query.cancel()
        self._set(503, b"{}")

    def _set(self, status: int, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result((status, body))
