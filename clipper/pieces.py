"""Pieces of feedback: what one may say, and how Python code says it, which is checked as
a request is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.inputs import InputType, Row, check_depth, encode_json, encode_python
from clipper.values import check_uid, plain

# Bytes of one entry in the log of feedback. A label or a context is a part of one, so that
# none has a reason to be larger; as JSON or msgpack, whichever it came in.
LARGEST = 64 * 1024

MOST_ID = 128  # characters of a query id or of a feedback id

FIELDS = ("query_id", "label", "reward", "uid", "input", "context", "feedback_id")


class Item(NamedTuple):
    """One piece of feedback: on a query by its id, or on an input. `label` is UNSET where
    a reward was given, `reward` None where a label was."""

    query_id: str | None = None
    label: Any = UNSET
    reward: float | None = None
    uid: str | None = None
    row: Row | None = None
    context: Any = None
    feedback_id: str | None = None


def check_size(size: int, path: str) -> None:
    """Refuse a label or a context of more bytes than the log takes."""
    if size > LARGEST:
        raise PayloadTooLarge(
            f"Expected at most {LARGEST} bytes, what the log takes, got {size} at {path}"
        )


def make_item(kind: InputType, fields: Mapping[str, Any]) -> Item:
    """A piece of feedback for an application of type `kind`. A field that is missing or
    UNSET was not given; of the others but `label` and `input` None says the same. Raises
    InvalidInput, or PayloadTooLarge."""
    if not isinstance(fields, Mapping):
        raise InvalidInput("a piece of feedback must be a mapping")
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise InvalidInput(
            f"feedback has no field {unknown[0]!r:.60}; there are {', '.join(FIELDS)}"
        )
    label, value = _plain(fields.get("label", UNSET)), fields.get("input", UNSET)
    reward, context = _reward(fields.get("reward")), _plain(fields.get("context"))
    query_id = _id("query_id", fields.get("query_id"))
    if (label is UNSET) is (reward is None):
        raise InvalidInput("Expected either label or reward")
    if query_id is None and value is UNSET:
        raise InvalidInput("Expected a query_id, or an input with its label")
    for name, nested in (("label", label), ("context", context)):
        if isinstance(nested, (list, dict)):
            _check_nested(nested, name)
    return Item(
        query_id,
        label,
        reward,
        check_uid(fields.get("uid")),
        None if value is UNSET else encode_python(kind, value),
        make_context(context),
        _id("feedback_id", fields.get("feedback_id")),
    )


def make_context(context: Any) -> Any:
    """A query's context from Python code. Raises InvalidInput for one that JSON cannot
    say."""
    if context is None:
        return None
    check_depth(context, "context")
    try:
        context = plain(context)
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("Expected what JSON can say at context") from None
    encode_json(context, "context")
    return context


def _check_nested(value: Any, path: str) -> None:
    """Its size first: to look at every part of what is huge would hold the loop."""
    try:
        size = len(msgspec.json.encode(value))
    except (RecursionError, TypeError, ValueError, OverflowError):
        pass  # too deep, as is said next, or nothing that JSON can say, as the loss says
    else:
        check_size(size, path)
    check_depth(value, path)


def _plain(value: Any) -> Any:
    """Arrays and their scalars as lists and numbers, tuples as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _reward(reward: Any) -> float | None:
    reward = _plain(reward)
    if reward is None:
        return None
    if isinstance(reward, bool) or not isinstance(reward, (int, float)):
        raise InvalidInput("Expected a number at reward")
    if not (math.isfinite(reward) and 0 <= reward <= 1):
        raise InvalidInput(f"Expected a number from 0 to 1 at reward, got {reward}")
    return float(reward)


def _id(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_ID:
        raise InvalidInput(f"Expected a string of 1 to {MOST_ID} characters at {name}")
    return value
