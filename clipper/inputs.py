"""Input types: what a client sends, the bytes we keep, what the user's function sees.

An input is encoded once, at the door, to the bytes that are hashed for the cache and sent
to the worker: little-endian numbers, UTF-8, raw bytes or msgpack. A row is those bytes
and a shape; the shape is None for a flat array and for everything that is no array.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from clipper.errors import InvalidInput

_encode = msgspec.msgpack.Encoder().encode

# Deeper JSON than this is refused: nothing real needs it and recursion stays shallow.
MAX_DEPTH = 64

# numpy 1 ends at 32 axes, and a batch has one more than its rows. A row past that would
# raise in the worker and fail the whole batch.
MAX_AXES = 31

# Longest array that is packed, and lengths for which packers are kept.
_PACKED_LENGTH = 4096
_PACKERS = 256

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("clipper keeps numbers little-endian and runs on such machines")


# Turns a value into a number of one kind, or names it as a fault at a path.
Check: TypeAlias = Callable[[object, str], float]


class Row(NamedTuple):
    """One encoded input."""

    payload: bytes
    shape: tuple[int, ...] | None = None


class InputType(Enum):
    """The six input types, named as they are shown back to users."""

    INTS = "ints"
    FLOATS = "floats"
    DOUBLES = "doubles"
    STRINGS = "strings"
    BYTES = "bytes"
    JSON = "json"

    def __init__(self, name: str) -> None:
        code = {"ints": "<i4", "floats": "<f4", "doubles": "<f8"}.get(name)
        # that of one element, or None where inputs are no arrays
        self.dtype: np.dtype[Any] | None = None if code is None else np.dtype(code)

    @property
    def original_name(self) -> str:
        """The name the original Clipper shows in its admin answers."""
        return "integers" if self is InputType.INTS else self.value


_TYPECODES = {InputType.INTS: "i", InputType.FLOATS: "f", InputType.DOUBLES: "d"}

_SPELLINGS = {
    InputType.INTS: ("ints", "integers", "integer", "int", "i"),
    InputType.FLOATS: ("floats", "float", "f"),
    InputType.DOUBLES: ("doubles", "double", "d"),
    InputType.STRINGS: ("strings", "string", "strs", "str", "s"),
    InputType.BYTES: ("bytes", "byte", "b"),
    InputType.JSON: ("json",),
}
SPELLINGS = {word: kind for kind, words in _SPELLINGS.items() for word in words}


def parse_input_type(spelling: object) -> InputType:
    """The input type for any accepted spelling of it."""
    if isinstance(spelling, InputType):
        return spelling
    kind = SPELLINGS.get(spelling) if isinstance(spelling, str) else None
    if kind is None:
        known = ", ".join(kind.value for kind in InputType)
        raise InvalidInput(f"input_type must be one of {known}, got {spelling!r:.100}")
    return kind


# -- encoding: values to bytes ---------------------------------------------------------


def flat_encoder(kind: InputType) -> Callable[[Sequence[float]], bytes]:
    """Makes the bytes of flat arrays whose elements were already checked to be numbers
    of this type: the case the hot path is made for. A packer for one length is a third
    as dear as an array; lengths are few, and past a bound an array does."""
    code = _TYPECODES[kind]
    packers: dict[int, Callable[..., bytes]] = {}

    def encode(values: Sequence[float]) -> bytes:
        pack = packers.get(len(values))
        if pack is None:
            if len(values) > _PACKED_LENGTH or len(packers) >= _PACKERS:
                if kind is InputType.FLOATS:
                    _check_float32(values)
                return array(code, values).tobytes()
            pack = packers[len(values)] = struct.Struct(f"<{len(values)}{code}").pack
        try:
            return pack(*values)
        except OverflowError:
            raise InvalidInput("a number is out of range for a 32-bit float") from None

    return encode


def _check_float32(values: Sequence[float]) -> None:
    if max(values) <= _FLOAT32_MAX and min(values) >= -_FLOAT32_MAX:
        return
    # one is too large, or infinite, or not a number, which compares with nothing
    if any(_FLOAT32_MAX < abs(value) < math.inf for value in values):
        raise InvalidInput("a number is out of range for a 32-bit float")


def encode_json_value(kind: InputType, value: object, path: str = "$.input") -> Row:
    """One input as it stands in a JSON or msgpack body.

    Raises InvalidInput naming the place of the first fault, as in ``$.input[3]``.
    """
    return _FROM_JSON[kind](kind, value, path)


def encode_python(kind: InputType, value: object) -> Row:
    """One input from Python code: numpy arrays, lists, str, bytes or JSON-able values."""
    if kind.dtype is not None and (
        not isinstance(value, (list, tuple))
        or any(isinstance(x, np.ndarray) for x in value)
    ):
        try:
            array = np.asarray(value)
        except ValueError:
            raise InvalidInput("Expected an array of one shape at input") from None
        return _encode_array(kind, array, "input")
    if kind is InputType.BYTES:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise InvalidInput("input must be bytes for an application of type bytes")
        return Row(bytes(value))
    return encode_json_value(kind, value, "input")


def encode_array_rows(
    kind: InputType, rows: npt.NDArray[Any]
) -> tuple[int, bytes, tuple[int, ...] | None]:
    """A batch along the first axis: number of rows, their bytes, the shape of each."""
    if kind.dtype is None:
        raise InvalidInput(f"an array cannot be the input of type {kind.value}")
    if rows.ndim < 2:
        raise InvalidInput("input_batch as an array needs at least two axes")
    block, _ = _encode_array(kind, rows, "input_batch", MAX_AXES + 1)
    return len(rows), block, (rows.shape[1:] if rows.ndim > 2 else None)


def _encode_array(
    kind: InputType, values: npt.NDArray[Any], path: str, axes: int = MAX_AXES
) -> Row:
    dtype = kind.dtype
    assert dtype is not None
    if values.ndim == 0:
        raise InvalidInput(f"Expected an array of numbers at {path}")
    if values.ndim > axes:
        raise InvalidInput(f"Expected at most {axes} axes at {path}")
    if values.dtype != dtype:
        if values.dtype.kind not in "iuf" or (
            kind is InputType.INTS and values.dtype.kind == "f"
        ):
            raise InvalidInput(f"Expected an array of {kind.value} at {path}")
        if kind is InputType.INTS and _exceeds_int32(values):
            raise InvalidInput(f"Integer out of the range of 32 bits at {path}")
        with np.errstate(over="ignore"):
            converted = values.astype(dtype)
        if (
            kind is InputType.FLOATS
            and not (np.isfinite(converted) | ~np.isfinite(values)).all()
        ):
            raise InvalidInput("a number is out of range for a 32-bit float")
        values = converted
    return Row(values.tobytes(), values.shape if values.ndim > 1 else None)


def _exceeds_int32(values: npt.NDArray[Any]) -> bool:
    return bool(values.size and (values.max() > _INT32_MAX or values.min() < _INT32_MIN))


def _numeric_from_json(kind: InputType, value: object, path: str) -> Row:
    check = _check_int if kind is InputType.INTS else _check_number
    flat, shape = _unnest(value, path, check)
    if kind is InputType.FLOATS and flat:
        _check_float32(flat)
    try:
        payload = array(_TYPECODES[kind], flat).tobytes()
    except OverflowError:  # an integer that is out of range
        payload = array(_TYPECODES[kind], _checked(flat, path, shape, check)).tobytes()
    return Row(payload, shape if len(shape) > 1 else None)


_NUMBERS = {False: frozenset({int, float}), True: frozenset({int})}


def _unnest(value: object, path: str, check: Check) -> tuple[list[float], tuple[int, ...]]:
    """The numbers of a nested list, and its shape, which must be regular.

    Goes down level by level, each in a few calls: a body may hold millions of small
    lists, and a call for each of them would stop the server for seconds.
    """
    if type(value) is not list:
        return _flattened(value, path, check)
    level: list[Any] = value
    shape = [len(level)]
    while level and type(level[0]) is list:
        if len(shape) == MAX_AXES or tuple in (kinds := set(map(type, level))):
            return _flattened(value, path, check)
        if kinds != {list}:
            at = next(i for i, item in enumerate(level) if type(item) is not list)
            raise InvalidInput(
                f"Expected an array, got {_json_kind(level[at])} at "
                f"{_place(path, at, shape)}"
            )
        length = len(level[0])
        if set(map(len, level)) != {length}:
            at = next(i for i, item in enumerate(level) if len(item) != length)
            raise InvalidInput(
                f"Expected an array of shape {[length]} like its neighbours, "
                f"got {[len(level[at])]} at {_place(path, at, shape)}"
            )
        shape.append(length)
        level = list(chain.from_iterable(level))
    plain = _NUMBERS[check is _check_int]
    if not plain.issuperset(map(type, level)):
        at = next(i for i, item in enumerate(level) if type(item) not in plain)
        check(level[at], _place(path, at, shape))
        level = _checked(level, path, tuple(shape), check)  # it was one of numpy's
    return level, tuple(shape)


def _checked(
    level: list[Any], path: str, shape: tuple[int, ...], check: Check
) -> list[float]:
    """Numbers one by one, where some are numpy's or out of range."""
    out: list[float] = []
    for i, item in enumerate(level):
        try:
            out.append(check(item, path))
        except InvalidInput:
            check(item, _place(path, i, shape))
            raise
    return out


