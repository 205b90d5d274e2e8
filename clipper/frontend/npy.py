"""Reads npy files in memory, strictly: a header of three known entries and numbers.

numpy's own reader evaluates the header as a Python literal, warns, and raises whatever
the literal happens to hit; here the header must match a pattern, and no more than that
is ever done with it.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from clipper.errors import InvalidInput
from clipper.inputs import MAX_AXES

_MAGIC = b"\x93NUMPY"
# numpy pads headers to a multiple of 64 bytes; one with 32 axes stays well below this.
_MAX_HEADER = 1024

# Space is what Python takes for it inside of brackets, and no more.
_SPACE = b" \t\n"
_ENTRY = re.compile(
    rb"[ \t\n]*'(descr|fortran_order|shape)'[ \t\n]*:[ \t\n]*"
    rb"('[^']*'|True|False|\([0-9, \t\n]*\))[ \t\n]*(?:,[ \t\n]*|$)"
)
# As Python writes tuples: one of one element has a comma, no number begins with a zero.
_LENGTH = rb"(?:0|[1-9][0-9]*)[ \t\n]*"
_SHAPE = re.compile(
    rb"\([ \t\n]*(?:%b,[ \t\n]*(?:%b,[ \t\n]*)*(?:%b)?)?\)" % ((_LENGTH,) * 3)
)
_NUMBERS = re.compile(rb"'[<>|=]?[iuf][0-9]{1,2}'")


def read_npy(body: bytes) -> np.ndarray[Any, Any]:
    """The array of an npy file, as a view of `body`. Sizes are checked before anything is
    allocated; object types, and so pickles, are refused. Raises InvalidInput."""
    entries, offset = _read_header(body)
    descr, order, shape_text = (
        entries[b"descr"],
        entries[b"fortran_order"],
        entries[b"shape"],
    )
    if not _NUMBERS.fullmatch(descr):
        raise InvalidInput("the array must hold integers or floating-point numbers")
    shape = tuple(int(digits) for digits in re.findall(rb"[0-9]+", shape_text))
    if not shape:
        raise InvalidInput("Expected an array of at least one axis")
    if len(shape) > MAX_AXES + 1:
        raise InvalidInput(f"Expected an array of at most {MAX_AXES + 1} axes")
    try:
        dtype = np.dtype(descr[1:-1].decode())
    except TypeError:
        raise InvalidInput("there are no numbers of the array's size") from None
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(body) - offset:
        raise InvalidInput("the array's header and the length of its data disagree")
    values = np.frombuffer(memoryview(body)[offset:], dtype)
    try:
        return values.reshape(shape, order="F" if order == b"True" else "C")
    except (ValueError, OverflowError):  # an empty array with an absurd axis
        raise InvalidInput("the array is too large") from None


def _read_header(body: bytes) -> tuple[dict[bytes, bytes], int]:
    """The entries of the header as they are spelled, and where the data begin."""
    version = body[6:8]
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(version)
    if body[:6] != _MAGIC or width is None:
        raise InvalidInput("the body is not an npy file of version 1 or 2")
    start = 8 + width
    end = start + int.from_bytes(body[8:start], "little")
    if len(body) < end or end - start > _MAX_HEADER:
        raise _malformed()
    text = body[start:end].strip(_SPACE)
    if text[:1] != b"{" or text[-1:] != b"}":
        raise _malformed()
    text, at = text[1:-1], 0
    entries: dict[bytes, bytes] = {}
    while at < len(text):
        entry = _ENTRY.match(text, at)
        if entry is None or entry[1] in entries:
            raise _malformed()
        entries[entry[1]] = entry[2]
        at = entry.end()
    if (
        len(entries) != 3
        or entries[b"fortran_order"] not in (b"True", b"False")
        or not _SHAPE.fullmatch(entries[b"shape"])
    ):
        raise _malformed()
    return entries, end


def _malformed() -> InvalidInput:
    return InvalidInput("the header of the npy file is malformed or not of plain numbers")
