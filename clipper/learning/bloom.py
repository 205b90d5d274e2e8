"""Which users may have a kept state, in a few bits each.

A query of a user who has none must not wait for the disk to say so. Answers "no" are
certain; "maybe" is wrong for 1 in 20,000 at a million users, 1 in 150 at three.
"""

from __future__ import annotations

_BITS = 25  # 2 to the power of this many: 4 MiB
_MASK = (1 << _BITS) - 1
_PROBES = 5


class Bloom:
    """A Bloom filter (Bloom 1970) over anything that can be hashed."""

    def __init__(self) -> None:
        # All mutable state: the bits, made when the first is set.
        self._bits = bytearray()

    def add(self, key: object) -> None:
        if not self._bits:
            self._bits = bytearray(1 << (_BITS - 3))
        at, step = self._begin(key)
        for _ in range(_PROBES):
            self._bits[at >> 3] |= 1 << (at & 7)
            at = (at + step) & _MASK

    def __contains__(self, key: object) -> bool:
        bits = self._bits
        if not bits:
            return False
        at, step = self._begin(key)
        for _ in range(_PROBES):
            if not bits[at >> 3] & 1 << (at & 7):
                return False
            at = (at + step) & _MASK
        return True

    @staticmethod
    def _begin(key: object) -> tuple[int, int]:
        # two halves of one hash stand for as many hashes as are needed (Kirsch and
        # Mitzenmacher 2006)
        mixed = hash((key, 0x5BD1E995))
        return mixed & _MASK, (mixed >> 32) | 1
