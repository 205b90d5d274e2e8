from __future__ import annotations

import base64
import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clipper.errors import InvalidInput
from clipper.inputs import (
    MAX_AXES,
    MAX_DEPTH,
    SPELLINGS,
    InputType,
    Row,
    encode_array_rows,
    encode_json_value,
    encode_python,
    flat_encoder,
    parse_input_type,
)
from clipper.layout import decode_batch, layout_of, layout_of_blocks

INTS, FLOATS, DOUBLES = InputType.INTS, InputType.FLOATS, InputType.DOUBLES
STRINGS, BYTES, JSON = InputType.STRINGS, InputType.BYTES, InputType.JSON
NUMERIC = (INTS, FLOATS, DOUBLES)

ELEMENTS = {
    INTS: st.integers(-(2**31), 2**31 - 1),
    FLOATS: st.floats(width=32, allow_nan=False, allow_infinity=False),
    DOUBLES: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-99, 99),
}
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def nested(kind: InputType) -> st.SearchStrategy[Any]:
    """Flat arrays, matrices and cubes, also empty ones."""

    def of_shape(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
        if not shape:
            return ELEMENTS[kind]
        inner = of_shape(shape[1:])
        return st.lists(inner, min_size=shape[0], max_size=shape[0])

    shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
    return shapes.flatmap(of_shape)


def decoded(kind: InputType, rows: list[Row]) -> list[Any]:
    """What the function sees of rows that were encoded one by one."""
    payloads = [row.payload for row in rows]
    layout = layout_of(kind, payloads, [row.shape for row in rows])
    found = decode_batch(kind, len(rows), layout, bytearray(b"".join(payloads)))
    assert len(found) == len(rows)
    return list(found)


def same(kind: InputType, seen: Any, sent: Any) -> None:
    if kind.dtype is None:
        assert seen == sent
        return
    expected = np.array(sent, dtype=kind.dtype)
    assert seen.dtype == kind.dtype
    np.testing.assert_array_equal(seen, expected)
    if expected.size:
        assert seen.shape == expected.shape


# -- round trips -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", NUMERIC)
@given(data=st.data())
def test_arrays_of_any_shape_come_through(kind: InputType, data: st.DataObject) -> None:
    values = data.draw(st.lists(nested(kind), min_size=1, max_size=5))
    rows = [encode_json_value(kind, value) for value in values]
    assert rows == [encode_python(kind, value) for value in values]
    for seen, sent in zip(decoded(kind, rows), values, strict=True):
        same(kind, seen, sent)


@pytest.mark.parametrize("kind", NUMERIC)
@given(data=st.data())
def test_equal_shapes_become_one_array(kind: InputType, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(3,), (2, 2), (0,), (2, 0), (1, 2, 3)]))
    array = arrays.arrays(
        kind.dtype, shape, elements={"allow_nan": False} if kind is not INTS else None
    )
    values = data.draw(st.lists(array, min_size=1, max_size=5))
    rows = [encode_python(kind, value) for value in values]
    payloads = [row.payload for row in rows]
    layout = layout_of(kind, payloads, [row.shape for row in rows])
    assert layout.lengths is None
    seen = decode_batch(kind, len(rows), layout, bytearray(b"".join(payloads)))
    assert seen.shape == (len(values), *shape)
    np.testing.assert_array_equal(seen, np.array(values))
    seen += 1  # the function may work in place


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (STRINGS, st.text(st.characters(exclude_categories=["Cs"]))),
        (BYTES, st.binary()),
        (JSON, JSON_VALUES),
    ],
)
@given(data=st.data())
def test_the_other_types_come_through(
    kind: InputType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    sent = data.draw(st.lists(values, min_size=1, max_size=5))
    assert decoded(kind, [encode_python(kind, value) for value in sent]) == sent


@pytest.mark.parametrize("kind", NUMERIC)
@given(
    data=st.data(),
    parts=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([(2,), (3,), (2, 1), (1, 2), (0,)])),
        min_size=1,
        max_size=5,
    ),
)
def test_blocks_decode_like_their_rows(
    kind: InputType, data: st.DataObject, parts: list[tuple[int, tuple[int, ...]]]
) -> None:
    payloads, shapes, rows = [], [], []
    for count, shape in parts:
        one = [encode_python(kind, np.full(shape, i, kind.dtype)) for i in range(count)]
        rows += one
        payloads.append(b"".join(row.payload for row in one))
        shapes.append(one[0].shape)
    counts = [count for count, _ in parts]
    layout = layout_of_blocks(kind, payloads, shapes, counts)
    seen = decode_batch(kind, len(rows), layout, bytearray(b"".join(payloads)))
    for mine, theirs in zip(seen, decoded(kind, rows), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.shape == theirs.shape


def test_a_block_of_equal_rows_needs_no_lengths() -> None:
    parts = [flat_encoder(DOUBLES)([1.0, 2.0] * n) for n in (1, 3)]
    assert layout_of_blocks(DOUBLES, parts, [None, None], [1, 3]) == (None, None)


@given(st.lists(ELEMENTS[DOUBLES]))
def test_the_short_way_for_checked_numbers_gives_the_same_bytes(
    values: list[float],
) -> None:
    assert flat_encoder(DOUBLES)(values) == encode_json_value(DOUBLES, values).payload


@pytest.mark.parametrize("kind", NUMERIC)
def test_the_short_way_has_no_longest_array_and_no_end_of_lengths(kind: InputType) -> None:
    encode = flat_encoder(kind)
    for length in (*range(300), 5000):
        values = list(range(length))
        assert encode(values) == encode_json_value(kind, values).payload
    if kind is FLOATS:
        for refused in ([1e39], [1e39] * 5000):
            with pytest.raises(InvalidInput, match="32-bit float"):
                encode(refused)


def test_numbers_are_little_endian_and_padded_with_nothing() -> None:
    assert encode_json_value(INTS, [1, -2]) == Row(b"\1\0\0\0\xfe\xff\xff\xff", None)
    assert encode_json_value(FLOATS, [[1]]) == Row(b"\0\0\x80\x3f", (1, 1))


# -- from Python -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        np.array([1.0, 2.0], ">f8"),
        np.array([1, 2], np.uint8),
        np.arange(4.0)[1:3],
        np.arange(1.0, 3.0)[::-1][::-1],
        (1.0, 2.0),
        [np.float64(1), np.int8(2)],
        [1, 2.0],
        range(1, 3),
        np.array([1.0, 2.0], np.float16),
    ],
)
def test_anything_like_an_array_is_one(value: Any) -> None:
    if isinstance(value, range):
        value = np.asarray(value)
    assert encode_python(DOUBLES, value) == encode_json_value(DOUBLES, [1.0, 2.0])


