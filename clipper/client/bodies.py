"""Python values as bodies of requests, and answers as Python values."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import msgspec
from msgspec import UNSET

from clipper.errors import ClipperError, InvalidInput, from_wire
from clipper.values import Prediction

JSON, MSGPACK = "application/json", "application/msgpack"


def to_plain(value: Any) -> Any:
    """Arrays, tensors, series and their scalars as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no JSON value")


_json = msgspec.json.Encoder(enc_hook=to_plain)
_msgpack = msgspec.msgpack.Encoder(enc_hook=to_plain)
_ENCODING_ERRORS = (TypeError, ValueError, OverflowError, RecursionError)


def to_json(body: Any) -> bytes:
    try:
        return _json.encode(body)
    except _ENCODING_ERRORS as error:
        raise InvalidInput(f"This cannot be sent as JSON: {error}") from None


def encode_body(body: Any) -> tuple[str, bytes]:
    """The media type and the bytes of a body for the query port."""
    data = to_json(body)
    # JSON has no NaN and no infinity, they came out as null; msgpack has them.
    if b"null" in data:
        try:
            return MSGPACK, _msgpack.encode(body)
        except _ENCODING_ERRORS as error:
            raise InvalidInput(f"This cannot be sent: {error}") from None
    return JSON, data


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given: those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def version_text(version: int | str | None) -> str | None:
    """A version as the server names it: 1 and "1" are one."""
    return None if version is None else str(version)


def default_text(value: Any) -> str | None:
    """A default output as the server keeps it: JSON text, or any other string."""
    return value if value is None or isinstance(value, str) else to_json(value).decode()


def query_fields(
    uid: int | str | None,
    context: Any,
    version: int | str | None,
    deadline_ms: float | None,
    cache: bool,
) -> dict[str, Any]:
    """The fields of a query beside its input."""
    return given(
        uid=uid,
        context=context,
        version=version_text(version),
        deadline_ms=deadline_ms,
        cache=None if cache else False,
    )


def feedback_fields(
    query_id: str | None = None,
    label: Any = UNSET,
    reward: float | None = None,
    uid: int | str | None = None,
    input: Any = UNSET,
    context: Any = None,
    feedback_id: str | None = None,
) -> dict[str, Any]:
    """One piece of feedback. A label or an input of None is null."""
    fields = given(
        query_id=query_id,
        reward=reward,
        uid=uid,
        context=context,
        feedback_id=feedback_id,
    )
    for name, value in (("label", label), ("input", input)):
        if value is not UNSET:
            fields[name] = value
    return fields


def piece_fields(piece: Mapping[str, Any]) -> dict[str, Any]:
    """One of several pieces of feedback, given as a mapping."""
    try:
        return feedback_fields(**piece)
    except TypeError as error:
        names = ", ".join(signature(feedback_fields).parameters)
        raise InvalidInput(
            f"a piece of feedback is a mapping with some of {names}, not {piece!r:.100}"
        ) from error


def may_repeat(fields: Mapping[str, Any]) -> bool:
    """Whether feedback that may have been taken can be sent again without counting
    twice."""
    return bool(fields.get("query_id") or fields.get("feedback_id"))


def outcome_of(answer: dict[str, Any]) -> bool | ClipperError:
    """Whether feedback was a duplicate, or why it was refused."""
    if "error" in answer:
        return from_wire(answer["error"], answer.get("cause", ""))
    return bool(answer["duplicate"])


def prediction_of(answer: dict[str, Any]) -> Prediction:
    return Prediction(
        query_id=answer["query_id"],
        output=answer["output"],
        default=answer["default"],
        default_explanation=answer.get("default_explanation"),
        model=answer.get("model"),
        confidence=answer.get("confidence"),
        missing=answer.get("missing", []),
    )


def prediction_or_error(answer: dict[str, Any]) -> Prediction | ClipperError:
    if "error" in answer:
        return from_wire(answer["error"], answer.get("cause", ""))
    return prediction_of(answer)
