"""The last output of a worker, for people."""

from __future__ import annotations

_LIMIT = 64 * 1024

# Control characters a model may print must not reach a terminal; newline and tab may.
_SAFE = dict.fromkeys((*range(32), 127, *range(128, 160)), "\ufffd")
del _SAFE[ord("\n")], _SAFE[ord("\t")]


class LogTail:
    """Keeps the last 64 KiB of what was written and counts what it let go."""

    # State: `_data` holds at most twice the limit; `dropped` counts forgotten bytes.

    __slots__ = ("_data", "dropped")

    def __init__(self) -> None:
        self._data = bytearray()
        self.dropped = 0

    def write(self, data: bytes) -> None:
        self._data += data
        excess = len(self._data) - _LIMIT
        if excess > 0:
            del self._data[:excess]
            self.dropped += excess

    def text(self) -> str:
        """The tail as text. A character cut in two at the front is left out, and what is
        no UTF-8 is shown as U+FFFD."""
        data = bytes(self._data)
        if self.dropped:
            start = 0
            while start < 4 and data[start : start + 1] and data[start] & 0xC0 == 0x80:
                start += 1
            data = data[start:]
        return data.decode("utf-8", "replace").translate(_SAFE)
