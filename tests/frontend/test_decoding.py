"""Bodies to typed rows."""

from __future__ import annotations

import io
import struct
import time
from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipper.config import Limits
from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.frontend.decoding import Block, Decoder, Request, plain_words
from clipper.frontend.gate import JSON, MSGPACK, NPY
from clipper.frontend.npy import read_npy
from clipper.inputs import InputType, Row
from clipper.layout import decode_batch, layout_of
from clipper.outline import NESTED
from clipper.selection.policy import Subject

from .heavy import LIMITS, heaviest

NUMERIC = (InputType.INTS, InputType.FLOATS, InputType.DOUBLES)


def decode(
    kind: InputType,
    body: bytes,
    media: str = JSON,
    parameters: str = "",
    rows: int = 100,
    **limits: int,
) -> Request:
    limits = Limits(rows_per_request=rows, **limits)
    return Decoder(kind, limits).decode(media, body, parameters)


def rows_of(request: Request) -> list[Row]:
    rows = request.rows
    if isinstance(rows, Block):
        return rows.split()
    return [rows] if isinstance(rows, Row) else rows


def seen(kind: InputType, request: Request) -> list[Any]:
    """What a function would get, as plain values."""
    rows = rows_of(request)
    if not rows:
        return []
    layout = layout_of(kind, [row.payload for row in rows], [row.shape for row in rows])
    body = bytearray(b"".join(row.payload for row in rows))
    values = decode_batch(kind, len(rows), layout, body)
    return [v.tolist() if hasattr(v, "tolist") else v for v in values]


# -- JSON and msgpack ------------------------------------------------------------------

SAMPLES: list[tuple[InputType, Any]] = [
    (InputType.INTS, [1, -2, 2**31 - 1, -(2**31)]),
    (InputType.FLOATS, [1.5, -2.25]),
    (InputType.DOUBLES, [1.1, 2, -0.0, 1e308]),
    (InputType.DOUBLES, []),
    (InputType.DOUBLES, [[1.0, 2.0], [3.0, 4.0]]),
    (InputType.STRINGS, "a \u00e4 \U0001f600 \0"),
    (InputType.JSON, {"a": [1, None, True, "x", 2.5, {}]}),
    (InputType.JSON, None),
]


@pytest.mark.parametrize(("kind", "value"), SAMPLES)
@pytest.mark.parametrize("media", [JSON, MSGPACK])
def test_one_input(kind: InputType, value: Any, media: str) -> None:
    encode = msgspec.json.encode if media == JSON else msgspec.msgpack.encode
    request = decode(kind, encode({"input": value}), media)
    assert isinstance(request.rows, Row)
    assert seen(kind, request) == [value]
    batch = decode(kind, encode({"input_batch": [value, value]}), media)
    assert seen(kind, batch) == [value, value]


def test_bytes_are_base64_in_json_and_themselves_in_msgpack() -> None:
    kind = InputType.BYTES
    assert seen(kind, decode(kind, b'{"input": "AAH/"}')) == [b"\0\1\xff"]
    body = msgspec.msgpack.encode({"input": b"\0\1\xff"})
    assert seen(kind, decode(kind, body, MSGPACK)) == [b"\0\1\xff"]
    for wrong in (b'"AAH"', b'"AAH/\\n"', b'"\xc3\xa4AAH"', b"1"):
        with pytest.raises(InvalidInput):
            decode(kind, b'{"input": %b}' % wrong)


def test_the_rest_of_the_envelope() -> None:
    body = (
        b'{"input":[1],"uid":7,"context":{"a":1},"version":2,"deadline_ms":5,"cache":false}'
    )
    request = decode(InputType.DOUBLES, body)
    assert request[1:] == (Subject("7", {"a": 1}), "2", 5.0, False)
    plain = decode(InputType.DOUBLES, b'{"input":[1],"uid":null,"cache":null,"else":[{}]}')
    assert plain[1:] == (Subject(), None, None, True)


