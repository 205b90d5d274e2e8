"""Drawing an arm: the one place where a choice meets chance."""

from __future__ import annotations

import hashlib
import math
import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

_FLOAT = struct.Struct("<f")


def as_logged(probability: float) -> float:
    """A propensity as a query id keeps it, in 32 bits. It is used so from the start:
    feedback that has nothing but the id then learns the same as feedback that has more."""
    rounded: float = _FLOAT.unpack(_FLOAT.pack(probability))[0]
    return rounded


class Odds:
    """A distribution, compiled to be drawn from many times.

    `probabilities` are normalised; what has probability 0 is never drawn. `bounds` are
    where each of them ends: a uniform number is looked for in them.
    """

    __slots__ = ("bounds", "probabilities")

    def __init__(self, probabilities: Sequence[float]) -> None:
        total = sum(probabilities)
        if not 0 < total < math.inf or min(probabilities) < 0:
            raise ValueError(f"not a distribution: {list(probabilities)}")
        self.probabilities = [p / total for p in probabilities]
        self.bounds = list(accumulate(self.probabilities))
        # rounding may leave a gap above the last one that can be drawn
        last = max(i for i, p in enumerate(self.probabilities) if p)
        self.bounds[last:] = [math.inf] * (len(self.bounds) - last)

    def draw(self, u: float) -> int:
        """Which of them the number `u`, uniform in [0, 1), stands for."""
        return bisect_right(self.bounds, u)


def sticky(uid: str, salt: object) -> float:
    """A number in [0, 1) that is always the same for a uid, and uniform over uids."""
    digest = hashlib.blake2b(f"{salt}\0{uid}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
