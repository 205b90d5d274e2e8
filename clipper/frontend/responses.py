"""The answers of the aiohttp lane: errors in the same words, and with the same headers, as
those of the hot lane."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from clipper.errors import (
    ClipperError,
    HeadersTooLarge,
    HTTPVersionNotSupported,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from clipper.frontend.answers import error_answer
from clipper.frontend.gate import error_headers

SAFE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

# After these it is not sure where the next request would begin.
_DOUBTFUL = (
    HeadersTooLarge,
    HTTPVersionNotSupported,
    MalformedRequest,
    PayloadTooLarge,
)


class Unnamed(web.Response):
    """An answer to what was no request, where the application's hooks do not run: it
    does not name the software by itself."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop("Server", None)


def error_response(error: ClipperError) -> web.Response:
    return json_response(error.status, error_answer(error), error_headers(error))


def json_response(
    status: int, body: bytes, headers: dict[str, str] | None = None
) -> web.Response:
    """A response as the hot lane would write it."""
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={**(headers or {}), **SAFE_HEADERS},
    )


def translated(error: web.HTTPException) -> ClipperError:
    """aiohttp's refusals as ours."""
    match error:
        case web.HTTPNotFound():
            return NotFound("there is no such route")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(f"this route takes {allowed}")
        case web.HTTPRequestEntityTooLarge():
            return PayloadTooLarge("the body is too large")
        case _:
            return MalformedRequest("the server cannot do what this request asks for")


def refusal(request: web.BaseRequest, error: ClipperError) -> web.Response:
    """An error as an answer. The connection ends where what follows is in doubt, or is
    the rest of a body that nobody wants."""
    response = error_response(error)
    if error.status == 405:
        response.headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    if isinstance(error, _DOUBTFUL) or not request.content.at_eof():
        response.force_close()
    return response


def _allowed_methods(request: web.BaseRequest) -> Iterable[str]:
    """The methods of the route, also where the gate refused before it was looked for."""
    found = request.match_info.http_exception if isinstance(request, web.Request) else None
    if isinstance(found, web.HTTPMethodNotAllowed):
        return found.allowed_methods
    return ("GET", "HEAD", "POST")