def test_0_and_the_string_0_are_one_user() -> None:
    kind = InputType.JSON
    one = decode(kind, b'{"input":1,"uid":0}').subject
    assert one == decode(kind, b'{"input":1,"uid":"0"}').subject


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (b'"uid": true', "$.uid"),
        (b'"uid": 1.5', "$.uid"),
        (b'"uid": [1]', "$.uid"),
        (b'"uid": 9223372036854775808', "$.uid"),
        (b'"uid": -9223372036854775809', "$.uid"),
        (b'"uid": "%b"' % (b"a" * 257), "$.uid"),
        (b'"uid": "%b"' % ("\u00e4" * 129).encode(), "$.uid"),
        (b'"version": true', "$.version"),
        (b'"version": "../x"', "version"),
        (b'"version": ""', "version"),
        (b'"version": -1', "version"),
        (b'"version": 1.5', "$.version"),
        (b'"deadline_ms": 0', "$.deadline_ms"),
        (b'"deadline_ms": -1', "$.deadline_ms"),
        (b'"deadline_ms": "5"', "$.deadline_ms"),
        (b'"deadline_ms": 1e999', ""),
        (b'"cache": 1', "$.cache"),
        (b'"context": ' + b"[" * 65 + b"]" * 65, "$.context"),
        (b'"context": {"a": 1' + b"0" * 30 + b"}", "64 bits) at $.context"),
        (b'"context": [1.0, -1' + b"0" * 30 + b"]", "64 bits) at $.context"),
    ],
)
def test_faults_of_the_envelope(field: bytes, path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(InputType.DOUBLES, b'{"input": [1], %b}' % field)
    assert path in caught.value.cause


@pytest.mark.parametrize(
    ("kind", "body", "cause"),
    [
        (InputType.DOUBLES, b'{"input": [1, 2, "x"]}', "$.input[2]"),
        (InputType.DOUBLES, b'{"input": [1, null]}', "$.input[1]"),
        (InputType.DOUBLES, b'{"input": [true]}', "$.input[0]"),
        (InputType.DOUBLES, b'{"input": 1}', "$.input"),
        (InputType.DOUBLES, b'{"input": null}', "$.input"),
        (InputType.DOUBLES, b'{"input": [[1], [1, 2]]}', "$.input[1]"),
        (InputType.DOUBLES, b'{"input": [[1], 2]}', "$.input[1]"),
        (InputType.DOUBLES, b'{"input_batch": [[1], ["x"]]}', "$.input_batch[1][0]"),
        (InputType.DOUBLES, b'{"input": [[1, 2], [3, "x"]]}', "$.input[1][1]"),
        (InputType.DOUBLES, b'{"input": [[[1], [2]], [[3], [true]]]}', "$.input[1][1][0]"),
        (InputType.DOUBLES, b'{"input": [[[1], [2]], [[3], 4]]}', "$.input[1][1]"),
        (InputType.DOUBLES, b'{"input": [[[1], [2]], [[3], [4, 5]]]}', "$.input[1][1]"),
        (InputType.DOUBLES, b'{"input": [[1], [%b]]}' % (b"9" * 400), "$.input[1][0]"),
        (InputType.DOUBLES, b'{"input_batch": {}}', "$.input_batch"),
        (InputType.DOUBLES, b'{"input_batch": [1]}', "$.input_batch[0]"),
        (InputType.INTS, b'{"input": [1.5]}', "$.input[0]"),
        (InputType.INTS, b'{"input": [2147483648]}', "$.input[0]"),
        (InputType.INTS, b'{"input": [[-2147483649]]}', "$.input[0][0]"),
        (InputType.FLOATS, b'{"input": [1e39]}', "32-bit"),
        (InputType.STRINGS, b'{"input": 1}', "$.input"),
        (InputType.STRINGS, b'{"input_batch": ["a", 1]}', "$.input_batch[1]"),
        (InputType.JSON, b'{"input": ' + b"[" * 65 + b"]" * 65 + b"}", "$.input"),
        (InputType.JSON, b'{"input": 36893488147419103232}', "$.input"),
        (InputType.DOUBLES, b"{}", "input"),
        (InputType.DOUBLES, b"[1]", "object"),
        (InputType.DOUBLES, b"", "malformed"),
        (InputType.DOUBLES, b'{"input": [1]} x', "malformed"),
        (InputType.DOUBLES, b'\xef\xbb\xbf{"input": [1]}', "malformed"),
        (InputType.STRINGS, b'{"input": "\xff"}', "UTF-8"),
        (InputType.STRINGS, b'{"input": "\\ud800"}', "malformed"),
        (InputType.DOUBLES, b'{"input": [NaN]}', "malformed"),
        (InputType.DOUBLES, b'{"input": [Infinity]}', "malformed"),
    ],
)  # fmt: skip
def test_faults_have_their_path(kind: InputType, body: bytes, cause: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(kind, body)
    assert cause in caught.value.cause
    for word in ("`str", "`int", "Error", "list", "dict", "`float", "NoneType", "`bool"):
        assert word not in caught.value.cause


@pytest.mark.parametrize("unit", [b"[],", b"[1],", b"[[]],", b"[1,2],"])
@pytest.mark.parametrize("last", [b"", b"0,"])
def test_many_small_arrays_do_not_hold_the_server_up(unit: bytes, last: bytes) -> None:
    """A call for each of them would; with a fault at the end it must be no worse."""
    body = b'{"input": [%b]}' % (unit * (2_000_000 // len(unit)) + last)[:-1]
    began = time.process_time()
    with suppress(InvalidInput):
        decode(InputType.DOUBLES, body, values_per_request=len(body) * NESTED)
    assert time.process_time() - began < 20.0  # minutes, if it were done for each


@pytest.mark.fault("N3")
@pytest.mark.parametrize(("kind", "media", "name", "body"), list(heaviest()))
def test_the_heaviest_bodies_hold_the_server_up_for_a_moment(
    kind: str, media: str, name: str, body: bytes
) -> None:
    """On a quiet machine none takes 50 ms; millions of values would take seconds."""
    decoder = Decoder(InputType(kind), LIMITS)
    began = time.process_time()
    with suppress(InvalidInput, PayloadTooLarge):
        decoder.decode(media, body)
    assert time.process_time() - began < 1.0


@pytest.mark.fault("N3")
@pytest.mark.parametrize("kind", list(InputType))
@pytest.mark.parametrize(
    "each", [b"1", b"[]", b"{}", b'""', b'{"a":1}', b"[" * 9 + b"]" * 9]
)
@pytest.mark.parametrize("name", [b"input", b"input_batch", b"context", b"unknown"])
def test_more_values_than_may_be_are_not_decoded(
    kind: InputType, each: bytes, name: bytes
) -> None:
    many = (each + b",") * (8_000_000 // (len(each) + 1))
    body = b'{"%b":[%b]}' % (name, many[:-1])
    began = time.process_time()
    with pytest.raises(PayloadTooLarge, match=r"limits\.values_per_request"):
        decode(kind, body)
    assert time.process_time() - began < 0.5


@pytest.mark.fault("N3")
@pytest.mark.parametrize("kind", list(InputType))
@pytest.mark.parametrize("each", [b"\x01", b"\x90", b"\x80", b"\xa0"])
@pytest.mark.parametrize("name", ["input", "input_batch", "context"])
def test_more_msgpack_than_may_be_is_not_decoded(
    kind: InputType, each: bytes, name: str
) -> None:
    many = b"\xdd" + (8_000_000).to_bytes(4, "big") + each * 8_000_000
    for values in (many, b"\x92\x01" + many):
        body = b"\x81" + msgspec.msgpack.encode(name) + values
        began = time.process_time()
        with pytest.raises((PayloadTooLarge, InvalidInput)):
            decode(kind, body, MSGPACK)
        assert time.process_time() - began < 0.5


def test_values_are_counted_as_they_are() -> None:
    """Commas in texts are no values, and numbers in msgpack are known by their header."""
    few = {"values_per_request": 1000}
    commas = msgspec.json.encode({"input": ",[{:" * 5000})
    assert seen(InputType.STRINGS, decode(InputType.STRINGS, commas, **few))
    numbers = {"input": [0.5] * 900}
    for media, body in (
        (JSON, msgspec.json.encode(numbers)),
        (MSGPACK, msgpack.packb(numbers)),
    ):
        request = decode(InputType.DOUBLES, body, media, **few)
        assert seen(InputType.DOUBLES, request) == [[0.5] * 900]
        with pytest.raises(PayloadTooLarge):
            decode(InputType.DOUBLES, body, media, values_per_request=890)
    rows = msgpack.packb({"input_batch": [[0.5] * 90] * 10})
    assert (
        len(seen(InputType.DOUBLES, decode(InputType.DOUBLES, rows, MSGPACK, **few))) == 10
    )
    nested = msgpack.packb({"input": [[0.5] * 90] * 10})
    with pytest.raises(InvalidInput, match="send it as application/x-npy"):
        decode(InputType.DOUBLES, nested, MSGPACK, **few)


def test_arrays_that_grow_are_bounded_by_what_they_become() -> None:
    body = npy_of(np.zeros(1000, np.uint8))
    assert Decoder(InputType.DOUBLES, Limits(body=8000)).decode(NPY, body)
    with pytest.raises(PayloadTooLarge, match="at most 7999 bytes as doubles"):
        Decoder(InputType.DOUBLES, Limits(body=7999)).decode(NPY, body)


@given(st.binary(max_size=200))
def test_no_body_is_too_wild(body: bytes) -> None:
    for kind in InputType:
        for media in (JSON, MSGPACK, NPY):
            with suppress(InvalidInput):
                decode(kind, body, media)


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.none(), st.text())))
def test_what_is_taken_is_what_was_sent(values: list[Any]) -> None:
    body = msgspec.json.encode({"input": values})
    try:
        request = decode(InputType.DOUBLES, body)
    except InvalidInput:
        return
    assert seen(InputType.DOUBLES, request) == [[float(v) for v in values]]


def test_the_rows_of_a_batch_are_bounded() -> None:
    for body in (b"[[1],[2],[3]]", b"[[[1]],[[2]],[[3]]]", b"[[1],[2,3],[4]]"):
        data = b'{"input_batch": %b}' % body
        decode(InputType.DOUBLES, data, rows=3)
        with pytest.raises(PayloadTooLarge):
            decode(InputType.DOUBLES, data, rows=2)
    with pytest.raises(PayloadTooLarge):
        decode(InputType.DOUBLES, npy_of(np.zeros((3, 1))), NPY, rows=2)


def test_equal_rows_are_one_block() -> None:
    request = decode(InputType.DOUBLES, b'{"input_batch": [[1, 2], [3, 4], [5, 6]]}')
    assert isinstance(request.rows, Block)
    assert seen(InputType.DOUBLES, request) == [[1, 2], [3, 4], [5, 6]]
    empty = decode(InputType.DOUBLES, b'{"input_batch": [[], []]}')
    assert seen(InputType.DOUBLES, empty) == [[], []]


@pytest.mark.parametrize(
    "value",
    [
        b"raw bytes",
        msgpack.Timestamp(1, 0),
        msgpack.ExtType(5, b"abcd"),
        {1: 2},
        {b"a": 1},
        [[{"a": [b"x"]}]],
    ],
    ids=["bytes", "time", "extension", "number as key", "bytes as key", "deep"],
)
def test_msgpack_says_no_more_than_json(value: Any) -> None:
    for envelope in (
        {"input": value},
        {"input_batch": [1, value]},
        {"input": 1, "context": value},
    ):
        body = msgpack.packb(envelope, datetime=False)
        with pytest.raises(InvalidInput):
            decode(InputType.JSON, body, MSGPACK)
    for kind in (*NUMERIC, InputType.STRINGS):
        with pytest.raises(InvalidInput):
            decode(kind, msgpack.packb({"input": value}), MSGPACK)


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\xa5input" + b"\x91" * 100_000,
        b"\x81\xa5input" + b"\x91" * 100 + b"\x01",
        b"\x81\xa1x" + b"\x81" * 100_000,
        b"\x81\xa5input\xdd\xff\xff\xff\xff\x01",
        b"\x81\xa5input\xdf\xff\xff\xff\xff\x01",
        b"\x81\xa5input\xdb\xff\xff\xff\xff\x01",
        b"\x81\xa5input\xc6\xff\xff\xff\xff\x01",
        b"\x81\xa5input\xc9\xff\xff\xff\xff\x01\x01",
        b"\xdf\xff\xff\xff\xff\xa5input",
        b"\x81\x91\xa5input\x01",
        b"\x81\xa5input\xa2\xff\xff",
        b"\x81\xa5input\xc1",
    ],
)
def test_hostile_msgpack(body: bytes) -> None:
    for kind in InputType:
        with pytest.raises(InvalidInput):
            decode(kind, body, MSGPACK)


