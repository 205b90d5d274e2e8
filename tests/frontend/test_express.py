"""One connection of the hot lane, without sockets: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from clipper.config import Limits, Settings
from clipper.errors import ClipperError, InvalidInput, NotFound
from clipper.frontend.express import (
    LINGER_TICKS,
    PIPELINE_BYTES,
    SMALL_BODY,
    Express,
    Phase,
)
from clipper.frontend.gate import Gate
from clipper.frontend.heads import Heads
from clipper.frontend.lane import Lane

from .raw import predict, request, with_trailer

LIVE = request("GET", "/health/live")
HIGH_WATER = 64 * 1024


class FakeTransport(asyncio.Transport):
    """Keeps what is written. `stuck` is the client that does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.unsent = 0
        self.stuck = self.paused = self.closing = self.aborted = self.ended = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        assert not self.ended, "written after the end"
        self.sent += data
        if self.stuck:
            self.unsent += len(data)
            if self.unsent > HIGH_WATER:
                self.protocol.pause_writing()

    def drain(self) -> None:
        self.stuck, self.unsent = False, 0
        self.protocol.resume_writing()

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class FakeQuery:
    """A query that the test settles."""

    def __init__(self, name: str, body: bytes, receiver: Any) -> None:
        self.name, self.body, self.receiver = name, body, receiver
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeApi:
    """Answers `now` at once, fails `bad` and `broken`, and keeps the others."""

    def __init__(self) -> None:
        self.queries: list[FakeQuery] = []

    def knows(self, name: str) -> bool:
        return name != "unknown"

    def refusal(self, name: str) -> ClipperError:
        return NotFound(f"there is no {name}")

    def get(self, path: str) -> tuple[int, bytes] | None:
        return (200, b"live") if path == "/health/live" else None

    def predict(
        self, name: str, media: str, body: bytes, parameters: str, receiver: Any
    ) -> FakeQuery:
        if name == "bad":
            raise InvalidInput("it is bad")
        if name == "broken":
            raise ZeroDivisionError
        query = FakeQuery(name, body, receiver)
        if name == "now":
            receiver._respond(200, b"now:" + body)
        elif name == "large":
            receiver._respond(200, b"x" * (HIGH_WATER + 1))
        else:
            self.queries.append(query)
        return query

    def settle(self) -> None:
        query = self.queries.pop(0)
        query.receiver._respond(200, query.name.encode() + b":" + query.body)


