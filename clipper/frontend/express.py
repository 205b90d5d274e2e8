"""The hot lane: one connection of the query port, parsed and answered without a task.

The lane answers complete, plain predictions and feedback and the GETs that need no
waiting. For anything else the connection becomes aiohttp's, with the bytes of the request
at hand.

Rules: one outstanding request per connection, so answers stay in order, and pipelined
bytes wait; a hand-over waits for the answer that is owed; a half-closed client still
gets its answer; a client that is gone cancels its query.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from clipper.errors import (
    BodyTimeout,
    ClipperError,
    HeadersTooLarge,
    Overloaded,
    Unavailable,
    from_wire,
)
from clipper.frontend.answers import (
    answer_headers,
    batch_answer,
    error_answer,
    prediction_answer,
)
from clipper.frontend.gate import COMMON, HEAD_TOO_LARGE, error_headers, message
from clipper.frontend.update import Update
from clipper.query import BatchQuery, Query
from clipper.query_id import ID_LENGTH
from clipper.rendering import error_class
from clipper.values import RowError

if TYPE_CHECKING:
    from clipper.frontend.heads import Plan
    from clipper.frontend.lane import Lane

logger = logging.getLogger(__name__)

# Bytes of further requests that wait behind an answer before reading stops.
PIPELINE_BYTES = 64 * 1024

# Bodies up to this size that came in one piece are not counted as in flight: there is at
# most one for each connection, and connections are counted.
SMALL_BODY = 4096

# A client that is refused while it still sends would lose the answer to a reset if its
# bytes were left unread: for this many seconds they are read and thrown away.
LINGER_TICKS = 2

# What a request can begin with: a method, after at most some empty lines.
_BEGINNINGS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n")

_PREDICTION = (
    b"HTTP/1.1 200 OK\r\n"
    + COMMON
    + b"Content-Length: %d\r\n\r\n"
    + b'{"query_id":"%b","output":%b,"default":false%b}'
)
_ENVELOPE = len('{"query_id":"","output":,"default":false}') + ID_LENGTH
_DEFAULT = (
    b"HTTP/1.1 200 OK\r\n" + COMMON + b"Content-Length: %d\r\n\r\n" + b'{"query_id":"%b%b'
)
_BEFORE_TAIL = len('{"query_id":"') + ID_LENGTH
_OK = b"HTTP/1.1 200 OK\r\n" + COMMON + b"Content-Length: %d\r\n\r\n%b"


class Phase(Enum):
    """What a connection is doing; the sweep bounds each but ANSWERING, whose bound is
    the query's own deadline."""

    IDLE = "idle"  # nothing of a request has come
    HEAD = "head"  # a part of a head has come
    BODY = "body"  # a part of a body has come
    ANSWERING = "answering"  # a query is out
    CLOSING = "closing"  # refused; what still comes is thrown away


