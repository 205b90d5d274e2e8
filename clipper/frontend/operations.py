"""Operations of the admin port: a JSON body in, text or JSON out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from clipper.config import Limits
from clipper.errors import InvalidInput
from clipper.frontend.bodies import read_body
from clipper.frontend.decoding import plain_words
from clipper.frontend.gate import JSON, Gate
from clipper.frontend.responses import SAFE_HEADERS, json_response
from clipper.frontend.web import HEAD, Handler

Body = TypeVar("Body")

# The name of a POST, the struct that its body is decoded to, and what does it.
Operation = tuple[str, type[Any], Callable[[Any], Awaitable[Any]]]


class Operations:
    """Turns functions of a decoded body into handlers."""

    def __init__(self, gate: Gate, limits: Limits) -> None:
        self._gate = gate
        self._limits = limits

    def handler(self, kind: type[Body], work: Callable[[Body], Awaitable[Any]]) -> Handler:
        """A handler that reads a body of `kind` and answers what `work` returns: a str
        as text, a response as it is, anything else as JSON."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self._gate.check_body(request[HEAD], (JSON,), self._limits.body)
            body = await read_body(request, self._limits.body, self._limits.body_seconds)
            answer = await work(decode_json(body, kind))
            if isinstance(answer, web.StreamResponse):
                return answer
            if isinstance(answer, str):
                return text_response(answer)
            return json_response(200, msgspec.json.encode(answer))

        return handle


def decode_json(body: bytes, kind: type[Body]) -> Body:
    """The value in a JSON body. Raises InvalidInput with the path of the fault."""
    return _decode(msgspec.json.decode, body, kind)


def decode_msgpack(body: bytes, kind: type[Body]) -> Body:
    """The value in a msgpack body. Raises InvalidInput with the path of the fault."""
    return _decode(msgspec.msgpack.decode, body, kind)


def _decode(decode: Any, body: bytes, kind: type[Body]) -> Body:
    try:
        value: Body = decode(body, type=kind)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except UnicodeError:
        raise InvalidInput("the body is not valid UTF-8") from None
    except msgspec.ValidationError as error:
        raise InvalidInput(plain_words(str(error))) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is malformed: {plain_words(str(error))}") from None
    return value


def text_response(text: str) -> web.Response:
    return web.Response(
        text=text, content_type="text/plain", charset="utf-8", headers=SAFE_HEADERS
    )


def add_route(
    application: web.Application, method: str, path: str, handler: Handler
) -> None:
    """A route with and without a trailing slash. A GET answers HEAD as well."""
    for spelling in (path, f"{path}/"):
        if method == "GET":
            application.router.add_get(spelling, handler)
        else:
            application.router.add_route(method, spelling, handler)
