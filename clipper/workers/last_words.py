"""What workers printed before they ended, the stack of a hung one among it."""

from __future__ import annotations

from collections import deque

_KEPT = 5  # workers
_LONGEST = 32 * 1024  # characters of each, the last ones


class LastWords:
    """Of the latest workers of one version."""

    # State: titles and outputs, the latest last.

    def __init__(self) -> None:
        self._kept: deque[tuple[str, str]] = deque(maxlen=_KEPT)

    def keep(self, pid: int | None, reason: str, output: str) -> None:
        """A worker ended. One that never printed anything is kept out."""
        if output:
            why = f": {reason}" if reason else ""
            self._kept.append((f"worker {pid}, which ended{why}", output[-_LONGEST:]))

    def parts(self) -> list[tuple[str, str]]:
        return [*self._kept]