class Express(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_application", "_buffer", "_chunks", "_have", "_lane", "_need", "_plan",
        "_processing", "_query", "_reading", "_reserved", "_unsent", "_writable", "eof",
        "phase", "since", "stalled", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        # Per connection.
        self._reading = True
        self._writable = True
        self.eof = False  # the client will send no more
        self.stalled = 0  # tick since when the client takes nothing
        self._unsent = 0  # bytes of answers that waited for it then
        # Per request.
        self.phase = Phase.HEAD  # one who connects and says nothing is soon let go
        self.since = 0  # tick at which the phase began
        self._buffer = b""
        self._chunks: list[bytes] = []  # of a body that is still coming
        self._have = self._need = 0
        self._plan: Plan | None = None
        self._query: Query | BatchQuery | Update | None = None
        self._processing = False
        self._application = ""  # whose bytes they are
        self._reserved = 0  # bytes of the body that count as in flight

    # -- transport ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast: uvloop's transports do not derive from asyncio's
        self.transport = cast(asyncio.Transport, transport)
        self.since = self._lane.tick
        if not self._lane.add(self):
            if self._lane.crowded:
                self.transport.abort()
                return
            full = Overloaded("too many connections")
            self._refuse(_shutting_down() if self._lane.draining else full)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lane.remove(self)
        self._release()
        if self._query is not None:
            self._query.cancel()
            self._query = None

    def data_received(self, data: bytes) -> None:
        if self._need:
            if not self._reserve(len(data)):
                self._refuse(_too_many_bytes())
                return
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks, self._need = [], 0
        elif self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self.phase is Phase.ANSWERING or not self._writable:
            self._keep(data)
            return
        # one whole prediction with a known head, as nearly all requests are
        end = data.find(b"\r\n\r\n") + 4
        plan = self._lane.plans.get(data[:end])
        if plan is not None and plan.media is not None and len(data) == end + plan.length:
            self._predict(plan, data[end:])
        else:
            self._process(data)

    def _keep(self, data: bytes) -> None:
        """Bytes that have to wait behind an answer."""
        if self.phase is Phase.CLOSING:
            return
        self._buffer = data
        if len(data) > PIPELINE_BYTES and self._reading:
            self._reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.eof = True
        if self.phase is Phase.CLOSING:
            return False
        return self.phase is Phase.ANSWERING or not self._writable

    def pause_writing(self) -> None:
        self._writable = False
        self.stalled = self._lane.tick
        self._unsent = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        if self.phase is Phase.CLOSING:
            return
        self._writable = True
        if self.phase is not Phase.ANSWERING and not self._processing:
            self._continue()

    # -- requests -----------------------------------------------------------------------

    def _process(self, data: bytes) -> None:
        """Serve the requests in `data` until one has to wait."""
        self._processing = True
        try:
            while data and self._writable and not self.transport.is_closing():
                end = data.find(b"\r\n\r\n") + 4
                if end == 3:
                    self._wait_for_head(data)
                    return
                head = data[:end]
                plan = self._lane.plans.get(head) or self._lane.heads.plan(head)
                if plan is None:
                    self._hand_over(data)
                    return
                need = end + plan.length
                if len(data) < need:
                    self._application = plan.path
                    if self._lane.api.knows(plan.path):
                        self._wait_for_body(data, need)
                    else:
                        self._refuse(self._lane.api.refusal(plan.path))
                    return
                if plan.media is None:
                    answer = self._lane.api.get(plan.path)
                    if answer is None:
                        self._hand_over(data)
                        return
                    self._plan = plan
                    self._respond(*answer)
                else:
                    # what follows waits in the buffer while the answer is out
                    self._buffer = data[need:]
                    self._predict(plan, data[end:need])
                    if self.phase is Phase.ANSWERING:
                        return
                data = data[need:]
        finally:
            self._processing = False
        self._buffer = data
        self._enter(Phase.IDLE)

    def _continue(self) -> None:
        """An answer went out: go on with what came meanwhile."""
        if self._lane.leaving:
            return  # what came goes along with the connection
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self._process(data)
        if (
            self.eof
            and self.phase is not Phase.ANSWERING
            and (self._writable or not self._buffer)
        ):
            # nothing is owed any more, and what is incomplete will stay so
            self.transport.close()

    def _wait_for_head(self, data: bytes) -> None:
        if data[0] not in _BEGINNINGS or b"\n\n" in data or b"\n\r\n" in data:
            # not HTTP, or the head ended in a way that it must not: nothing to wait for
            self._hand_over(data)
            return
        if len(data) > self._lane.head_limit:
            self._refuse(HeadersTooLarge(HEAD_TOO_LARGE))
            return
        self._buffer = data
        if self.phase is not Phase.HEAD:
            self._enter(Phase.HEAD)

    def _wait_for_body(self, data: bytes, need: int) -> None:
        if not self._reserve(len(data)):
            self._refuse(_too_many_bytes())
            return
        self._buffer = b""
        self._chunks = [data]
        self._have, self._need = len(data), need
        if self.phase is not Phase.BODY:
            self._enter(Phase.BODY)

    def _predict(self, plan: Plan, body: bytes) -> None:
        self._plan = plan
        assert plan.media is not None
        if plan.length > SMALL_BODY and not self._reserved:
            self._application = plan.path
            if not self._reserve(plan.length):
                self._respond_error(_too_many_bytes())
                return
        self.phase = Phase.ANSWERING
        api = self._lane.api
        ask = api.update if plan.update else api.predict
        try:
            query = ask(plan.path, plan.media, body, plan.parameters, self)
        except ClipperError as error:
            self._respond_error(error)
        except Exception:
            logger.exception("a request failed")
            self._respond_error(ClipperError("the server failed on this request"))
        else:
            if self.phase is Phase.ANSWERING:
                self._query = query

    def query_settled(self, query: Query) -> None:
        output, plan = query.output, self._plan
        staying = plan is not None and not plan.close and not self._lane.draining
        if type(output) is bytes and staying and query.panel is None:
            # the case that counts, in one piece
            query_id = query.issue_id()
            told = query.choice.told
            length = _ENVELOPE + len(output) + len(told)
            self.transport.write(_PREDICTION % (length, query_id, output, told))
            self._answered(close=False)
        elif (
            type(output) is RowError
            and staying
            and (tail := query.application.rendering.default_tail(output)) is not None
        ):
            # under overload there are many, and each should cost next to nothing
            length = _BEFORE_TAIL + len(tail)
            query_id = query.issue_id()
            self.transport.write(_DEFAULT % (length, query_id, tail))
            self._answered(close=False)
        elif type(output) is RowError and staying:
            self.transport.write(_failure(error_class(output).code, output.cause))
            self._answered(close=False)
        else:
            self._respond(*prediction_answer(query))

    def batch_settled(self, batch: BatchQuery) -> None:
        self._respond(200, batch_answer(batch))

    def update_settled(self, update: Update) -> None:
        self._respond(*update.answer())

    # -- answers ------------------------------------------------------------------------

    def _respond(self, status: int, body: bytes) -> None:
        plan = self._plan
        if (
            status == 200
            and plan is not None
            and not plan.close
            and not self._lane.draining
        ):
            self.transport.write(_OK % (len(body), body))
            self._answered(close=False)
        else:
            close = plan is None or plan.close or self._lane.draining
            self._write(status, body, answer_headers(status), close)

    def _respond_error(self, error: ClipperError) -> None:
        close = self._lane.draining or (self._plan is not None and self._plan.close)
        self._write(error.status, error_answer(error), error_headers(error), close)

    def _refuse(self, error: ClipperError) -> None:
        """Answer a client that may still be sending, and hear no more of it."""
        self._send(error.status, error_answer(error), error_headers(error), close=True)
        self._plan = None
        self._buffer, self._chunks, self._need = b"", [], 0
        self._release()
        self._writable = False  # so that nothing looks at what still comes
        self._enter(Phase.CLOSING)
        try:
            self.transport.write_eof()
        except OSError:  # the client is gone already
            self.transport.abort()

    def _write(
        self, status: int, body: bytes, headers: dict[str, str], close: bool
    ) -> None:
        self._send(status, body, headers, close)
        self._answered(close=close)

    def _send(self, status: int, body: bytes, headers: dict[str, str], close: bool) -> None:
        self.transport.write(message(status, body, headers, close))

    def _answered(self, *, close: bool) -> None:
        self._query = self._plan = None
        if self._reserved:  # without a call, mostly
            self._release()
        self.phase = Phase.IDLE
        self.since = self._lane.tick
        if close:
            self._buffer = b""
            self.transport.close()
        elif not self._processing and (self._buffer or self.eof or not self._reading):
            self._continue()

    # -- bounds -------------------------------------------------------------------------

    def overdue(self, tick: int) -> None:
        """Called once a second: end what takes too long."""
        late = tick - self.since
        if self.transport.is_closing():
            # closed with answers unsent, which the client does not take
            if late > self._lane.write_ticks:
                self.transport.abort()
        elif self.phase is Phase.CLOSING:
            if late > LINGER_TICKS:
                self._close()
        elif not self._writable:
            self._watch_reader(tick)
        elif late > self._lane.patience[self.phase]:
            if self.phase is Phase.BODY:
                self._refuse(BodyTimeout("the body took too long"))
            else:
                self._close()

    def _watch_reader(self, tick: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < self._unsent:
            self.stalled = tick
        elif tick - self.stalled > self._lane.write_ticks:
            self.transport.abort()
        self._unsent = unsent

    def finish(self) -> None:
        """The server drains: idle connections close, others after their answer. One that
        is new has its request under way, mostly."""
        if self.transport.is_closing():
            return
        if self.phase in (Phase.HEAD, Phase.BODY):
            self._refuse(_shutting_down())
        elif self.phase is Phase.IDLE:
            self._close()

    def leave(self, pass_on: Callable[[int, bytes], None]) -> bool:
        """Another server takes over: read no more, and once nothing is owed, let it have
        the connection with what has come of a request. Whether it has gone."""
        transport = self.transport
        if transport.is_closing():
            return False
        if self._reading:
            self._reading = False
            transport.pause_reading()
        if (
            self.phase in (Phase.ANSWERING, Phase.CLOSING)
            or not self._writable
            or transport.get_write_buffer_size()
        ):
            return False
        descriptor = duplicate(transport)
        if descriptor is None:
            return False
        pass_on(descriptor, b"".join(self._chunks) if self._need else self._buffer)
        transport.abort()  # what is open elsewhere is closed here, and not shut down
        return True

    def _close(self) -> None:
        self.since = self._lane.tick
        self.transport.close()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since = self._lane.tick

    def _reserve(self, size: int) -> bool:
        if not self._lane.reserve(size, self._application):
            return False
        self._reserved += size
        return True

    def _release(self) -> None:
        if self._reserved:
            self._lane.release(self._reserved, self._application)
            self._reserved = 0

    def _hand_over(self, data: bytes) -> None:
        """Make the connection aiohttp's, with everything that was not answered yet."""
        self._release()
        self._buffer = b""
        self._lane.hand_over(self, data)


def duplicate(transport: asyncio.Transport) -> int | None:
    """Another descriptor of its socket; None where there are too many."""
    try:
        return os.dup(transport.get_extra_info("socket").fileno())
    except OSError:
        return None


def _too_many_bytes() -> Overloaded:
    return Overloaded("too many bytes are in flight")


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down")


@lru_cache(maxsize=64)
def _failure(code: str, cause: str) -> bytes:
    """The answer to a query that failed; there are few, and under overload they are
    sent often."""
    error = from_wire(code, cause)
    headers = answer_headers(error.status)
    return message(error.status, error_answer(error), headers, close=False)