class FakeHandler:
    """What takes a connection over: keeps its bytes."""

    def __init__(self) -> None:
        self.data = b""
        self.eof = False
        self.transport: FakeTransport | None = None

    def connection_made(self, transport: FakeTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.eof = True
        return False


class Line:
    """A connection with everything around it."""

    def __init__(self, limits: dict[str, Any] | None = None, **values: Any) -> None:
        every = replace(Limits(), **(limits or {}))
        gate = Gate(Settings(**values), "secret", admin=False)
        self.api = FakeApi()
        self.handler = FakeHandler()
        self.lane = Lane(
            self.api,  # type: ignore[arg-type]
            Heads(gate, every.body),
            every,
            lambda: self.handler,  # type: ignore[arg-type,return-value]
        )
        self.lane._arm = lambda: None  # type: ignore[method-assign]
        self.transport = FakeTransport()
        self.express = self.connect(self.transport)

    def connect(self, transport: FakeTransport) -> Express:
        express = self.lane.connect()
        transport.protocol = express
        express.connection_made(transport)
        return express

    def feed(self, data: bytes) -> None:
        self.transport.protocol.data_received(data)

    def answers(self) -> list[tuple[int, bytes]]:
        return split(self.transport.sent)

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.lane._sweep()

    def lose(self) -> None:
        self.express.connection_lost(None)


def split(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        (length,) = (
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.startswith(b"Content-Length")
        )
        found.append((status, data[:length]))
        data = data[length:]
    return found


@pytest.fixture
def line() -> Line:
    return Line()


# -- requests and answers --------------------------------------------------------------


def test_answers_a_get_at_once(line: Line) -> None:
    line.feed(LIVE)
    assert line.answers() == [(200, b"live")]
    assert line.express.phase is Phase.IDLE


def test_answers_a_prediction_when_it_is_settled(line: Line) -> None:
    line.feed(predict("later", b"1"))
    assert line.express.phase is Phase.ANSWERING
    assert line.answers() == []
    line.api.settle()
    assert line.answers() == [(200, b"later:1")]
    assert line.express.phase is Phase.IDLE


def test_a_prediction_that_fails_keeps_the_connection(line: Line) -> None:
    line.feed(predict("bad", b"1") + LIVE)
    assert [status for status, _ in line.answers()] == [400, 200]
    assert line.lane.bytes_in_flight == 0


def test_an_unforeseen_failure_is_a_500_without_its_words(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.feed(predict("broken", b"1") + LIVE)
    assert [status for status, _ in line.answers()] == [500, 200]
    assert b"ZeroDivision" not in line.transport.sent
    assert "ZeroDivisionError" in caplog.text


def test_close_is_kept(line: Line) -> None:
    line.feed(predict("now", b"1", "Connection: close") + LIVE)
    assert line.answers() == [(200, b"now:1")]
    assert b"Connection: close\r\n" in line.transport.sent
    assert line.transport.closing


def test_pipelined_requests_wait_their_turn(line: Line) -> None:
    line.feed(predict("a", b"1") + predict("b", b"2") + LIVE)
    assert [query.name for query in line.api.queries] == ["a"]
    line.api.settle()
    assert [query.name for query in line.api.queries] == ["b"]
    line.api.settle()
    assert line.answers() == [(200, b"a:1"), (200, b"b:2"), (200, b"live")]


def test_much_that_waits_stops_the_reading(line: Line) -> None:
    line.feed(predict("a", b"1"))
    line.feed(b"\r\n" * (PIPELINE_BYTES // 2))
    assert not line.transport.paused
    line.feed(LIVE)
    assert line.transport.paused
    line.api.settle()
    assert not line.transport.paused


def test_ten_thousand_pipelined_requests_do_not_recurse(line: Line) -> None:
    line.feed(b"".join(predict("now", b"%05d" % i) for i in range(10_000)))
    assert line.answers() == [(200, b"now:%05d" % i) for i in range(10_000)]


STREAM = (
    predict("a", b"0123456789")
    + LIVE
    + predict("now", b"x" * 50)
    + predict("bad", b"{}")
    + b"\r\n"
    + predict("b", b"")
    + LIVE
)
ANSWERS = [
    (200, b"a:0123456789"),
    (200, b"live"),
    (200, b"now:" + b"x" * 50),
    (400, b'{"error":"invalid_input","cause":"it is bad"}'),
    (200, b"b:"),
    (200, b"live"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.integers(0, 2))
@example(list(range(len(STREAM))), 0)
@example(list(range(len(STREAM))), 1)
@example([], 0)
def test_any_chunking_gives_the_same_answers(cuts: list[int], slowness: int) -> None:
    """Queries are settled at once, after the next piece, or when all has come."""
    line = Line()
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        if slowness == 1 and line.api.queries:
            line.api.settle()
        if start < end:
            line.feed(STREAM[start:end])
        while slowness == 0 and line.api.queries:
            line.api.settle()
    while line.api.queries:
        line.api.settle()
    assert line.answers() == ANSWERS
    assert line.lane.bytes_in_flight == 0
    assert line.express.phase is Phase.IDLE


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_connections_may_end_anywhere(data: st.DataObject) -> None:
    """Whatever was under way is given back and cancelled, once."""
    line = Line({"bytes_in_flight": 60})
    edges = data.draw(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
    for start, end in itertools.pairwise([0, *edges]):
        if start < end and not line.transport.closing:
            line.feed(STREAM[start:end])
        if line.api.queries and data.draw(st.booleans()):
            line.api.settle()
        if data.draw(st.integers(0, 9)) == 0:
            line.express.eof_received()
    queries = list(line.api.queries)
    line.lose()
    assert line.lane.bytes_in_flight == 0
    assert not line.lane.connections
    assert all(query.cancelled for query in queries)


# -- bodies in pieces ------------------------------------------------------------------


def test_a_body_counts_as_it_comes(line: Line) -> None:
    data = predict("a", b"x" * 1000)
    line.feed(data[:500])
    assert line.express.phase is Phase.BODY
    assert line.lane.bytes_in_flight == 500
    line.feed(data[500:600])
    assert line.lane.bytes_in_flight == 600
    line.feed(data[600:])
    assert line.lane.bytes_in_flight == len(data)
    line.api.settle()
    assert line.lane.bytes_in_flight == 0


def test_a_claim_of_much_takes_nothing(line: Line) -> None:
    """One who says that much will come does not keep others out."""
    data = predict("a", b"x" * (8 << 20))
    line.feed(data[:200])
    assert line.lane.bytes_in_flight == 200


def test_no_body_is_awaited_of_an_application_that_is_not_there() -> None:
    line = Line()
    line.feed(predict("unknown", b"x" * 1000)[:300])
    ((status, _),) = line.answers()
    assert status == 404 and line.lane.bytes_in_flight == 0
    assert line.transport.ended and b"Connection: close\r\n" in line.transport.sent


def test_too_many_bytes_in_flight() -> None:
    line = Line({"bytes_in_flight": 300, "body": 1000})
    data = predict("a", b"x" * 1000)
    line.feed(data[:200])
    line.feed(data[200:400])
    ((status, body),) = line.answers()
    assert status == 503 and b"too many bytes" in body
    assert b"Retry-After: 1\r\n" in line.transport.sent
    assert line.lane.bytes_in_flight == 0
    assert line.transport.ended  # half closed: the client can still read the answer
    line.feed(data[400:])
    line.feed(LIVE)
    assert len(line.answers()) == 1


def test_a_large_body_in_one_piece_counts_until_it_is_answered(line: Line) -> None:
    line.feed(predict("a", b"x" * (SMALL_BODY + 1)))
    assert line.lane.bytes_in_flight == SMALL_BODY + 1
    line.api.settle()
    assert line.lane.bytes_in_flight == 0


def test_too_many_bytes_in_one_piece_keeps_the_connection() -> None:
    line = Line({"bytes_in_flight": SMALL_BODY})
    line.feed(predict("a", b"x" * (SMALL_BODY + 1)) + predict("now", b"1"))
    assert [status for status, _ in line.answers()] == [503, 200]


def test_what_waits_behind_a_body_in_pieces_is_not_served_twice(line: Line) -> None:
    """An answer at once, a body in pieces behind it, and a client that reads late."""
    data = predict("now", b"y" * 300)
    line.feed(predict("now", b"1") + data[:200])
    line.express.pause_writing()
    line.express.resume_writing()
    line.feed(data[200:])
    assert line.answers() == [(200, b"now:1"), (200, b"now:" + b"y" * 300)]


# -- the client's end ------------------------------------------------------------------


def test_half_close_is_not_disconnect(line: Line) -> None:
    line.feed(predict("a", b"1"))
    assert line.express.eof_received()
    line.api.settle()
    assert line.answers() == [(200, b"a:1")]
    assert line.transport.closing


@pytest.mark.parametrize("last", [LIVE, predict("b", b"2"), predict("now", b"3"), b"GET "])
def test_all_that_came_before_the_half_close_is_answered(line: Line, last: bytes) -> None:
    line.feed(predict("a", b"1") + LIVE + last)
    line.express.eof_received()
    while line.api.queries:
        assert not line.transport.closing
        line.api.settle()
    assert len(line.answers()) == (2 if last == b"GET " else 3)
    assert line.transport.closing


def test_half_close_before_a_request_ends_the_connection(line: Line) -> None:
    assert not line.express.eof_received()
    line.feed(LIVE[:10])
    assert not line.express.eof_received()


def test_half_close_is_passed_on(line: Line) -> None:
    line.feed(predict("a", b"1") + with_trailer(LIVE))
    line.express.eof_received()
    line.api.settle()
    assert line.handler.data == with_trailer(LIVE)
    assert line.handler.eof


def test_a_client_that_is_gone_cancels_its_query(line: Line) -> None:
    line.feed(predict("a", b"1"))
    (query,) = line.api.queries
    line.lose()
    assert query.cancelled
    assert line.lane.bytes_in_flight == 0
    assert not line.lane.connections


# -- hand-over -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        with_trailer(LIVE),
        request("GET", "/other"),
        request("DELETE", "/health/live"),
        predict("a", b"1", media="text/plain"),
        predict("a", b"1", host="evil"),
        predict("a", b"1", version="1.0"),
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\n",
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_hands_over_what_it_does_not_take(line: Line, data: bytes) -> None:
    line.feed(data)
    assert line.handler.data == data
    assert line.transport.protocol is line.handler
    assert line.transport.sent == b""
    assert not line.lane.connections


def test_a_hand_over_waits_for_the_answer_that_is_owed(line: Line) -> None:
    rest = with_trailer(LIVE) + predict("b", b"2")
    line.feed(predict("a", b"1") + rest)
    line.feed(b"GET")
    assert line.handler.transport is None
    line.api.settle()
    assert line.answers() == [(200, b"a:1")]
    assert line.handler.data == rest + b"GET"


def test_a_hand_over_gives_back_what_was_reserved(line: Line) -> None:
    data = predict("a", b"x" * 100)
    line.feed(data[:150])
    line.feed(data[150:] + with_trailer(LIVE))
    line.api.settle()
    assert line.handler.data == with_trailer(LIVE)
    assert line.lane.bytes_in_flight == 0


def test_a_hand_over_reads_on(line: Line) -> None:
    line.feed(predict("a", b"1"))
    line.feed(with_trailer(LIVE) * (PIPELINE_BYTES // len(LIVE)))
    assert line.transport.paused
    line.api.settle()
    assert line.handler.data and not line.transport.paused


# -- a client that does not read -------------------------------------------------------


def test_a_client_that_does_not_read_is_not_served_more(line: Line) -> None:
    line.transport.stuck = True
    line.feed(predict("large", b"1") + LIVE)
    assert len(line.answers()) == 1
    line.feed(LIVE)
    assert len(line.answers()) == 1
    line.transport.drain()
    assert len(line.answers()) == 3


def test_a_client_that_does_not_read_cannot_send_without_end(line: Line) -> None:
    line.transport.stuck = True
    line.feed(predict("large", b"1"))
    line.feed(LIVE * (PIPELINE_BYTES // len(LIVE) + 1))
    assert line.transport.paused
    line.transport.drain()
    assert not line.transport.paused


def test_a_client_that_takes_nothing_is_let_go(line: Line) -> None:
    line = Line({"write_seconds": 3})
    line.transport.stuck = True
    line.feed(predict("large", b"1"))
    line.pass_seconds(3)
    assert not line.transport.aborted
    line.pass_seconds(1)
    assert line.transport.aborted


def test_a_client_that_takes_a_little_is_kept(line: Line) -> None:
    line = Line({"write_seconds": 3})
    line.transport.stuck = True
    line.feed(predict("large", b"1"))
    for _ in range(10):
        line.transport.unsent -= 10
        line.pass_seconds(2)
    assert not line.transport.aborted


def test_half_close_by_a_client_that_does_not_read_yet(line: Line) -> None:
    line.transport.stuck = True
    line.feed(predict("large", b"1") + LIVE)
    assert line.express.eof_received()
    assert not line.transport.closing
    line.transport.drain()
    assert len(line.answers()) == 2
    assert line.transport.closing


def test_a_closed_connection_with_unsent_answers_is_let_go() -> None:
    """Too few unsent bytes to pause writing, and a client that never takes them."""
    line = Line({"write_seconds": 3, "idle_seconds": 5})
    line.transport.stuck = True
    line.feed(LIVE)
    line.pass_seconds(6)
    assert line.transport.closing and not line.transport.aborted
    line.pass_seconds(4)
    assert line.transport.aborted


# -- time limits and the end of the server ---------------------------------------------


@pytest.mark.parametrize(
    ("start", "limit"),
    [(b"", "head_seconds"), (b"POST /a", "head_seconds"), (LIVE, "idle_seconds")],
)
def test_idle_and_slow_clients_are_let_go(start: bytes, limit: str) -> None:
    line = Line({limit: 2})
    if start:
        line.feed(start)
    line.pass_seconds(2)
    assert not line.transport.closing
    line.pass_seconds(1)
    assert line.transport.closing


def test_a_head_that_drips_has_no_more_time() -> None:
    line = Line({"head_seconds": 3})
    for byte in b"GET /":
        line.feed(bytes([byte]))
        line.pass_seconds(1)
    assert line.transport.closing


def test_a_body_that_drips_is_a_408() -> None:
    line = Line({"body_seconds": 3})
    line.feed(predict("a", b"x" * 100)[:-90])
    for _ in range(4):
        line.feed(b"x")
        line.pass_seconds(1)
    ((status, body),) = line.answers()
    assert status == 408 and b"request_timeout" in body
    assert line.transport.ended and not line.transport.closing
    assert line.lane.bytes_in_flight == 0
    line.feed(b"x" * 50)
    line.pass_seconds(LINGER_TICKS + 1)
    assert line.transport.closing


def test_a_refused_client_ends_the_connection_itself() -> None:
    line = Line({"connections": 1})
    transport = FakeTransport()
    express = line.connect(transport)
    assert split(transport.sent)[0][0] == 503
    assert b"Connection: close\r\n" in transport.sent
    express.data_received(LIVE)
    assert not express.eof_received()
    express.connection_lost(None)
    line.feed(LIVE)
    assert line.answers() == [(200, b"live")]
    assert len(line.lane.connections) == 1


def test_a_refused_client_may_be_gone_already() -> None:
    class Gone(FakeTransport):
        def write_eof(self) -> None:
            raise OSError("not connected")

    line = Line({"connections": 1})
    transport = Gone()
    line.connect(transport)
    assert transport.aborted


def test_a_query_is_not_bounded_by_the_sweep() -> None:
    line = Line({"idle_seconds": 1, "head_seconds": 1, "body_seconds": 1})
    line.feed(predict("a", b"1"))
    line.pass_seconds(100)
    assert not line.transport.closing
    line.api.settle()
    assert line.answers() == [(200, b"a:1")]


def test_a_head_past_the_limit_is_a_431() -> None:
    line = Line({"head": 1000})
    line.feed(b"GET / HTTP/1.1\r\nX: " + b"a" * 1000)
    ((status, _),) = line.answers()
    assert status == 431
    assert line.transport.ended


def test_draining_answers_what_is_owed_and_closes() -> None:
    line = Line()
    line.feed(predict("a", b"1") + LIVE)
    line.lane.drain()
    assert not line.transport.closing
    line.api.settle()
    assert line.answers() == [(200, b"a:1")]
    assert b"Connection: close\r\n" in line.transport.sent
    assert line.transport.closing


@pytest.mark.parametrize("start", [b"", b"GET ", predict("a", b"12")[:-1]])
def test_draining_refuses_what_has_hardly_begun(line: Line, start: bytes) -> None:
    """Nor is one who has just connected left without a word."""
    if start:
        line.feed(start)
    line.lane.drain()
    ((status, body),) = line.answers()
    assert status == 503 and b"shutting down" in body
    assert b"Connection: close\r\n" in line.transport.sent


def test_draining_closes_idle_connections(line: Line) -> None:
    line.feed(LIVE)
    line.lane.drain()
    assert line.transport.closing


def test_draining_refuses_who_comes_late(line: Line) -> None:
    line.lane.drain()
    transport = FakeTransport()
    line.connect(transport)
    ((status, body),) = split(transport.sent)
    assert status == 503 and b"shutting down" in body


@pytest.mark.parametrize(
    "reach",
    [
        lambda line: None,
        lambda line: line.feed(b"GE"),
        lambda line: line.feed(predict("a", b"12")[:-1]),
        lambda line: line.feed(predict("a", b"1")),
        lambda line: line.feed(LIVE),
        lambda line: line.lane.drain(),
        lambda line: line.feed(predict("a", b"12")[:-1]) or line.lane.drain(),
    ],
    ids=["start", "head", "body", "answering", "idle", "closing", "refused"],
)
def test_a_connection_may_be_lost_in_every_phase(
    line: Line, reach: Callable[[Line], object]
) -> None:
    reach(line)
    line.lose()
    line.pass_seconds(1)
    assert not line.lane.connections
    assert line.lane.bytes_in_flight == 0
