"""The gate that every request of both ports and both lanes passes, default deny.

Deploying is running code and feedback steers what users see, so a web page in somebody's
browser must reach neither. Each rule names what it is against; the order is cheap first.
A decision depends on nothing but the request head and the settings.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from clipper.config import Settings
from clipper.errors import (
    ClipperError,
    Forbidden,
    HTTPVersionNotSupported,
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedRequest,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)

JSON = "application/json"
MSGPACK = "application/msgpack"
NPY = "application/x-npy"
MULTIPART = "multipart/form-data"

# Headers that decide something: twice means that somebody along the way may have read
# the other one. The second line decides nothing here; aiohttp refuses those twice, and
# both lanes must agree.
_SINGLE = frozenset(
    b"authorization content-encoding content-length content-type host origin "
    b"content-location content-range etag max-forwards server user-agent "
    b"sec-fetch-site transfer-encoding".split()
)
_METHODS = frozenset({"GET", "HEAD", "POST"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Probes and scrapers name hosts as they like; whole paths, since `/health/../x` is none.
_PUBLIC = frozenset({"/health/live", "/health/ready", "/metrics"})

# The most header lines of a request, and the bytes of its line or of one header.
MAX_HEADERS = 64
MAX_LINE = 8190
HEAD_TOO_LARGE = "the request line and the headers are too large"


# Header lines of every answer of the hot lane.
COMMON = (
    b"Content-Type: application/json\r\n"
    b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
)


class Head(NamedTuple):
    """A request line and its headers, as both lanes see them."""

    method: str
    target: str
    version: tuple[int, int]
    headers: dict[bytes, bytes]  # by lower-case name
    repeated: bool = False  # a header of _SINGLE came twice

    def get(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


def make_head(
    method: str,
    target: str,
    version: tuple[int, int],
    headers: Iterable[tuple[bytes, bytes]],
) -> Head:
    """A head from header lines in the order they came."""
    found: dict[bytes, bytes] = {}
    repeated = False
    for raw, value in headers:
        name = raw.lower()
        repeated = repeated or (name in found and name in _SINGLE)
        found[name] = value.rstrip(b" \t")
    return Head(method, target, version, found, repeated)


class Gate:
    """Admits requests for one port."""

    def __init__(self, settings: Settings, token: str, *, admin: bool) -> None:
        self._hosts = _LOOPBACK | {_bare_host(name) for name in settings.allowed_hosts}
        self._origins = frozenset(origin.rstrip("/") for origin in settings.allowed_origins)
        self._token = token.encode()
        self._admin = admin
        self._needs_token = settings.auth if admin else settings.require_token
        # All mutable state: refusals for want of a right token, counted by whoever
        # answers them, since a request may be looked at twice.
        self.unauthorized = 0

    def admit(self, head: Head) -> None:
        """Raise the ClipperError for a request that must not come in."""
        if head.version not in ((1, 1), (1, 0)):
            raise HTTPVersionNotSupported("HTTP/1.1 is spoken here")
        if not head.target.startswith("/"):
            raise MalformedRequest("the request target must be a path")
        if head.repeated:
            raise MalformedRequest("a header that may come once came twice")
        if not _has_plain_framing(head):
            raise MalformedRequest("the length of the body is not said clearly")
        if b"host" not in head.headers and head.version == (1, 1):
            raise MalformedRequest("the Host header is missing")
        public = not self._admin and _path(head.target) in _PUBLIC
        if not public:
            self._check_host(head)
        self._check_origin(head)
        if head.method not in _METHODS:
            if head.method == "OPTIONS":
                raise Forbidden("requests from other origins are not allowed")
            raise MethodNotAllowed(f"use GET or POST, not {head.method[:20]}")
        if self._needs_token and not public:
            self._check_token(head)

    def check_body(self, head: Head, media_types: tuple[str, ...], limit: int) -> str:
        """The media type of a request with a body; raises 415 or 413 before it is read."""
        if b"content-encoding" in head.headers:
            raise UnsupportedMediaType("Content-Encoding is not supported; send it plain")
        media = self._media_type(head)
        if media not in media_types:
            raise UnsupportedMediaType(f"Content-Type must be {' or '.join(media_types)}")
        length = head.get(b"content-length")
        if length is not None and int(length) > limit:
            raise PayloadTooLarge(f"the body may have at most {limit} bytes")
        return media

    def _media_type(self, head: Head) -> str:
        value = head.get(b"content-type") or ""
        media, _, parameters = value.partition(";")
        media = media.strip().lower()
        if media == MULTIPART:
            return media
        for parameter in parameters.split(";"):
            name, _, text = parameter.partition("=")
            if not parameter.strip():
                continue
            charset = text.strip().strip('"').lower()
            if name.strip().lower() != "charset" or charset not in ("utf-8", "utf8"):
                raise UnsupportedMediaType("the only charset is utf-8")
        return media

    def _check_host(self, head: Head) -> None:
        # DNS rebinding: a name that somebody else owns, resolved to this machine.
        host = head.get(b"host")
        if host is None:  # HTTP/1.0, which no browser speaks
            return
        if _bare_host(host) not in self._hosts:
            raise MisdirectedRequest(
                "this host name is not served; name it in --allowed-hosts to allow it"
            )

    def _check_origin(self, head: Head) -> None:
        # Cross-site requests: what browsers say of themselves, never the User-Agent.
        site = head.get(b"sec-fetch-site")
        origin = head.get(b"origin")
        if origin is not None and origin.rstrip("/") in self._origins:
            return
        if site is not None and site not in ("same-origin", "none"):
            raise Forbidden("requests from other sites are not allowed")
        if origin is not None and origin not in (
            f"http://{head.get(b'host')}",
            f"https://{head.get(b'host')}",
        ):
            raise Forbidden("requests from other origins are not allowed")

    def _check_token(self, head: Head) -> None:
        scheme, _, given = (head.get(b"authorization") or "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Unauthorized(
                "send the header 'Authorization: Bearer TOKEN' with the token from the "
                "file admin-token of the server's data directory"
            )


def _has_plain_framing(head: Head) -> bool:
    """Whether nobody along the way can have seen another end of the body."""
    encoding = head.headers.get(b"transfer-encoding")
    return encoding is None or (
        encoding.lower() == b"chunked"
        and b"content-length" not in head.headers
        and head.version == (1, 1)
    )


def _path(target: str) -> str:
    return target.partition("?")[0].removesuffix("/")


def _bare_host(value: str) -> str:
    """The host without its port, in lower case; IPv6 addresses have brackets."""
    value = value.strip().lower()
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    if value.count(":") > 1:  # an address as one may write it in a setting
        return f"[{value}]"
    return value.partition(":")[0]


def error_headers(error: ClipperError) -> dict[str, str]:
    """Headers that belong to an error answer."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def message(status: int, body: bytes, headers: dict[str, str], close: bool) -> bytes:
    """A whole answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"HTTP/1.1 %d %b\r\n%b%b%bContent-Length: %d\r\n\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        COMMON,
        lines.encode(),
        b"Connection: close\r\n" if close else b"",
        len(body),
        body,
    )
