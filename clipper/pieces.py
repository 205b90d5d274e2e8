"""Pieces of feedback from Python code, checked as those of a request are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from clipper.errors import InvalidInput
from clipper.feedback import Item
from clipper.inputs import InputType, check_depth, encode_python
from clipper.values import check_uid

MOST_ID = 128  # characters of a query id or of a feedback id

FIELDS = ("query_id", "label", "reward", "uid", "input", "context", "feedback_id")


def make_item(kind: InputType, fields: Mapping[str, Any]) -> Item:
    """A piece of feedback for an application of type `kind`. A field that is missing or
    UNSET was not given; of the others but `label` and `input` None says the same. Raises
    InvalidInput."""
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
            check_depth(nested, name)
    return Item(
        query_id,
        label,
        reward,
        check_uid(fields.get("uid")),
        None if value is UNSET else encode_python(kind, value),
        context,
        _id("feedback_id", fields.get("feedback_id")),
    )


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
