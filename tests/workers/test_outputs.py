"""What models return, as JSON text per row."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.values import RowError
from clipper.workers.outputs import (
    _MAX_DEPTH,
    NOT_FINITE,
    NOT_JSON,
    NOT_UNICODE,
    TOO_DEEP,
    WrongCount,
    convert,
)


@dataclass
class Point:
    x: float
    y: Any = None


class Tensor:
    """An array of some other library."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def tolist(self) -> Any:
        return self.values


class Series:
    """A column of some data-frame library."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> Any:
        return np.array(self.values)


def one(value: Any) -> Any:
    return convert([value], 1)[0]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.array([1.5, 2.0]), [b"1.5", b"2.0"]),
        (np.array([1, -2]), [b"1", b"-2"]),
        (np.array([True, False]), [b"true", b"false"]),
        (np.array([2**64 - 1, 0], np.uint64), [b"18446744073709551615", b"0"]),
        (np.array([0.5, 2], np.float16), [b"0.5", b"2.0"]),
        (np.array([0.5, 2], np.longdouble), [b"0.5", b"2.0"]),
        (np.array(["cat", "5.5"]), [b'"cat"', "5.5"]),
        (np.array([b"cat", b""]), [b'"Y2F0"', b'""']),
        (np.array([None, "x"], dtype=object), [b"null", b'"x"']),
        (np.array([[1, 2], [3, 4]]), [b"[1,2]", b"[3,4]"]),
        (np.array([["a"], ["1"]]), [b'["a"]', b'["1"]']),
        (np.zeros((2, 0)), [b"[]", b"[]"]),
        ([1.5, 2], [b"1.5", b"2"]),
        ([True, 2], [b"true", b"2"]),
        ([np.float32(0.5), np.float64(2)], [b"0.5", b"2.0"]),
        ([np.float64(0.5)] * 2, [b"0.5", b"0.5"]),
        ([np.int64(5), np.bool_(True)], [b"5", b"true"]),
        ([np.str_("a"), np.str_("[1]")], [b'"a"', "[1]"]),
        ([np.array([1, 2]), np.array(3.5)], [b"[1,2]", b"3.5"]),
        ([None, {}], [b"null", b"{}"]),
        ([{"a": np.int8(1)}, {"b": None}], [b'{"a":1}', b'{"b":null}']),
        ([{np.int64(7): np.array([1.0])}, {1: 2}], [b'{"7":[1.0]}', b'{"1":2}']),
        ([OrderedDict(a=1), (1, "x")], [b'{"a":1}', b'[1,"x"]']),
        ([b"ab", bytearray(b"ab")], [b'"YWI="', b'"YWI="']),
        (
            [Point(1.0, np.float32(2)), Point(1.0)],
            [b'{"x":1.0,"y":2.0}', b'{"x":1.0,"y":null}'],
        ),
        (Tensor([1.0, 2.0]), [b"1.0", b"2.0"]),
        ([Tensor([1, None]), Tensor(2)], [b"[1,null]", b"2"]),
        (Series([1, 2]), [b"1", b"2"]),
        ((x for x in (1, 2)), [b"1", b"2"]),
        (map(str, (1, 2)), ["1", "2"]),
        ({1: "a", 2: "b"}.values(), [b'"a"', b'"b"']),
        (range(2), [b"0", b"1"]),
        (("a", 1), [b'"a"', b"1"]),
    ],
)
def test_what_can_be_json(result: Any, expected: list[Any]) -> None:
    assert convert(result, 2) == expected


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        ("5.5", True),
        (" -1e3 ", True),
        ('{"a": [1, null]}', True),
        ('"text"', True),
        ("true", True),
        ("null", True),
        ("123456789012345678901234567890", True),
        ("NaN", False),
        ("Infinity", False),
        ("-Infinity", False),
        ("1e999", False),
        ("01", False),
        ("1 2", False),
        ("{'a': 1}", False),
        ("[" * 5000, False),
        ("True", False),
        ("truely", False),
        ("", False),
        (" ", False),
        ("cat", False),
        ('"\\ud800"', False),
    ],
)
def test_strings_that_are_json(text: str, is_json: bool) -> None:
    expected = text if is_json else msgspec.json.encode(text)
    assert one(text) == expected
    assert convert([text, 1], 2)[0] == expected


cyclic: list[Any] = []
cyclic.append(cyclic)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (math.nan, NOT_FINITE),
        (-math.inf, NOT_FINITE),
        (np.float32("nan"), NOT_FINITE),
        (np.array([1, math.inf]), NOT_FINITE),
        ({"a": [None, {"b": math.nan}]}, NOT_FINITE),
        ({"a": np.array([math.nan])}, NOT_FINITE),
        ({math.nan: None}, NOT_FINITE),
        (Point(math.nan), NOT_FINITE),
        (Tensor([[math.nan]]), NOT_FINITE),
        (Tensor(np.array([math.nan])), NOT_FINITE),
        (1j, NOT_JSON),
        (object(), NOT_JSON),
        ([10**5000], NOT_JSON),
        (np.datetime64("2020-01-01"), NOT_JSON),
        (np.array([1j]), NOT_JSON),
        ({(1, 2): 3}, NOT_JSON),
        (len, NOT_JSON),
        ("\ud800", NOT_UNICODE),
        ({"a": "\ud800"}, NOT_UNICODE),
        (cyclic, TOO_DEEP),
    ],
)
def test_what_cannot_be_json_is_an_error_of_its_row_alone(value: Any, cause: str) -> None:
    for result in ([1, value, "x"], (item for item in (1, value, "x"))):
        assert convert(result, 3) == [b"1", RowError("invalid_output", cause), b'"x"']


@pytest.mark.parametrize("form", ["[%s]", '{"a":%s}'])
def test_outputs_may_be_deep_but_not_too_deep(form: str) -> None:
    """Who reads an output calls itself for each level, and may have little room left."""
    deep, deeper = "1", "1"
    for _ in range(_MAX_DEPTH):
        deep, deeper = form % deep, form % deeper
    deeper = form % deeper
    values = [msgspec.json.decode(text) for text in (deep, deeper)]
    assert convert(values, 2) == [deep.encode(), RowError("invalid_output", TOO_DEEP)]
    texts = convert([deep, deeper, "[" * 300], 3)
    assert texts == [deep, *(msgspec.json.encode(x) for x in (deeper, "[" * 300))]


def test_rows_of_an_array_fail_alone() -> None:
    result = np.array([[1.0, 2.0], [np.nan, 2.0], [3.0, np.inf]])
    outputs = convert(result, 3)
    bad = RowError("invalid_output", NOT_FINITE)
    assert outputs == [b"[1.0,2.0]", bad, bad]
    assert convert(result[:, 1], 3) == [b"2.0", b"2.0", bad]


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (None, "returned nothing"),
        (5, "returned a single value"),
        (np.float64(5), "returned a single value"),
        (np.array(5.0), "returned a single value"),
        (object(), "returned a single value"),
        ("ab", "returned a string"),
        (b"ab", "returned bytes"),
        ({"a": 1, "b": 2}, "returned a mapping"),
        ({1, 2}, "returned a set, which has no order"),
        ([], "returned 0 outputs for 2 inputs"),
        ([1], "returned 1 output for 2 inputs"),
        (np.zeros((3, 2)), "returned 3 outputs for 2 inputs"),
        (range(1000), "returned 1000 outputs for 2 inputs"),
        (Tensor([1]), "returned 1 output for 2 inputs"),
        (iter(int, 1), "returned more than 2 outputs"),
    ],
)
def test_wrong_counts(result: Any, sentence: str) -> None:
    with pytest.raises(WrongCount, match=sentence):
        convert(result, 2)


finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(values, min_size=1))
def test_json_values_survive(rows: list[Any]) -> None:
    for output, value in zip(convert(rows, len(rows)), rows, strict=True):
        if isinstance(value, str) and isinstance(output, str):
            assert output == value
            json.loads(output)
        else:
            assert json.loads(output) == value  # type: ignore[arg-type]


@given(st.lists(st.floats()), st.sampled_from([np.float32, np.float64]))
def test_arrays_say_the_same_as_lists(numbers: list[float], dtype: Any) -> None:
    with np.errstate(over="ignore"):
        array = np.array(numbers, dtype)
    assert convert(array, len(numbers)) == convert(array.tolist(), len(numbers))
    assert convert(list(array), len(numbers)) == convert(array, len(numbers))