# -- npy -------------------------------------------------------------------------------


def npy_of(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def npy_with(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    width = "<H" if version[0] == 1 else "<I"
    raw = header.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack(width, len(raw)) + raw + data


def header_of(descr: str = "'<f8'", order: str = "False", shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@given(
    hnp.arrays(
        st.sampled_from(["<f8", ">f8", "<f4", ">f4", "<f2", ">f2", "<i4", ">i4", "|u1",
                         "<i8", ">u2", "|i1"]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    st.booleans(),
)  # fmt: skip
def test_npy_gives_back_the_array(values: np.ndarray[Any, Any], fortran: bool) -> None:
    """Any byte order, either memory order, every size of number."""
    if fortran:
        values = np.asfortranarray(values)
    read = read_npy(npy_of(values))
    assert read.shape == values.shape
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    "dtype", ["<f8", ">f8", "<f4", ">f4", "<f2", ">i4", "<i8", "|u1", "<f16"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_rows_are_the_right_numbers(dtype: str, order: str) -> None:
    values = np.asarray([[1, 2, 3], [4, 5, 6]], dtype=dtype, order=order)  # type: ignore[call-overload]
    for kind in (InputType.DOUBLES, InputType.FLOATS):
        assert seen(kind, decode(kind, npy_of(values), NPY)) == [[1, 2, 3], [4, 5, 6]]
    if values.dtype.kind in "iu":
        kind = InputType.INTS
        assert seen(kind, decode(kind, npy_of(values), NPY)) == [[1, 2, 3], [4, 5, 6]]


def test_one_axis_is_one_row() -> None:
    request = decode(InputType.DOUBLES, npy_of(np.array([1.0, 2.0])), NPY)
    assert isinstance(request.rows, Row)
    assert seen(InputType.DOUBLES, request) == [[1.0, 2.0]]


def test_more_axes_are_shaped_rows() -> None:
    values = np.arange(12.0).reshape(3, 2, 2)
    request = decode(InputType.DOUBLES, npy_of(values), NPY)
    assert seen(InputType.DOUBLES, request) == values.tolist()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (0, 2, 2)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape)
    request = decode(InputType.DOUBLES, npy_of(values), NPY)
    expected = [values.tolist()] if values.ndim == 1 else values.tolist()
    assert seen(InputType.DOUBLES, request) == expected


def test_version_2_headers() -> None:
    body = npy_with(header_of(), struct.pack("<d", 7.0), b"\2\0")
    assert read_npy(body).tolist() == [7.0]


def test_headers_of_other_writers() -> None:
    data = struct.pack("<dd", 1.0, 2.0)
    for header in (
        "{'shape':(2,),'fortran_order':False,'descr':'<f8'}",
        "{ 'descr' : '<f8' , 'fortran_order' : False , 'shape' : ( 2 , ) }   \n",
    ):
        assert read_npy(npy_with(header, data)).tolist() == [1.0, 2.0]


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_pickles_in_npy_are_not_loaded(tmp_path: Any) -> None:
    canary = tmp_path / "canary"
    body = npy_of(np.array([Canary(str(canary))], dtype=object))
    with pytest.raises(InvalidInput):
        read_npy(body)
    assert not canary.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\1\0",
        b"\x93NUMPY\1\0\xff\xff",
        b"PK\x03\x04" + b"x" * 100,
        b"\x80\x04\x95" + b"x" * 100,
        npy_of(np.zeros(3))[:-1],
        npy_of(np.zeros(3)) + b"\0",
        npy_of(np.zeros(())),
        npy_of(np.zeros(2, dtype=complex)),
        npy_of(np.zeros(2, dtype=bool)),
        npy_of(np.array(["a"])),
        npy_of(np.zeros(2, dtype=[("a", "<f8"), ("b", "<i4")])),
        npy_of(np.array(["2020-01-01"], dtype="M8[D]")),
        npy_with(header_of(shape="(1,)"), b"\0" * 8, b"\3\0"),
        npy_with(header_of(shape="(1,)"), b"\0" * 8, b"\x09\x09"),
        npy_with(header_of(shape="(-1,)"), b"\0" * 8),
        npy_with(header_of(shape="(-1, -1)"), b"\0" * 8),
        npy_with(header_of(shape="(-2, -4)"), b"\0" * 64),
        npy_with(header_of(shape="(9223372036854775807,)"), b"\0" * 8),
        npy_with(header_of(shape="(4294967296, 4294967296)"), b""),
        npy_with(header_of(shape="(0, 4611686018427387904)"), b""),
        npy_with(header_of(shape="(0, %s)" % ("9" * 400)), b""),
        npy_with(header_of(shape="(%s)" % ("1," * 100)), b"\0" * 8),
        npy_with(header_of(shape="[1]"), b"\0" * 8),
        npy_with(header_of(shape="1"), b"\0" * 8),
        npy_with(header_of(shape="(1)"), b"\0" * 8),
        npy_with(header_of(shape="(1,,)"), b"\0" * 8),
        npy_with(header_of(shape="(1, ,1)"), b"\0" * 8),
        npy_with(header_of(shape="(,1)"), b"\0" * 8),
        npy_with(header_of(shape="(1 1)"), b"\0" * 8),
        npy_with(header_of(shape="(01,)"), b"\0" * 8),
        npy_with(header_of(shape="(True,)"), b"\0" * 8),
        npy_with(header_of(shape="(1L,)"), b"\0" * 8),
        npy_with(header_of(shape="'(1,)'"), b"\0" * 8),
        npy_with(header_of(order="1"), b"\0" * 8),
        npy_with(header_of(order="None"), b"\0" * 8),
        npy_with(header_of(descr="'|O'"), b"\x80\x04."),
        npy_with(header_of(descr="'O'"), b"\x80\x04."),
        npy_with(header_of(descr="'<f3'"), b"\0" * 3),
        npy_with(header_of(descr="'<f0'"), b""),
        npy_with(header_of(descr="'f8,f8'"), b"\0" * 16),
        npy_with(header_of(descr="('<f8', (2,))"), b"\0" * 16),
        npy_with(header_of(descr="((),())"), b"\0" * 8),
        npy_with(header_of(descr="{'names': []}"), b"\0" * 8),
        npy_with(header_of() + "x", b"\0" * 8),
        npy_with("{}", b"\0" * 8),
        npy_with("", b"\0" * 8),
        npy_with("(" * 900, b""),
        npy_with("-" * 900 + "1", b""),
        npy_with("[" * 9000, b""),
        npy_with("{" + "'descr': '<f8', " * 40 + "}", b""),
        npy_with("__import__('os')", b""),
    ],
)  # fmt: skip
def test_hostile_npy(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_npy(body)


@given(st.data())
def test_a_damaged_npy_is_an_error_or_an_array(data: st.DataObject) -> None:
    body = bytearray(npy_of(np.arange(6.0).reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_npy(bytes(body))
    except InvalidInput:
        return
    assert read.nbytes <= len(body)


def test_types_without_arrays_take_no_npy() -> None:
    for kind in (InputType.STRINGS, InputType.BYTES, InputType.JSON):
        with pytest.raises(InvalidInput):
            decode(kind, npy_of(np.zeros(3)), NPY)


def test_numbers_that_do_not_fit_are_refused() -> None:
    for kind, values in (
        (InputType.INTS, np.array([2**31])),
        (InputType.INTS, np.array([1.5])),
        (InputType.FLOATS, np.array([1e39])),
    ):
        with pytest.raises(InvalidInput):
            decode(kind, npy_of(values), NPY)


def test_fields_in_the_query_string() -> None:
    body = npy_of(np.zeros(2))
    parameters = "uid=a%20b&version=1&deadline_ms=5.5&cache=false&context=%5B1%5D"
    request = decode(InputType.DOUBLES, body, NPY, parameters)
    assert request[1:] == (Subject("a b", [1]), "1", 5.5, False)
    # decoded once, not twice
    assert decode(InputType.DOUBLES, body, NPY, "uid=%2541").subject.uid == "%41"


@pytest.mark.parametrize(
    "parameters",
    ["x=1", "uid=1&uid=2", "deadline_ms=x", "deadline_ms=0", "deadline_ms=NaN", "cache=2",
     "context=%5B", "version=..", "uid=" + "a" * 257,
     "&".join(f"a{i}=1" for i in range(20)),
     "input=%5B1%5D", "deadline_ms=" + "%5B" * 2000, "deadline_ms=null", "cache=null"],
)  # fmt: skip
def test_wrong_fields_in_the_query_string(parameters: str) -> None:
    with pytest.raises(InvalidInput):
        decode(InputType.DOUBLES, npy_of(np.zeros(2)), NPY, parameters)


def test_words_of_json_not_of_python() -> None:
    message = "Expected `int | str | null`, got `float` - at `$.uid`"
    assert plain_words(message) == (
        "Expected an integer or a string or null, got a number at $.uid"
    )