def test_a_list_of_arrays_is_a_matrix() -> None:
    row = encode_python(DOUBLES, [np.array([1.0, 2.0]), [3, 4]])
    assert row == encode_json_value(DOUBLES, [[1, 2], [3, 4]])


def test_a_fortran_array_is_read_in_its_own_order() -> None:
    value = np.asfortranarray([[1.0, 2.0], [3.0, 4.0]])
    assert encode_python(DOUBLES, value) == encode_json_value(DOUBLES, [[1, 2], [3, 4]])


@pytest.mark.parametrize("kind", NUMERIC)
@pytest.mark.parametrize(
    "value",
    [
        [np.array([1.0]), np.array([1.0, 2.0])],
        [np.array([1.0]), "x"],
        [np.array([[1.0]]), [1.0]],
        5,
        "text",
        None,
        b"bytes",
        {"a": 1},
        {1, 2},
        object(),
        [object()],
        [None],
        [1 + 2j],
        [np.complex128(1)],
        np.array([1 + 2j]),
        np.array(["a"]),
        np.array([True]),
        np.array([None]),
        np.array(3.0),
        np.array(["2020-01-01"], "M8[D]"),
        [True],
        [[1], [True]],
    ],
)
def test_what_is_no_array_of_numbers_is_refused(kind: InputType, value: Any) -> None:
    with pytest.raises(InvalidInput):
        encode_python(kind, value)


