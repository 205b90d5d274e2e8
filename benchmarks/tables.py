"""Tables of text, and numbers in their cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.results import Series


def cell(values: Series, form: str) -> str:
    return form.format(statistics.median(values)) if values else "-"


def spread(values: Series, form: str) -> str:
    if len(values) < 2:
        return ""
    return f"{form.format(min(values))} .. {form.format(max(values))}"


def table(heads: list[str], lines: Iterable[list[str]], left: Iterable[int] = ()) -> str:
    """Columns as wide as they must be; those numbered in `left` begin at the left."""
    rows: list[Any] = [heads, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    rows.insert(1, ["-" * width for width in widths])
    left = set(left)
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