def _place(path: str, index: int, shape: Sequence[int]) -> str:
    """The path of an element by its index in the flattened array."""
    place = ""
    for length in reversed(shape):
        index, i = divmod(index, length)
        place = f"[{i}]{place}"
    return path + place


def _flattened(
    value: object, path: str, check: Check
) -> tuple[list[float], tuple[int, ...]]:
    """The same for what is rare: tuples, and arrays that are too deep."""
    flat: list[float] = []
    return flat, _flatten(value, path, flat, check, 1)


def _flatten(
    value: object,
    path: str,
    out: list[float],
    check: Check,
    depth: int,
) -> tuple[int, ...]:
    """Append the numbers of a nested list to `out`; its shape, which must be regular."""
    if not isinstance(value, (list, tuple)):
        raise InvalidInput(f"Expected an array, got {_json_kind(value)} at {path}")
    if depth > MAX_AXES:
        raise InvalidInput(f"Nested deeper than {MAX_AXES} levels at {path}")
    if not value or not isinstance(value[0], (list, tuple)):
        out.extend([check(item, f"{path}[{i}]") for i, item in enumerate(value)])
        return (len(value),)
    inner: tuple[int, ...] | None = None
    for i, item in enumerate(value):
        shape = _flatten(item, f"{path}[{i}]", out, check, depth + 1)
        if inner is not None and shape != inner:
            raise InvalidInput(
                f"Expected an array of shape {list(inner)} like its neighbours, "
                f"got {list(shape)} at {path}[{i}]"
            )
        inner = shape
    assert inner is not None
    return (len(value), *inner)


