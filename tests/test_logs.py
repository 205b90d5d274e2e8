"""Log lines: nobody's text can pass for one, and no place in the code can fill a disk."""

from __future__ import annotations

import io
import logging
import re
from typing import Any
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.logs import (
    BURST,
    INDENT,
    MOST_CHARACTERS,
    MOST_PLACES,
    SafeFormatter,
    Throttle,
    make_safe,
)

BEGINNING = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ +")


def logged(message: str, *values: Any, **more: Any) -> str:
    """What a handler writes of one record."""
    stream = io.StringIO()
    handler = make_safe(logging.StreamHandler(stream))
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, message, values, None)
    record.__dict__.update(more)
    handler.handle(record)
    return stream.getvalue()


@pytest.mark.fault("N7")
@given(st.text(), st.sampled_from(["\n", "\r\n", "\r", "\x85", "\u2028", "\v", "\f"]))
def test_no_text_begins_a_record(text: str, newline: str) -> None:
    forged = f"a{newline}12:00:00 WARNING you are root {text}"
    first, *rest = logged("%s was deployed", forged).splitlines()
    assert BEGINNING.match(first)
    assert all(line.startswith(INDENT) for line in rest)


@pytest.mark.fault("N7")
@given(st.text())
def test_a_terminal_acts_on_nothing(text: str) -> None:
    found = logged("%s", f"\x1b[2J\x1b]0;owned\x07\u202e{text}\x9b31m\x00\ud800")
    assert r"\x1b[2J\x1b]0;owned\x07\u202e" in found
    assert r"\x9b31m\x00\ud800" in found
    found.encode()
    acting = {c for c in found if category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert acting <= {"\n", "\t"}


def test_tracebacks_stay_readable() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        found = logged("it failed", exc_info=(type(error), error, error.__traceback__))
    lines = found.splitlines()
    assert lines[0].endswith("it failed")
    assert lines[1] == f"{INDENT}Traceback (most recent call last):"
    assert lines[-2:] == [f"{INDENT}ValueError: first", f"{INDENT}second"]


def test_a_record_is_bounded() -> None:
    found = logged("begin %s end", "x" * 10_000_000)
    assert len(found) < MOST_CHARACTERS + 200
    assert "begin" in found and found.rstrip().endswith("end")


class Place:
    """Logs from one line of the code, in manual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.throttle = Throttle(lambda: self.now)

    def log(self, line: int = 1) -> logging.LogRecord | None:
        record = logging.LogRecord("x", logging.ERROR, __file__, line, "m", (), None)
        return record if self.throttle.filter(record) else None


def test_a_place_that_repeats_itself_is_cut_short() -> None:
    place = Place()
    found = [place.log() for _ in range(100_000)]
    assert sum(record is not None for record in found) == BURST
    assert place.log(line=2) is not None  # others are heard
    place.now = 1.0
    record = place.log()
    assert record is not None and record.__dict__["left_out"] == 100_000 - BURST
    assert place.log() is None
    told = f"\n{INDENT}({100_000 - BURST} more from this place were left out)"
    assert SafeFormatter("%(message)s").format(record) == f"m{told}"


def test_after_a_pause_it_may_speak_again() -> None:
    place = Place()
    while place.log():
        pass
    place.now = 10_000.0
    assert sum(place.log() is not None for _ in range(1000)) == BURST


def test_the_places_are_bounded() -> None:
    place = Place()
    for line in range(3 * MOST_PLACES):
        place.log(line)
    assert len(place.throttle._places) <= MOST_PLACES
