"""How the rows of a batch lie in its bytes: written by the server, read by the worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from clipper.inputs import InputType
from clipper.values import UNIFORM, Layout


def layout_of(
    kind: InputType,
    payloads: Sequence[bytes | memoryview],
    shapes: Sequence[tuple[int, ...] | None],
) -> Layout:
    """The layout of rows that were encoded one by one."""
    lengths = list(map(len, payloads))
    rows, first = len(lengths), shapes[0]
    if shapes.count(first) == rows:
        alike = kind.dtype is not None and lengths.count(lengths[0]) == rows
        if alike and first is None:
            return UNIFORM
        return Layout(None if alike else lengths, first)
    itemsize = kind.dtype.itemsize if kind.dtype is not None else 1
    return Layout(
        lengths,
        [
            (len(payload) // itemsize,) if shape is None else shape
            for payload, shape in zip(payloads, shapes, strict=True)
        ],
    )


def layout_of_blocks(
    kind: InputType,
    payloads: Sequence[bytes | memoryview],
    shapes: Sequence[tuple[int, ...] | None],
    counts: Sequence[int],
) -> Layout:
    """The layout of a batch whose parts hold `counts` rows each, alike within a part."""
    sizes = [len(p) // n for p, n in zip(payloads, counts, strict=True)]
    if kind.dtype is not None and len(set(sizes)) == 1 and len(set(shapes)) == 1:
        return Layout(None, shapes[0])
    rows = [
        (payload[:size], shape)
        for payload, shape, size, n in zip(payloads, shapes, sizes, counts, strict=True)
        for _ in range(n)
    ]
    return layout_of(kind, [row for row, _ in rows], [shape for _, shape in rows])


def decode_batch(
    kind: InputType, rows: int, layout: Layout, body: bytearray | memoryview
) -> Any:
    """The rows as the user's function gets them.

    Numeric rows of one shape become one array of shape (rows, *shape), which is
    writable and iterates row by row; others become a list with one entry per row.
    """
    lengths, shapes = layout
    if kind.dtype is not None and lengths is None:
        values = np.frombuffer(body, dtype=kind.dtype)
        shape = shapes if isinstance(shapes, tuple) else (values.size // rows,)
        return values.reshape(rows, *shape)
    assert lengths is not None
    view, start = memoryview(body), 0
    out: list[Any] = []
    for i, length in enumerate(lengths):
        row = view[start : start + length]
        start += length
        if kind.dtype is not None:
            flat = np.frombuffer(row, dtype=kind.dtype)
            own = shapes[i] if isinstance(shapes, list) else shapes
            out.append(flat if own is None else flat.reshape(own))
        elif kind is InputType.STRINGS:
            out.append(str(row, "utf-8"))
        elif kind is InputType.BYTES:
            out.append(bytes(row))
        else:
            out.append(msgspec.msgpack.decode(row))
    return out
