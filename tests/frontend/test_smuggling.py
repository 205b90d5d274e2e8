"""Requests whose end is in doubt: nobody between a client and us may have seen another
number of requests than we answer. The forms are those of CVE-2023-37276, CVE-2023-47627,
CVE-2023-47641, CVE-2024-23829, CVE-2024-52304, CVE-2025-53643, CVE-2025-69224 and
CVE-2026-34525, and others that parsers have been found to differ in."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from polling import eventually

from clipper import Server

from .raw import (
    LANES,
    ask,
    chunked,
    connect,
    expecting,
    is_quiet,
    predict,
    request,
    with_trailer,
)
from .routes import authorization

LOOPS = ("uvloop",)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.fault("N5")]

BODY = b'{"input": 1}'
LAST = b"\r\n0\r\n\r\n"
GOOD = predict("json", BODY)
LIVE = request("GET", "/health/live")


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_is_well(
    server: Server, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    yield
    assert (await ask(server.port, GOOD)).status == 200
    await eventually(lambda: is_quiet(server))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def headed(*lines: str) -> bytes:
    """A POST with these lines for its body's length, and a hidden request as the body."""
    head = ("POST /json/predict HTTP/1.1", "Host: localhost",
            "Content-Type: application/json", *lines, "", "")  # fmt: skip
    return "\r\n".join(head).encode("latin-1")


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"

