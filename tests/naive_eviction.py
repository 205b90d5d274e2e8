"""Eviction policies written for reading: plain lists, searched from end to end."""

from __future__ import annotations


class NaiveLru:
    """The queue goes from the least to the most recently used."""

    def __init__(self) -> None:
        self.queue: list[bytes] = []

    def add(self, key: bytes) -> None:
        self.queue.append(key)

    def hit(self, key: bytes) -> None:
        self.queue.remove(key)
        self.queue.append(key)

    def remove(self, key: bytes) -> None:
        self.queue.remove(key)

    def evict(self) -> bytes:
        return self.queue.pop(0)


class NaiveSieve:
    """The queue goes from the oldest to the newest; the hand rests on a key, or, as None,
    before the oldest."""

    def __init__(self) -> None:
        self.queue: list[bytes] = []
        self.visited: set[bytes] = set()
        self.hand: bytes | None = None

    def _next(self, key: bytes) -> bytes | None:
        at = self.queue.index(key) + 1
        return self.queue[at] if at < len(self.queue) else None

    def add(self, key: bytes) -> None:
        self.queue.append(key)

    def hit(self, key: bytes) -> None:
        self.visited.add(key)

    def remove(self, key: bytes) -> None:
        if self.hand == key:
            self.hand = self._next(key)
        self.queue.remove(key)
        self.visited.discard(key)

    def evict(self) -> bytes:
        key = self.hand or self.queue[0]
        while key in self.visited:
            self.visited.remove(key)
            key = self._next(key) or self.queue[0]
        self.hand = key
        self.remove(key)
        return key


NAIVE: dict[str, type[NaiveLru] | type[NaiveSieve]] = {
    "lru": NaiveLru,
    "sieve": NaiveSieve,
}
