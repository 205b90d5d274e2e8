"""How log lines are written, whoever's text is in them.

A record begins with its time, and no text that came from a client or a model can look like
the beginning of another: its further lines are indented, and what a terminal would act on
is written as an escape. A place in the code that logs again and again is cut short, so
that nobody fills the disk by repeating what goes wrong.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MOST_CHARACTERS = 16_000  # of one record; of a longer one beginning and end are kept
INDENT = "    | "  # before the further lines of a record

BURST = 100  # records that one place in the code may log at once
PER_SECOND = 1.0  # and as many more each second
MOST_PLACES = 1_000  # that are told apart; the code has some fifty

# Control characters, separators that some viewers break lines at, and marks that turn the
# direction of writing. Newline and tab may stay.
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F,
        *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000), 0xFEFF,
    )
}  # fmt: skip
del _ESCAPES[ord("\n")], _ESCAPES[ord("\t")]


class SafeFormatter(logging.Formatter):
    """Writes a record so that it cannot pass for two, and tells what `Throttle` let go."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if len(text) > MOST_CHARACTERS:
            half = MOST_CHARACTERS // 2
            text = f"{text[:half]}\n... {len(text) - 2 * half} more ...\n{text[-half:]}"
        text = text.rstrip("\n").translate(_ESCAPES).replace("\n", f"\n{INDENT}")
        left_out = getattr(record, LEFT_OUT, 0)
        if left_out:
            text += f"\n{INDENT}({left_out} more from this place were left out)"
        return text


LEFT_OUT = "left_out"


class _Place:
    __slots__ = ("left_out", "seen", "tokens")

    def __init__(self, now: float) -> None:
        self.tokens = float(BURST)
        self.seen = now
        self.left_out = 0


class Throttle(logging.Filter):
    """Lets BURST records of one place in the code through, then PER_SECOND."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        # All mutable state, also touched by the store's thread, at worst a count too few:
        # what each place may still log.
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._now()
        key = record.pathname, record.lineno
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MOST_PLACES:
                self._places.clear()
            place = self._places[key] = _Place(now)
        place.tokens = min(BURST, place.tokens + (now - place.seen) * PER_SECOND)
        place.seen = now
        if place.tokens < 1.0:
            place.left_out += 1
            return False
        place.tokens -= 1.0
        setattr(record, LEFT_OUT, place.left_out)
        place.left_out = 0
        return True


def make_safe(handler: logging.Handler) -> logging.Handler:
    """The handler with the rules of this module."""
    handler.setFormatter(
        SafeFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    handler.addFilter(Throttle())
    return handler