SMUGGLING: dict[str, bytes] = {
    "both lengths": headed("Content-Length: 5", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n" + HIDDEN,
    "both, reversed": headed("Transfer-Encoding: chunked", "Content-Length: 5")
    + b"0\r\n\r\n" + HIDDEN,
    "two lengths": headed("Content-Length: 0", "Content-Length: 12") + BODY + HIDDEN,
    "two equal lengths": headed("Content-Length: 12", "Content-Length: 12") + BODY,
    "list of lengths": headed("Content-Length: 12, 12") + BODY,
    "plus": headed("Content-Length: +12") + BODY,
    "minus": headed("Content-Length: -12") + BODY,
    "hexadecimal": headed("Content-Length: 0xc") + BODY,
    "underscore": headed("Content-Length: 1_2") + BODY,
    "empty length": headed("Content-Length:") + HIDDEN,
    "words": headed("Content-Length: 12 12") + BODY,
    "other digits": headed("Content-Length: \xb2") + BODY,
    "too large": headed("Content-Length: 18446744073709551628") + BODY,
    "xchunked": headed("Transfer-Encoding: xchunked") + b"0\r\n\r\n" + HIDDEN,
    "chunked, twice": headed("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "identity": headed("Transfer-Encoding: identity", "Content-Length: 12") + BODY,
    "chunked last not": headed("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "two encodings": headed("Transfer-Encoding: chunked", "Transfer-Encoding: identity")
    + b"0\r\n\r\n" + HIDDEN,
    "empty encoding": headed("Transfer-Encoding:", "Content-Length: 12") + BODY,
    "vertical tab": headed("Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n" + HIDDEN,
    "space before colon": headed("Content-Length : 12") + BODY,
    "tab before colon": headed("Content-Length\t: 12") + BODY,
    "folded": headed("X: a", " Content-Length: 12", "Content-Length: 0") + HIDDEN,
    "folded length": headed("Content-Length:", " 12") + BODY,
    "space first": headed(" Content-Length: 12") + BODY,
    "bare lf": headed("X: a\nContent-Length: 12") + BODY,
    "bare cr": headed("X: a\rContent-Length: 12") + BODY,
    "nul": headed("X: a\0b", "Content-Length: 12") + BODY,
    "no colon": headed("Content-Length", "X: 12") + BODY,
    "no name": headed(": 12") + BODY,
    "odd name": headed("Content-Length\x80: 12") + BODY,
    "bare lf all along": headed("Content-Length: 12").replace(b"\r\n", b"\n") + BODY,
    "two hosts": headed("Host: evil.example", "Content-Length: 12") + BODY,
    "no host": headed("Content-Length: 12").replace(b"Host: localhost\r\n", b"") + BODY,
    "chunk size 0x3": headed("Transfer-Encoding: chunked") + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size -1": headed("Transfer-Encoding: chunked") + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk size huge": headed("Transfer-Encoding: chunked") + b"f" * 17 + b"\r\nabc",
    "lf in an extension": headed("Transfer-Encoding: chunked")
    + b"c;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk without crlf": headed("Transfer-Encoding: chunked") + b"c\n" + BODY + b"\n0\n\n",
    "chunk longer than said": headed("Transfer-Encoding: chunked") + b"3\r\n" + BODY,
    "absolute target": headed("Content-Length: 12").replace(b" /", b" http://localhost/")
    + BODY,
    "length with a comma": headed("Content-Length: 12,") + BODY,
    "length with a fraction": headed("Content-Length: 12.0") + BODY,
    "length in octal": headed("Content-Length: 0o14") + BODY,
    "length with a vertical tab": headed("Content-Length: 12\x0b") + BODY,
    "length with a nul": headed("Content-Length: 12\0") + BODY,
    "length in quotes": headed('Content-Length: "12"') + BODY,
    "two lengths in two cases": headed("Content-Length: 12", "CONTENT-LENGTH: 0") + BODY,
    "nul in the encoding": headed("Transfer-Encoding: chunked\0") + b"0\r\n\r\n",
    "encoding in quotes": headed('Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
    "encoding with a parameter": headed("Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n",
    "comma before the encoding": headed("Transfer-Encoding: , chunked") + b"0\r\n\r\n",
    "gzip, chunked": headed("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "encoding, folded": headed("Transfer-Encoding:", " chunked") + b"0\r\n\r\n",
    "space before the colon of the encoding": headed("Transfer-Encoding : chunked")
    + b"0\r\n\r\n",
    "chunk size +c": headed("Transfer-Encoding: chunked") + b"+c\r\n" + BODY + LAST,
    "chunk size c_": headed("Transfer-Encoding: chunked") + b"c_\r\n" + BODY + LAST,
    "chunk size empty": headed("Transfer-Encoding: chunked") + b"\r\n" + BODY + LAST,
    "chunk size in other digits": headed("Transfer-Encoding: chunked")
    + b"\xd9\xa1\r\n" + BODY + LAST,
    "chunk size with a space first": headed("Transfer-Encoding: chunked")
    + b" c\r\n" + BODY + LAST,
    "chunk size of 2^64 + 12": headed("Transfer-Encoding: chunked")
    + b"1000000000000000c\r\n" + BODY + LAST,
    "nul in an extension": headed("Transfer-Encoding: chunked")
    + b"c;a=\0\r\n" + BODY + LAST,
    "cr after the size": headed("Transfer-Encoding: chunked") + b"c\r" + BODY + LAST,
    "cr cr lf after the size": headed("Transfer-Encoding: chunked")
    + b"c\r\r\n" + BODY + LAST,
    "last chunk with bare lf": headed("Transfer-Encoding: chunked")
    + b"c\r\n" + BODY + b"\r\n0\n\n",
    "cr cr lf lf": headed("Content-Length: 12").replace(b"\r\n\r\n", b"\r\r\n\n") + BODY,
    "cr alone ends the head": headed("Content-Length: 12").replace(b"\r\n\r\n", b"\r\r")
    + BODY,
    "space in the name": headed("Content Length: 12") + BODY,
    "nul in the name": headed("Content-Length\0: 12") + BODY,
    "quote in the name": headed('"Content-Length": 12') + BODY,
    "form feed for a blank": headed("Content-Length:\x0c12") + BODY,
    "host with a path": headed("Host: localhost/x", "Content-Length: 12") + BODY,
    "http/1.1 in lower case": b"GET /health/live http/1.1\r\nHost: localhost\r\n\r\n",
    "http/01.1": b"GET /health/live HTTP/01.1\r\nHost: localhost\r\n\r\n",
    "http/1.1 and more": b"GET /health/live HTTP/1.1x\r\nHost: localhost\r\n\r\n",
    "tabs in the request line": b"GET\t/health/live\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
    "vertical tab in the line": b"GET /health/live\x0bHTTP/1.1\r\nHost: localhost\r\n\r\n",
    "space before the method": b" GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "target without a slash": b"GET health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "userinfo in the target": request("GET", "http://a@localhost/"),
    "a space before the first line": request("GET", "/", None, host=" localhost").replace(
        b"Host:", b" Host:"
    ),
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/2.0": request("GET", "/health/live", version="2.0"),
    "http/0.9": request("GET", "/health/live", version="0.9"),
    "http/1.10": request("GET", "/health/live", version="1.10"),
    "no version": b"GET /health/live\r\n\r\n",
    "two spaces in the version": b"GET /health/live HTTP/1.1 x\r\nHost: localhost\r\n\r\n",
    "lower case": b"get /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "rtsp": b"GET /health/live RTSP/1.0\r\nHost: localhost\r\n\r\n",
    "connect": request("CONNECT", "localhost:80"),
    "control in the target": b"GET /health\x01/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
}  # fmt: skip


# Where the same was somebody's fault before.
CVES = {
    "bare cr": "CVE-2023-37276",
    "nul": "CVE-2023-47627",
    "other digits": "CVE-2023-47627",
    "both lengths": "CVE-2023-47641",
    "both, reversed": "CVE-2023-47641",
    "two spaces in the version": "CVE-2024-23829",
    "space before colon": "CVE-2024-23829",
    "lf in an extension": "CVE-2024-52304",
    "chunk size in other digits": "CVE-2025-69224",
    "two hosts": "CVE-2026-34525",
}


def by_cve(name: object) -> str | None:
    return f"{CVES[name]} {name}" if name in CVES else None  # type: ignore[index]


@pytest.mark.parametrize("before", [b"", LIVE, with_trailer(LIVE)], ids=["first", *LANES])
@pytest.mark.parametrize("name", SMUGGLING, ids=by_cve)
async def test_one_request_is_one_answer(server: Server, name: str, before: bytes) -> None:
    """A request of doubtful length is refused, and nothing behind it is looked at."""
    async with await connect(server.port) as wire:
        if before:
            await wire.send(before)
            assert (await wire.answer()).status == 200
        await wire.send(SMUGGLING[name] + HIDDEN)
        answer = await wire.answer()
        assert answer.status in (400, 405, 413, 431, 505), answer
        assert answer.value.keys() == {"error", "cause"}
        assert answer.closes
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("lines", "blank"),
    [
        (("Content-Length: 0012",), b""),
        (("Content-Length: 12 \t",), b""),
        (("Content-Length:12",), b""),
        (("content-LENGTH:\t 12",), b""),
        (("Content-Length: 12",), b"\r\n"),
    ],
)
async def test_odd_but_valid_lengths(
    server: Server, lines: tuple[str, ...], blank: bytes
) -> None:
    """Both lanes find the same end of the body."""
    for lane in LANES.values():
        async with await connect(server.port) as wire:
            await wire.send(lane(headed(*lines) + BODY) + blank + LIVE)
            assert (await wire.answer()).status == 200
            assert (await wire.answer()).value["status"] == "live"


@pytest.mark.parametrize("name", SMUGGLING, ids=by_cve)
async def test_the_admin_port_is_as_strict(server: Server, name: str) -> None:
    """With the right token, and with a request of the admin port's own hidden behind."""
    token = authorization(server).encode()
    hidden = (
        b"POST /admin/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        b"\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % token
    )
    data = SMUGGLING[name].replace(HIDDEN, hidden)
    data = data.replace(b"POST /json/predict", b"POST /admin/get_all_models")
    data = data.replace(b"/health/live", b"/admin/ping")
    first, end, rest = data.partition(b"\r\n")
    async with await connect(server.admin_port) as wire:
        await wire.send(first + end + token + end + rest + hidden)
        answer = await wire.answer()
        assert answer.status in (400, 401, 403, 405, 413, 431, 505), answer
        assert answer.closes or answer.status == 405
        if answer.closes:
            assert await wire.rest() == b""
    assert not server.stopping.is_set()


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(
    "line",
    ["Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings",
     "Connection: Content-Length", "Range: bytes=0-1", "Expect: 200-ok",
     "X-HTTP-Method-Override: DELETE", "X-Original-URL: /admin/drain",
     "Content_Length: 3", "X-Forwarded-Host: evil.example", "Max-Forwards: 0"],
)  # fmt: skip
async def test_lines_that_could_change_the_way_change_nothing(
    server: Server, lane: str, line: str
) -> None:
    """Two requests, two answers, in order; a refusal ends the connection instead."""
    more = (line, "Connection: Upgrade") if line.startswith("Upgrade") else (line,)
    async with await connect(server.port) as wire:
        await wire.send(LANES[lane](predict("json", BODY, *more)) + LIVE)
        answer = await wire.answer()
        assert answer.status in (200, 400, 417), answer
        assert answer.status != 200 or answer.value["output"] == -1
        if answer.closes:
            assert await wire.rest() == b""
        else:
            assert answer.status == 200
            assert (await wire.answer()).value["status"] == "live"


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_as_many_answers_as_requests(server: Server, count: int) -> None:
    """In both lanes, pipelined, cut anywhere: as many answers as requests, in order."""
    one = [LIVE, predict("json", BODY), chunked(predict("json", BODY)),
           with_trailer(LIVE), expecting(predict("json", BODY)), request("GET", "/none"),
           request("HEAD", "/json")]  # fmt: skip
    expected = [b'"live"', b'"output":-1', b'"output":-1', b'"live"', b'"output":-1',
                b"not_found", b""]  # fmt: skip
    data = b"".join(one) * count
    for size in (1, 7, 1000, len(data)):
        if len(data) / size > 5000:
            continue
        async with await connect(server.port) as wire:
            for start in range(0, len(data), size):
                await wire.send(data[start : start + size])
            for text in expected * count:
                answer = await wire.answer(head_only=text == b"")
                assert text in answer.body
            wire.writer.write_eof()
            assert await wire.rest() == b""


async def test_cve_2025_53643_trailers_are_no_request(server: Server) -> None:
    """What stands behind the last chunk belongs to the request before it."""
    trailers = b"X: 1\r\nContent-Length: 40\r\nGET /hidden HTTP/1.1: 1\r\n\r\n"
    data = chunked(predict("json", BODY)).removesuffix(b"\r\n")
    for section, statuses in ((b"X: 1\r\nY: 2\r\n\r\n", {200}), (trailers, {200, 400})):
        async with await connect(server.port) as wire:
            await wire.send(data + section + LIVE)
            answer = await wire.answer()
            assert answer.status in statuses
            if answer.status == 200:
                following = await wire.answer()
                assert b"hidden" not in following.body
                assert following.status in (200, 400)
            else:
                assert answer.closes and await wire.rest() == b""


async def test_nothing_behind_a_close_is_looked_at(server: Server) -> None:
    for lane in LANES.values():
        async with await connect(server.port) as wire:
            await wire.send(lane(predict("json", BODY, "Connection: close")) + LIVE)
            answer = await wire.answer()
            # a parser may take it for an error that something comes behind
            assert answer.status in (200, 400) and answer.closes
            assert await wire.rest() == b""
