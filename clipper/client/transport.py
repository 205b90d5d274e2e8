"""HTTP to the two ports of one server; errors become the classes of `clipper.errors`."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from clipper.client.address import Address, Endpoints
from clipper.client.bodies import JSON, encode_body, to_json
from clipper.errors import (
    ClipperError,
    ServerUnreachable,
    Unauthorized,
    from_wire,
)

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 60.0  # far beyond any latency objective
_STAGE_SECONDS = 900.0  # the longest step of a deploy, such as making an environment
# Below the time after which a server closes an idle connection, so that a request is
# not sent into a connection which is just being closed.
_KEEPALIVE_SECONDS = 30.0
_CONNECTIONS = 256
_LINE_BYTES = 16 * 1024 * 1024

_QUICK = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_ANSWER_SECONDS)
_PATIENT = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_STAGE_SECONDS)


class Transport:
    """Requests to one server.

    Mutable state: the session, which belongs to one event loop and is made anew in
    another; the endpoints, looked up when first needed and again after a failure;
    whether the query port has asked for the token.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._endpoints: Endpoints | None = None
        self._query_needs_token = False

    @property
    def endpoints(self) -> Endpoints:
        if self._endpoints is None:
            self._endpoints = self.address.resolve()
        return self._endpoints

    def forget(self) -> None:
        """Look the endpoints up again: the server was started, stopped or replaced."""
        self._endpoints = None
        self._query_needs_token = False

    async def close(self) -> None:
        session, self._session, self._loop = self._session, None, None
        if session is not None:
            await session.close()

    async def query(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the query port; the answer's JSON, or its text."""
        url, kind, data = self.endpoints.query + path, None, None
        if body is not None:
            kind, data = encode_body(body)
        if not self._query_needs_token:
            try:
                return await self._exchange(method, url, kind, data, None)
            except Unauthorized:
                if self.endpoints.token is None:
                    raise
                self._query_needs_token = True
        return await self._exchange(method, url, kind, data, self.endpoints.token)

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the admin port; the answer's JSON, or its text."""
        kind, data = (JSON, to_json(body)) if body is not None else (None, None)
        for attempt in (1, 2):
            url, token = self.endpoints.admin + path, self._admin_token()
            try:
                return await self._exchange(method, url, kind, data, token)
            except Unauthorized:
                # Another server may have come to this port, with another token.
                self.forget()
                if attempt == 2 or self._admin_token() == token:
                    raise
        raise AssertionError("unreachable")

    async def stream(
        self, path: str, parts: list[tuple[str, str, bytes]]
    ) -> AsyncIterator[dict[str, Any]]:
        """Send parts (name, media type, content) to the admin port as multipart
        form-data; yields the JSON lines of the answer as they come."""
        url, token = self.endpoints.admin + path, self._admin_token()
        form = aiohttp.MultipartWriter("form-data")
        for name, kind, content in parts:
            part = form.append(io.BytesIO(content), {"Content-Type": kind})
            part.set_content_disposition("form-data", name=name)
        async with self._response("POST", url, None, form, token, _PATIENT) as response:
            async for line in _lines(response):
                yield _decode_line(line)

    async def lines(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The JSON lines that a GET on the admin port answers, as they come."""
        for attempt in (1, 2):
            url, token = self.endpoints.admin + path, self._admin_token()
            try:
                async with self._response(
                    "GET", url, None, None, token, _QUICK
                ) as response:
                    async for line in _lines(response):
                        yield _decode_line(line)
                    return
            except Unauthorized:  # before the first line
                self.forget()
                if attempt == 2 or self._admin_token() == token:
                    raise

    def _admin_token(self) -> str | None:
        return self.address.check_token(self.endpoints.token)

    async def _exchange(
        self, method: str, url: str, kind: str | None, data: Any, token: str | None
    ) -> Any:
        async with self._response(method, url, kind, data, token, _QUICK) as response:
            return _decode(response, await response.read())

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        url: str,
        kind: str | None,
        data: Any,
        token: str | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - per read, not for the whole
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response, if it is no error."""
        headers = {"Content-Type": kind} if kind is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with self._open_session().request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,  # a token goes nowhere else
            ) as response:
                if response.status >= 300:
                    raise _error(response, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._endpoints = None
            raise self._unreachable(url, error) from error

    def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._loop = loop
        return self._session

    def _unreachable(self, url: str, error: Exception) -> ServerUnreachable:
        server = url.split("/", 3)[2]
        if isinstance(error, TimeoutError):
            return ServerUnreachable(f"The server at {server} did not answer in time.")
        if not isinstance(error, (aiohttp.ClientConnectorError, ConnectionRefusedError)):
            return ServerUnreachable(f"The connection to {server} broke: {error}")
        if self.address.is_local:
            advice = "Start one with `clipper serve`, or with start() from Python."
        else:
            advice = "Is it running, and may this machine connect to that port?"
        return ServerUnreachable(f"No Clipper server answers at {server}. {advice}")


# -- answers --------------------------------------------------------------------------


def _decode(response: aiohttp.ClientResponse, data: bytes) -> Any:
    """JSON where it is JSON; the original's admin port labels plain text as JSON too."""
    if response.content_type == JSON or not data:
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError:
            pass
    return data.decode("utf-8", "replace")


def _error(response: aiohttp.ClientResponse, data: bytes) -> ClipperError:
    retry = response.headers.get("Retry-After", "")
    retry_after = int(retry) if retry.isdecimal() else None
    try:
        body = msgspec.json.decode(data)
        return from_wire(body["error"], body["cause"], retry_after)
    except (msgspec.DecodeError, KeyError, TypeError):
        text = data.decode("utf-8", "replace").strip()
        return ClipperError(
            f"{response.url.host}:{response.url.port} answered {response.status} "
            f"{response.reason}, which is no answer of Clipper: {text:.200}"
        )


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    pending = b""
    async for chunk in response.content.iter_any():
        *complete, pending = (pending + chunk).split(b"\n")
        for line in complete:
            yield line
        if len(pending) > _LINE_BYTES:
            raise ClipperError("the server sent a line without an end")
    if pending:
        yield pending


def _decode_line(line: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line or b"{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise ClipperError(f"the server sent no JSON line: {line[:200]!r}") from None
    if "error" in value:
        raise from_wire(str(value["error"]), str(value.get("cause", "")))
    return value