@pytest.mark.parametrize("value", ["text", 5, None, [1], ["a"]])
def test_bytes_from_python_are_bytes(value: Any) -> None:
    assert encode_python(BYTES, bytearray(b"x")) == Row(b"x")
    with pytest.raises(InvalidInput, match="must be bytes"):
        encode_python(BYTES, value)


def test_numbers_that_do_not_fit_are_refused() -> None:
    for value in ([2**31], [-(2**31) - 1], np.array([2**31]), np.array([2**63], np.uint64)):
        with pytest.raises(InvalidInput, match="32 bits"):
            encode_python(INTS, value)
    for value in (
        [1e39],
        [-1e39],
        np.array([1e39]),
        [math.nan, 1e39],
        [1.0, math.nan, -1e39],
    ):
        with pytest.raises(InvalidInput, match="32-bit float"):
            encode_python(FLOATS, value)
    with pytest.raises(InvalidInput, match="32-bit float"):
        flat_encoder(FLOATS)([math.nan, 1e39])
    with pytest.raises(InvalidInput, match="out of range"):
        encode_python(DOUBLES, [10**400])
    with pytest.raises(InvalidInput, match="array of ints"):
        encode_python(INTS, np.array([1.0]))


@pytest.mark.parametrize("kind", [FLOATS, DOUBLES])
def test_nan_and_infinity_from_python_are_kept(kind: InputType) -> None:
    sent = [math.nan, math.inf, -math.inf, 1.0]
    for value in (sent, np.array(sent)):
        (seen,) = decoded(kind, [encode_python(kind, value)])
        np.testing.assert_array_equal(seen, np.array(sent, kind.dtype))


