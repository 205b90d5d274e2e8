"""Numbers as people read them."""

from __future__ import annotations


def count(number: int, noun: str = "row") -> str:
    """``1 row``, ``18,204 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {_plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def percent(share: float) -> str:
    """One decimal; all and none are said of all and none alone."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share < 0.001:
        return "less than 0.1 %"
    if share > 0.999:
        return "more than 99.9 %"
    return f"{100 * share:.1f} %"


def duration(ms: float) -> str:
    """Three digits, in microseconds, milliseconds or seconds."""
    if ms >= 999.5:
        return f"{ms / 1e3:.3g} s"
    if 0.0 < ms < 0.0995:
        return f"{ms * 1e3:.3g} µs"
    return f"{ms:.3g} ms"


def rate(per_second: float) -> str:
    """Three digits, with commas."""
    rounded = float(f"{per_second:.3g}")
    return f"{rounded:,.0f} rows/s" if rounded >= 100 else f"{rounded:g} rows/s"


def seconds(number: float) -> str:
    """Whole seconds, at least one."""
    return f"{max(1, round(number))} s"


def sentence(text: str) -> str:
    """The first line of `text` as a part of a sentence, without its full stop."""
    lines = text.strip().splitlines()
    return lines[0].rstrip(". ") if lines else ""
