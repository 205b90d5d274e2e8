"""How much JSON text holds, and how deep it is nested, read off its bytes.

To build the objects of a text takes a hundred times as long as this, and while it lasts
nobody else is served: so what is too much is refused before anything is built of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_COMMA, _COLON, _QUOTE = b',:"'
_OPENING, _CLOSING = 0x5B, 0x5D  # of arrays; of objects with the bit of _CASE as well
_CASE = 0xDF  # a mask that takes it away

NESTED = 4  # what an array, an object or a name in one counts beside one number

_BLOCK = 1 << 18  # bytes that are looked at together; they stay in the processor's cache

Bytes = npt.NDArray[np.uint8]


def is_heavier(text: bytes, most: int) -> bool:
    """Whether JSON text holds more than `most` values: numbers, strings and the like
    count one, arrays, objects and names within them three more. Of text that is no JSON it
    may say either."""
    if NESTED * len(text) <= most:
        return False
    blocks = np.frombuffer(text, np.uint8)
    if sum(map(_weight, _cut(blocks))) <= most:
        return False  # with what stands in strings, which is hardly anything mostly
    if text.count(b"\\") > most:
        return True  # to find the ends of its strings would take too long
    return sum(_weight(_outside(block)) for block in _with_strings(text)) > most


def is_deeper(text: bytes, most: int) -> bool:
    """Whether arrays and objects in JSON text are nested more than `most` deep."""
    if text.count(b"[") + text.count(b"{") <= most:
        return False
    level = 0
    for block in _with_strings(text):
        folded = _outside(block) & _CASE
        at = np.flatnonzero((folded == _OPENING) | (folded == _CLOSING))
        if at.size:
            steps = np.where(folded[at] == _OPENING, 1, -1)
            levels = level + np.cumsum(steps)
            if levels.max() > most:
                return True
            level = int(levels[-1])
    return False


def _weight(block: Bytes) -> int:
    nested = np.count_nonzero(block & _CASE == _OPENING) + np.count_nonzero(block == _COLON)
    return int(np.count_nonzero(block == _COMMA) + (NESTED - 1) * nested)


def _cut(data: Bytes) -> Iterator[Bytes]:
    return (data[i : i + _BLOCK] for i in range(0, len(data), _BLOCK))


def _with_strings(text: bytes) -> Iterator[tuple[Bytes, Any]]:
    """The text in blocks, each with a mask of what is inside of a string."""
    if b"\\" in text:
        # every quote that is left begins or ends a string
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    inside = np.uint8(0)
    for block in _cut(np.frombuffer(text, np.uint8)):
        mask = np.bitwise_xor.accumulate((block == _QUOTE).view(np.uint8)) ^ inside
        inside = mask[-1]
        yield block, mask


def _outside(block: tuple[Bytes, Any]) -> Bytes:
    """The block with what is inside of strings made nothing."""
    data, mask = block
    return np.where(mask, np.uint8(0), data)