def test_rows_of_an_array() -> None:
    values = np.arange(12.0).reshape(3, 4)
    assert encode_array_rows(DOUBLES, values) == (3, values.tobytes(), None)
    assert encode_array_rows(DOUBLES, values.reshape(3, 2, 2))[2] == (2, 2)
    assert encode_array_rows(DOUBLES, np.zeros((0, 4)))[0] == 0
    for kind, rows, sentence in (
        (STRINGS, values, "cannot be the input of type strings"),
        (DOUBLES, values[0], "at least two axes"),
        (INTS, values, "array of ints at input_batch"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            encode_array_rows(kind, rows)


def deep(depth: int) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return value


def test_arrays_have_no_more_axes_than_any_worker_can_hold() -> None:
    """The rows of a batch are one array with one more axis, and numpy 1 ends at 32: one
    row past that would fail its neighbours."""
    row = encode_json_value(DOUBLES, deep(MAX_AXES))
    assert decoded(DOUBLES, [row, row])[0].ndim == MAX_AXES <= 31
    for refused in (deep(MAX_AXES + 1), deep(1000), deep(100_000)):
        with pytest.raises(InvalidInput, match="Nested deeper"):
            encode_json_value(DOUBLES, refused)
    with pytest.raises(InvalidInput, match="axes"):
        encode_python(DOUBLES, np.ones((1,) * (MAX_AXES + 1)))
    with pytest.raises(InvalidInput, match="axes"):
        encode_array_rows(DOUBLES, np.ones((1,) * (MAX_AXES + 2)))
    assert encode_array_rows(DOUBLES, np.ones((1,) * (MAX_AXES + 1)))[0] == 1


# -- faults of a body, with their place ------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        (DOUBLES, 5, "Expected an array, got an integer at $.input"),
        (DOUBLES, "x", "Expected an array, got a string at $.input"),
        (DOUBLES, [1, "x"], "Expected a number, got a string at $.input[1]"),
        (DOUBLES, [1, None], "Expected a number, got null at $.input[1]"),
        (DOUBLES, [True], "Expected a number, got a boolean at $.input[0]"),
        (DOUBLES, [1, [2]], "Expected a number, got an array at $.input[1]"),
        (DOUBLES, [[1], 2], "Expected an array, got an integer at $.input[1]"),
        (DOUBLES, [[1], {}], "Expected an array, got an object at $.input[1]"),
        (
            DOUBLES,
            [[1, 2], [3]],
            "Expected an array of shape [2] like its neighbours, got [1] at $.input[1]",
        ),
        (
            DOUBLES,
            [[], [3]],
            "Expected an array of shape [0] like its neighbours, got [1] at $.input[1]",
        ),
        (DOUBLES, [[[1]], [[1.5], [2]]], "at $.input[1]"),
        (DOUBLES, [0, 10**400], "Number out of range at $.input[1]"),
        (INTS, [1.0], "Expected an integer, got a number at $.input[0]"),
        (INTS, [[2**31]], "Integer out of the range of 32 bits at $.input[0][0]"),
        (FLOATS, [1e39], "a number is out of range for a 32-bit float"),
        (STRINGS, ["x"], "Expected a string, got an array at $.input"),
        (STRINGS, b"x", "Expected a string, got something else at $.input"),
        (STRINGS, "\ud800", "The string is not valid Unicode at $.input"),
        (BYTES, 5, "Expected a base64 string, got an integer at $.input"),
        (BYTES, "x", "The string is not valid base64 at $.input"),
        (BYTES, "ä===", "The string is not valid base64 at $.input"),
        (BYTES, "aGk=\n", "The string is not valid base64 at $.input"),
        (
            JSON,
            2**64,
            "A value is out of the range of JSON (integers have 64 bits) at $.input",
        ),
        (JSON, "\ud800", "A value is out of the range of JSON"),
        (JSON, [object()], "A value is out of the range of JSON"),
    ],
)
def test_a_fault_is_named_with_its_place(
    kind: InputType, value: Any, sentence: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        encode_json_value(kind, value)
    assert sentence in refused.value.cause


def test_msgpack_bodies_carry_bytes_as_they_are() -> None:
    assert encode_json_value(BYTES, b"\0\xff") == Row(b"\0\xff")
    text = base64.b64encode(b"\0\xff").decode()
    assert encode_json_value(BYTES, text) == Row(b"\0\xff")


def test_json_may_be_deep_but_not_too_deep() -> None:
    encode_json_value(JSON, deep(MAX_DEPTH - 1))
    for refused in (deep(MAX_DEPTH + 1), {"a": deep(MAX_DEPTH)}, deep(100_000)):
        with pytest.raises(InvalidInput, match="Nested deeper than 64 levels at"):
            encode_json_value(JSON, refused)


def test_json_that_looks_alike_is_told_apart() -> None:
    one, other = encode_json_value(JSON, 1), encode_json_value(JSON, 1.0)
    assert one.payload != other.payload
    assert msgspec.msgpack.decode(one.payload) == 1


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_every_spelling_names_a_type(spelling: str) -> None:
    kind = parse_input_type(spelling)
    assert kind is SPELLINGS[spelling]
    assert parse_input_type(kind) is kind and parse_input_type(kind.value) is kind


@pytest.mark.parametrize(
    "spelling", ["", "Doubles", "int32", None, 5, ["ints"], "x" * 10**6]
)
def test_other_spellings_are_refused(spelling: Any) -> None:
    with pytest.raises(
        InvalidInput, match="input_type must be one of ints, floats"
    ) as refused:
        parse_input_type(spelling)
    assert len(refused.value.cause) < 250


def test_the_original_calls_ints_integers() -> None:
    assert INTS.original_name == "integers" and DOUBLES.original_name == "doubles"
    assert STRINGS.dtype is None and INTS.dtype == np.dtype("<i4")


def test_writable_views_are_not_shared_between_rows() -> None:
    rows = [encode_python(DOUBLES, v) for v in ([1.0], [1.0, 2.0])]
    first, second = decoded(DOUBLES, rows)
    first += 5
    array: npt.NDArray[np.float64] = second
    assert array.tolist() == [1.0, 2.0]
