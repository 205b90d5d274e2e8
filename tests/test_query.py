"""What the client sees of a settled query."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from house import Ask, House

from clipper.batching.job import EXPIRED
from clipper.batching.outcomes import FULL
from clipper.errors import (
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    Unavailable,
)
from clipper.rendering import render_string
from clipper.values import Output, Prediction, RowError


def answer_of(ask: Ask, output: Output) -> Prediction:
    receiver = ask.one(hash(output.cause) if isinstance(output, RowError) else 1)
    ask.answer(lambda x: output)
    assert receiver.query is not None
    return receiver.query.prediction()


@pytest.mark.parametrize(
    ("fields", "output", "expected"),
    [
        ({}, b"6.6", 6.6),
        ({}, "6.6", 6.6),
        ({}, ' {"a": [1, null]}\n', {"a": [1, None]}),
        ({}, b'"6.6"', "6.6"),
        ({"parse_output": False}, "6.6", "6.6"),
        ({"parse_output": False}, "[1]", "[1]"),
        ({"parse_output": False}, b"[1]", [1]),
    ],
)
async def test_a_string_that_is_json_is_given_as_that_json(
    house: House, fields: dict[str, Any], output: Output, expected: Any
) -> None:
    assert answer_of(Ask(house, **fields), output).output == expected


async def test_a_function_over_json_means_its_strings_as_strings(house: House) -> None:
    application = house.application(input_type="json")
    assert application.rendering.text("6.6") == b'"6.6"'
    assert application.rendering.text(b"6.6") == b"6.6"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("-1.0", b"-1.0"),
        (" 0 ", b"0"),
        ("null", b"null"),
        ('{"label": null}', b'{"label": null}'),
        ('"quoted"', b'"quoted"'),
        ("123456789012345678901234567890", b"123456789012345678901234567890"),
        ("unknown", b'"unknown"'),
        ("", b'""'),
        ("NaN", b'"NaN"'),
        ("Infinity", b'"Infinity"'),
        ("1e999", b'"1e999"'),
        ("[1,]", b'"[1,]"'),
        ("\u00a01", '"\u00a01"'.encode()),
        ("[" * 100_000, b'"' + b"[" * 100_000 + b'"'),
    ],
)
def test_a_default_is_its_json_or_a_string(text: str, parsed: bytes) -> None:
    assert render_string(text, parse=True) == parsed
    assert msgspec.json.decode(render_string(text, parse=False)) == text


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (RowError("model_failed", "it raised"), ModelFailed),
        (RowError("model_crashed", "it died"), ModelFailed),
        (RowError("model_hung", "it hung"), ModelFailed),
        (RowError("invalid_output", "NaN"), ModelFailed),
        (RowError("overloaded", "too much"), Overloaded),
        (RowError("unavailable", "stopped"), Unavailable),
        (RowError("deadline_exceeded", "late"), DeadlineExceeded),
        (RowError("no_model", "none"), Unavailable),
    ],
)
async def test_a_failure_becomes_the_default_or_an_error(
    house: House, output: RowError, error: type[Exception]
) -> None:
    with pytest.raises(error, match=output.cause):
        answer_of(Ask(house), output)
    prediction = answer_of(Ask(house, default_output="-1.0"), output)
    assert prediction.output == -1.0
    assert prediction.default and prediction.default_explanation == output.cause


async def test_overload_can_be_an_error_in_spite_of_a_default(house: House) -> None:
    ask = Ask(house, default_output="-1.0", on_overload="reject")
    with pytest.raises(Overloaded):
        answer_of(ask, FULL)
    assert answer_of(ask, EXPIRED).default
