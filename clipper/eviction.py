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
# entries of a large cache while every query waits. It changes no hit ratio of the
# benchmark's traces by more than 0.0001.
PATIENCE = 250


class Entry(msgspec.Struct, gc=False):
    """One cached output, and when its evaluation ended, in seconds of the cache's clock.

    The rest is SIEVE's: its mark and the neighbours in the queue. Neighbours are named by
    key, so there are no cycles and the garbage collector need not look at entries: a
    quarter of a million tracked ones would make each full collection 40 ms long.
    """

    output: bytes | str
    made: float
    visited: bool = False
    older: bytes | None = None
    newer: bytes | None = None


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
        # All mutable state: entries; both ends of their queue and the hand, by key. A
        # hand of None is past the newest, and goes on with the oldest.
        self.entries: dict[bytes, Entry] = {}
        self._oldest: bytes | None = None
        self._newest: bytes | None = None
        self._hand: bytes | None = None

    def add(self, key: bytes, entry: Entry) -> None:
        newest = self._newest
        if newest is None:
            self._oldest = key
        else:
            entry.older = newest
            self.entries[newest].newer = key
        self._newest = key
        self.entries[key] = entry

    def remove(self, key: bytes) -> Entry | None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            if self._hand == key:
                self._hand = entry.newer
            self._unlink(entry)
        return entry

    def evict(self) -> tuple[bytes, Entry]:
        key = self._oldest if self._hand is None else self._hand
        assert key is not None, "there is nothing to evict"
        entry = self.entries[key]
        if entry.visited:
            key, entry = self._search(key, entry)
        self._hand = entry.newer
        del self.entries[key]
        self._unlink(entry)
        return key, entry

    def _search(self, key: bytes, entry: Entry) -> tuple[bytes, Entry]:
        """The entry that the hand takes, when it has come to this one."""
        for _ in range(PATIENCE):
            if not entry.visited:
                break
            entry.visited = False
            following = self._oldest if entry.newer is None else entry.newer
            assert following is not None
            key, entry = following, self.entries[following]
        return key, entry

    def _unlink(self, entry: Entry) -> None:
        older, newer = entry.older, entry.newer
        if older is None:
            self._oldest = newer
        else:
            self.entries[older].newer = newer
        if newer is None:
            self._newest = older
        else:
            self.entries[newer].older = older


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
