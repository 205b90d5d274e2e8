"""What happened in a world, and whether the same happened in another."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable


class Trace:
    """Keeps the last lines, and a digest of all."""

    def __init__(self, now: Callable[[], float], most: int) -> None:
        self._now = now
        # All mutable state: the last lines, and the digest.
        self.lines: deque[str] = deque(maxlen=most)
        self._digest = hashlib.blake2b(digest_size=16)

    def note(self, line: str) -> None:
        line = f"{self._now():.6f} {line}"
        self._digest.update(line.encode())
        self.lines.append(line)

    @property
    def fingerprint(self) -> str:
        """The same for two runs in which the same happened."""
        return self._digest.hexdigest()
