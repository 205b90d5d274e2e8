from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.errors import (
    ClipperError,
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    Unavailable,
)
from clipper.records import ApplicationRecord
from clipper.rendering import MOST_TAILS, Rendering, error_class, render_string
from clipper.values import RowError


def rendering(**fields: Any) -> Rendering:
    fields = {"input_type": "doubles", "slo_micros": 1000, **fields}
    return Rendering(ApplicationRecord("app", 1, **fields))


@pytest.mark.parametrize(
    ("kind", "parse", "output", "expected"),
    [
        ("doubles", True, b"[1]", [1]),
        ("doubles", True, " 6.6 ", 6.6),
        ("doubles", True, '{"a":1}', {"a": 1}),
        ("doubles", False, "6.6", "6.6"),
        ("json", True, "6.6", "6.6"),  # a string that a json function meant
        ("json", True, b'"6.6"', "6.6"),
    ],
)
def test_an_output_as_text_and_value(
    kind: str, parse: bool, output: Any, expected: Any
) -> None:
    shown = rendering(input_type=kind, parse_output=parse)
    assert shown.value(output) == expected
    assert msgspec.json.decode(shown.text(output)) == expected
    assert shown.answer(output) == (expected, False, None)


@given(st.text())
def test_any_string_is_shown(text: str) -> None:
    for parse in (True, False):
        shown = render_string(text, parse)
        value = msgspec.json.decode(shown)
        if not parse:
            assert value == text


def test_an_output_that_is_too_deep_is_the_fault_of_the_model() -> None:
    with pytest.raises(ModelFailed, match="nested too deeply"):
        rendering().value(b"[" * 5000 + b"]" * 5000)


@pytest.mark.parametrize(
    "text", ["[" * 65 + "]" * 65, "NaN", "[" * 100_000, "{", "", "\ud83d\ude00", "0x1"]
)
def test_what_is_no_json_is_a_string(text: str) -> None:
    text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    assert msgspec.json.decode(render_string(text, True)) == text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("deadline_exceeded", DeadlineExceeded),
        ("no_model", Unavailable),
        ("unavailable", Unavailable),
        ("overloaded", Overloaded),
        ("model_failed", ModelFailed),
        ("anything", ModelFailed),
    ],
)
def test_without_a_default_an_error_is_told(code: str, kind: type[ClipperError]) -> None:
    error = RowError(code, "why")
    assert error_class(error) is kind
    assert rendering().default_tail(error) is None
    with pytest.raises(kind, match="why"):
        rendering().answer(error)


def test_with_a_default_that_is_the_answer_and_says_why() -> None:
    shown = rendering(default_output="[1, 2]")
    error = RowError("model_failed", 'it said "no"')
    assert shown.answer(error) == ([1, 2], True, 'it said "no"')
    tail = shown.default_tail(error)
    assert tail is not None
    body = msgspec.json.decode(b'{"query_id":"x' + tail)
    assert body == {
        "query_id": "x",
        "output": [1, 2],
        "default": True,
        "default_explanation": 'it said "no"',
    }


def test_overload_is_told_where_the_application_wants_it() -> None:
    busy, down = RowError("overloaded", "busy"), RowError("no_model", "down")
    shown = rendering(default_output="1", on_overload="reject")
    assert shown.default_for(busy) is None and shown.default_for(down) == b"1"
    with pytest.raises(Overloaded):
        shown.answer(busy)
    assert rendering(default_output="1").default_for(busy) == b"1"


def test_causes_without_end_fill_no_memory() -> None:
    shown = rendering(default_output="1")
    for number in range(10 * MOST_TAILS):
        tail = shown.default_tail(RowError("model_failed", f"cause {number}"))
        assert tail is not None and f"cause {number}".encode() in tail
    assert len(shown._default_tails) == MOST_TAILS


def test_the_same_cause_with_another_code_is_told_as_it_is() -> None:
    shown = rendering(default_output="1", on_overload="reject")
    busy, failed = RowError("overloaded", "x"), RowError("model_failed", "x")
    assert shown.default_tail(busy) is None
    assert shown.default_tail(failed) is not None
    assert shown.default_tail(busy) is None
