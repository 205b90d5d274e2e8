"""What schemathesis must be told to speak this server's media types. It imports this file
by itself, as SCHEMATHESIS_HOOKS says."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import numpy as np
import schemathesis
from hypothesis.extra import numpy as arrays


def _written(value: Any) -> Any:
    """The value as people write it: a number without a fraction as an integer, since for
    JSON Schema they are one and for decoders that keep types they are not."""
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_written(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _packable(value: Any) -> Any:
    """The value without what msgpack cannot say: longer integers, and half characters."""
    if isinstance(value, dict):
        return {_packable(str(key)): _packable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_packable(each) for each in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value


@schemathesis.serializer("application/json")
def as_json(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(_written(value)).encode()


@schemathesis.serializer("application/msgpack")
def as_msgpack(context: Any, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    value = _packable(_written(value))
    if isinstance(value, dict) and isinstance(value.get("function"), str):
        value["function"] = value["function"].encode()  # which JSON has as base64
    return msgspec.msgpack.encode(value)


@schemathesis.serializer("application/x-npy")
def as_npy(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """The parts of a deploy in the order that its description asks for. Here and not where
    a body is made, for not every phase asks the hooks of that."""
    body = case.body
    if isinstance(body, dict) and body.keys() >= {"manifest", "function"}:
        body["function"] = body.pop("function")


def _saved(values: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


# of 16 bits: they fit every numeric type
schemathesis.openapi.media_type(
    "application/x-npy",
    arrays.arrays(np.int16, arrays.array_shapes(max_dims=3, max_side=4)).map(_saved),
)
