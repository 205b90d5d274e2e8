"""How much a body may hold: what is too much is refused before it is decoded.

Decoding is done in the event loop, and a body of 16 MiB can hold millions of values: their
objects would take seconds, in which nobody else is served. JSON is counted exactly. Of
msgpack the headers tell how long flat arrays of numbers are; for all else each byte
counts as what it could be at most.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.frontend.gate import JSON
from clipper.inputs import InputType
from clipper.outline import NESTED, is_heavier


class _Outline(msgspec.Struct):
    """Where the values of a msgpack body are."""

    input: Raw | UnsetType = UNSET
    input_batch: Raw | UnsetType = UNSET
    context: Raw | UnsetType = UNSET
    feedback: Raw | UnsetType = UNSET


_outline = msgspec.msgpack.Decoder(_Outline).decode
_pieces = msgspec.msgpack.Decoder(list[Raw]).decode


def check_weight(
    kind: InputType, media: str, body: bytes, most: int, most_rows: int
) -> None:
    """Refuse a body that holds more than `most` values. Raises PayloadTooLarge, or
    InvalidInput for msgpack that cannot be looked through."""
    if media == JSON:
        if is_heavier(body, most):
            raise too_heavy(most)
    elif len(body) * NESTED > most and _weight(kind, body, most_rows) > most:
        raise too_heavy(most)


def too_heavy(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"a body may hold at most {most} values, where an array, an object and a name in "
        f"one count {NESTED}, and so does each byte of nested msgpack; send numbers as "
        "application/x-npy, send less at once, or raise limits.values_per_request"
    )


def weight_of(kind: InputType, raw: Raw) -> int:
    """The most values that one msgpack value can stand for."""
    view = memoryview(raw)
    length = _length(view)
    if length is None:
        return len(view) * NESTED if _is_map(view[0]) else 1
    return length if kind.dtype is not None else len(view) * NESTED


def _weight(kind: InputType, body: bytes, most_rows: int) -> int:
    try:
        outline = _outline(body)
        weight = 0
        if outline.context is not UNSET:
            weight += weight_of(InputType.JSON, outline.context)
        if outline.input is not UNSET:
            weight += weight_of(kind, outline.input)
        for rows in (outline.input_batch, outline.feedback):
            if rows is not UNSET and (count := _length(memoryview(rows))) is not None:
                if count > most_rows:
                    raise PayloadTooLarge(f"a list may have at most {most_rows} items")
                # feedback is weighed piece by piece when it is decoded
                each = _pieces(rows) if rows is outline.input_batch else ()
                weight += sum(weight_of(kind, row) for row in each)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidInput("the body is malformed, or no map with fields") from None
    return weight


def _length(view: memoryview) -> int | None:
    """How many elements a msgpack array has; None for what is none."""
    first = view[0]
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first in (0xDC, 0xDD):
        return int.from_bytes(view[1 : 3 if first == 0xDC else 5], "big")
    return None


def _is_map(first: int) -> bool:
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)
