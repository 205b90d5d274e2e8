"""Tables that hold the newest items: what comes when they are full replaces the oldest.

To empty them instead would lose those that come again and again with the others, and let
the memory that is needed rise and fall.
"""

from __future__ import annotations

from collections import deque
from typing import Any


class Newest:
    """The bound of one table, or of several together. They are dicts, to be looked into
    without a call."""

    # State: what was added, in that order.

    __slots__ = ("_most", "_order")

    def __init__(self, most: int) -> None:
        self._most = most
        self._order: deque[tuple[dict[bytes, Any], bytes]] = deque()

    def add(self, table: dict[bytes, Any], key: bytes, value: Any) -> None:
        """Enter what is in none of the tables."""
        order = self._order
        if len(order) >= self._most:
            oldest, its_key = order.popleft()
            oldest.pop(its_key, None)
        order.append((table, key))
        table[key] = value
