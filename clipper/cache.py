"""The prediction cache: bounded by bytes, single flight, fresh as its reader asks.

Invariants: errors are never cached; a key has at most one evaluation in flight; an entry
is never larger than the whole cache. Which entries go first is in clipper.eviction.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Generic, TypeVar

from clipper.clock import Clock, SystemClock
from clipper.eviction import POLICIES, Entry

Pending = TypeVar("Pending")

# Inputs up to this size are their own key: exact, and cheaper than a digest.
EXACT = 256

_PREFIX = struct.Struct("<I")


def key_prefix(generation: int) -> bytes:
    """What the keys of one deployed version begin with. Generations are never given
    twice, so a version that is deployed again cannot meet its predecessor's entries."""
    return _PREFIX.pack(generation)


def exact_prefix(prefix: bytes) -> bytes:
    """What goes before a flat input of at most EXACT bytes to make its key."""
    return prefix + b"\0"


def cache_key(prefix: bytes, payload: bytes, shape: tuple[int, ...] | None = None) -> bytes:
    """The key of one typed input. The input type is the version's, and so in the prefix.

    Tags keep the three forms apart: exact bytes, their 128-bit digest with the length,
    and the digest of a shaped array with its shape.
    """
    if shape is None:
        if len(payload) <= EXACT:
            return exact_prefix(prefix) + payload
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        return prefix + b"\1" + len(payload).to_bytes(8, "little") + digest
    digest = hashlib.blake2b(payload, digest_size=16).digest()
    return prefix + b"\2" + struct.pack(f"<{len(shape)}Q", *shape) + digest


class PredictionCache(Generic[Pending]):
    """Outputs by key, and what is being evaluated.

    Values are JSON text (bytes), or a string output (str). `Pending` is whatever stands
    for an evaluation in flight; the cache only keeps it.

    Applications of one model version share its entries. How old an output may be is the
    reader's affair: to one that asks for something fresher an entry is a miss, and what
    is evaluated then takes its place for all.
    """

    def __init__(
        self, max_bytes: int, policy: str = "sieve", clock: Clock | None = None
    ) -> None:
        self.max_bytes = max_bytes
        self._now = (clock or SystemClock()).now
        # All mutable state: entries; their bytes; evaluations in flight; counters.
        self._eviction = POLICIES[policy]()
        self.bytes = 0
        self.in_flight: dict[bytes, Pending] = {}
        self.hits = self.misses = self.joins = self.evictions = 0
        # parts of the policy at hand, because they are asked for all the time
        self._entries = self._eviction.entries
        self._touch = self._eviction.touch
        self._overhead = self._eviction.overhead

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return (
            f"<PredictionCache entries={len(self)} bytes={self.bytes}/{self.max_bytes} "
            f"in_flight={len(self.in_flight)}>"
        )

    def get(self, key: bytes) -> bytes | str | None:
        """The cached output, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._touch is not None:
            self._touch(key)
        elif not entry.visited:
            entry.visited = True
        self.hits += 1
        return entry.output

    def get_since(self, key: bytes, since: float) -> bytes | str | None:
        """The cached output, or None if there is none or it was made before `since`,
        in seconds of the clock."""
        entry = self._entries.get(key)
        return None if entry is None or entry.made < since else self.get(key)

    def join(self, key: bytes) -> Pending | None:
        """The evaluation of this key that is in flight, if there is one."""
        pending = self.in_flight.get(key)
        if pending is None:
            self.misses += 1
        else:
            self.joins += 1
        return pending

    def begin(self, key: bytes, pending: Pending) -> None:
        """An evaluation of a missed key starts."""
        self.in_flight[key] = pending

    def finish(self, key: bytes, pending: Pending, output: bytes | str | None) -> None:
        """The evaluation ended; None when it failed, which is not kept. An elder output
        of the key stays until there is a new one."""
        if self.in_flight.get(key) is pending:
            del self.in_flight[key]
        if output is not None:
            self._put(key, output)

    def _put(self, key: bytes, output: bytes | str) -> None:
        # one that is evaluated anew was asked for again
        visited = key in self._entries and self._remove(key)
        size = self._size(key, output)
        if size > self.max_bytes:
            return
        while self.bytes + size > self.max_bytes:
            victim, entry = self._eviction.evict()
            self.bytes -= self._size(victim, entry.output)
            self.evictions += 1
        self._eviction.add(key, Entry(output, self._now(), visited))
        self.bytes += size

    def _remove(self, key: bytes) -> bool:
        entry = self._eviction.remove(key)
        if entry is None:
            return False
        self.bytes -= self._size(key, entry.output)
        return True

    def keys_of(self, prefix: bytes) -> list[bytes]:
        """The keys that begin with `prefix`."""
        return [key for key in self._entries if key.startswith(prefix)]

    def discard(self, keys: list[bytes]) -> None:
        """Forget these entries."""
        for key in keys:
            self._remove(key)

    def _size(self, key: bytes, output: bytes | str) -> int:
        # a str counts twice its length: wide characters take up to four bytes each, and
        # string outputs that are JSON text are nearly always ASCII
        extra = len(output) if type(output) is bytes else 2 * len(output)
        return len(key) + extra + self._overhead
