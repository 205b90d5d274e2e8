"""Request heads that the hot lane takes, parsed once and remembered by their bytes.

A head says the same every time its bytes are the same, and a keep-alive client sends the
same ones again and again: the outcome of parsing and of the gate is kept under the exact
bytes of the head. Only heads that passed are kept, so a refusal is never a memory.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools

from clipper.errors import ClipperError
from clipper.frontend.gate import (
    JSON,
    MAX_HEADERS,
    MAX_LINE,
    MSGPACK,
    NPY,
    Gate,
    make_head,
)
from clipper.frontend.newest import Newest

_ASK = re.compile(r"/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/(predict|update)/?(?:\?([!-~]*))?")
_GET = re.compile(r"/[A-Za-z0-9._/-]{0,80}")

# Heads past this size, or past this many, are parsed anew each time.
_REMEMBERED_SIZE = 2048
_REMEMBERED = 4096

PREDICT_MEDIA = (JSON, MSGPACK, NPY)
UPDATE_MEDIA = (JSON, MSGPACK)


class Plan(NamedTuple):
    """What to do once the body is there. `media` is None for a GET of `path`."""

    path: str  # the application's name for a prediction or feedback
    media: str | None
    parameters: str
    length: int  # of the body, in bytes
    close: bool  # the client asked to close after the answer
    update: bool = False  # it is feedback


class Heads:
    """Turns the bytes of request heads into plans."""

    def __init__(self, gate: Gate, body_limit: int, head_limit: int = MAX_LINE) -> None:
        self._gate = gate
        self._body_limit = body_limit
        # within this bound and MAX_HEADERS the other lane would take a head as well
        self._head_limit = min(head_limit, MAX_LINE)
        # All mutable state: plans by the bytes of their heads, and which are the newest.
        self.plans: dict[bytes, Plan] = {}
        self._newest = Newest(_REMEMBERED)

    def plan(self, head: bytes) -> Plan | None:
        """The plan for a complete head, or None for one that the hot lane leaves to
        the other: unusual, wrong, or not admitted."""
        plan = self.plans.get(head)
        if plan is None:
            plan = self._parse(head)
            if plan is not None and len(head) <= _REMEMBERED_SIZE:
                self._newest.add(self.plans, head, plan)
        return plan

    def _parse(self, raw: bytes) -> Plan | None:
        parsed = _Parsed()
        parser = httptools.HttpRequestParser(parsed)
        try:
            parser.feed_data(raw)
            target = parsed.url.decode("ascii")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeError):
            return None
        if not parsed.complete or parser.get_http_version() != "1.1":
            return None
        if len(raw) > self._head_limit or len(parsed.headers) > MAX_HEADERS:
            return None
        method = parser.get_method().decode("ascii")
        head = make_head(method, target, (1, 1), parsed.headers)
        options = {
            value.strip().lower()
            for name, value in parsed.headers
            if name.lower() == b"connection"
        }
        if head.headers.keys() & _UNUSUAL or not options <= _PLAIN_CONNECTION:
            return None
        # not from the parser, which forgets it at the end of a request without a body
        close = b"close" in options
        try:
            self._gate.admit(head)
            if method == "GET" and _GET.fullmatch(target) and not _has_body(head.headers):
                return Plan(target, None, "", 0, close)
            match = _ASK.fullmatch(target)
            if method != "POST" or match is None:
                return None
            length = head.headers.get(b"content-length")
            if length is None or not length.isdigit() or len(length) > 12:
                return None
            update = match[2] == "update"
            allowed = UPDATE_MEDIA if update else PREDICT_MEDIA
            media = self._gate.check_body(head, allowed, self._body_limit)
        except ClipperError:
            return None
        return Plan(match[1], media, match[3] or "", int(length), close, update)


_UNUSUAL = {b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"}
_PLAIN_CONNECTION = {b"keep-alive", b"close"}


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0"


class _Parsed:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True
