"""Which cached output goes when room is needed: SIEVE, or least recently used (LRU).

A policy keeps the entries in the order that it needs; `python -m benchmarks caching`
measures both. Bytes are the cache's business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

# After so many marked entries in a row SIEVE's hand takes the next one, marked or not. A
# step takes a tenth of a microsecond; without a bound one eviction might walk over all
# entries of a large cache while every query waits.
PATIENCE = 1000


class Entry(msgspec.Struct, gc=False):
    """One cached output, and when its evaluation ended, in seconds of the cache's clock.

    The rest is SIEVE's: its mark and the neighbours in the queue. Neighbours are named by
    key, so there are no cycles and the garbage collector need not look at entries: a
    quarter of a million tracked ones would make each full collection 40 ms long.
    """

    output: bytes | str
    made: float
    visited: bool = False
    older: bytes = b""
    newer: bytes = b""


class Eviction(Protocol):
    """The entries by key, in the order in which they go."""

    @property
    def entries(self) -> dict[bytes, Entry]:
        """For looking; `add`, `remove` and `evict` change it."""
        ...

    @property
    def overhead(self) -> int:
        """Bytes that an entry takes beside its key and output, on CPython 3.11."""
        ...

    @property
    def touch(self) -> Callable[[bytes], object] | None:
        """To be called with the key of each hit; None: hits only set `visited`."""
        ...

    def add(self, key: bytes, entry: Entry) -> None:
        """Take a key that is not there."""
        ...

    def remove(self, key: bytes) -> Entry | None:
        """Give up this entry, if it is there."""
        ...

    def evict(self) -> tuple[bytes, Entry]:
        """Give up the entry whose turn it is; there must be one."""
        ...


class Sieve:
    """SIEVE: Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction
    Algorithm for Web Caches", NSDI 2024, section 3.

    A queue in the order of arrival. A hit marks an entry and moves nothing. A hand goes
    from the oldest entry to the newest and round again; it clears the marks that it meets
    and takes the first entry without one. So what is asked once goes at the hand's first
    visit, and what is asked often stays where it is.
    """

    overhead = 250
    touch: Callable[[bytes], object] | None = None

    def __init__(self) -> None:
        # All mutable state: entries, a ring of neighbours; where it begins, and the hand,
        # by key. Both mean nothing while there are no entries.
        self.entries: dict[bytes, Entry] = {}
        self._oldest = self._hand = b""

    def add(self, key: bytes, entry: Entry) -> None:
        if self.entries:
            oldest = self.entries[self._oldest]
            entry.older, entry.newer = oldest.older, self._oldest
            self.entries[oldest.older].newer = key
            oldest.older = key
        else:
            self._oldest = self._hand = entry.older = entry.newer = key
        self.entries[key] = entry

    def remove(self, key: bytes) -> Entry | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        self.entries[entry.older].newer = entry.newer
        self.entries[entry.newer].older = entry.older
        if self._oldest == key:
            self._oldest = entry.newer
        if self._hand == key:
            self._hand = entry.newer
        return self.entries.pop(key)

    def evict(self) -> tuple[bytes, Entry]:
        entry = self.entries[self._hand]
        for _ in range(PATIENCE):
            if not entry.visited:
                break
            entry.visited = False
            self._hand = entry.newer
            entry = self.entries[self._hand]
        key = self._hand
        self.remove(key)
        return key, entry


class Lru:
    """Least recently used first."""

    overhead = 320

    def __init__(self) -> None:
        # All mutable state: entries, the least recently used first.
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.touch: Callable[[bytes], object] | None = self.entries.move_to_end

    def add(self, key: bytes, entry: Entry) -> None:
        self.entries[key] = entry

    def remove(self, key: bytes) -> Entry | None:
        return self.entries.pop(key, None)

    def evict(self) -> tuple[bytes, Entry]:
        return self.entries.popitem(last=False)


POLICIES: dict[str, Callable[[], Eviction]] = {"sieve": Sieve, "lru": Lru}