def _check_number(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise InvalidInput(f"Expected a number, got {_json_kind(value)} at {path}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(f"Number out of range at {path}") from None


def _check_int(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidInput(f"Expected an integer, got {_json_kind(value)} at {path}")
    if not _INT32_MIN <= value <= _INT32_MAX:
        raise InvalidInput(f"Integer out of the range of 32 bits at {path}")
    return int(value)


def _string_from_json(kind: InputType, value: object, path: str) -> Row:
    if not isinstance(value, str):
        raise InvalidInput(f"Expected a string, got {_json_kind(value)} at {path}")
    try:
        return Row(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"The string is not valid Unicode at {path}") from None


def _bytes_from_json(kind: InputType, value: object, path: str) -> Row:
    if isinstance(value, (bytes, bytearray)):  # msgpack bodies carry bytes as they are
        return Row(bytes(value))
    if not isinstance(value, str):
        raise InvalidInput(f"Expected a base64 string, got {_json_kind(value)} at {path}")
    try:
        return Row(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidInput(f"The string is not valid base64 at {path}") from None


def _json_from_json(kind: InputType, value: object, path: str) -> Row:
    return Row(encode_json(value, path))


def encode_json(value: object, path: str) -> bytes:
    """A JSON value as msgpack. Raises InvalidInput for one that is nested too deeply, or
    that msgpack cannot say, such as an integer of more than 64 bits."""
    check_depth(value, path)
    try:
        return _encode(value)
    except (OverflowError, UnicodeEncodeError, TypeError, ValueError):
        raise InvalidInput(
            f"A value is out of the range of JSON (integers have 64 bits) at {path}"
        ) from None


_FROM_JSON: dict[InputType, Callable[[InputType, object, str], Row]] = {
    InputType.INTS: _numeric_from_json,
    InputType.FLOATS: _numeric_from_json,
    InputType.DOUBLES: _numeric_from_json,
    InputType.STRINGS: _string_from_json,
    InputType.BYTES: _bytes_from_json,
    InputType.JSON: _json_from_json,
}


_FLAT = frozenset({int, float, str, bool, type(None)})


def check_depth(value: object, path: str = "$") -> None:
    """Refuse JSON nested deeper than MAX_DEPTH, without recursion."""
    if type(value) is list and _FLAT.issuperset(map(type, value)):
        return  # as most are
    # level by level, each in a few calls, like `_unnest`
    level, depth = [value], 0
    while not _FLAT.issuperset(map(type, level)):
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidInput(f"Nested deeper than {MAX_DEPTH} levels at {path}")
        nested = [item for item in level if isinstance(item, (list, dict, tuple))]
        level = list(chain.from_iterable(map(members, nested)))
        if not nested:
            return


def members(value: Any) -> Iterable[object]:
    """What is in an array or an object, without names."""
    return value.values() if isinstance(value, dict) else value


def _json_kind(value: object) -> str:
    """What JSON calls a value; Python's names do not belong in answers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (list, tuple)):
        return "an array"
    return "an object" if isinstance(value, dict) else "something else"
