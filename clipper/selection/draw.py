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


def normalised(probabilities: Sequence[float]) -> list[float]:
    """The same as floats of sum 1. Raises ValueError for what is no distribution."""
    found = list(map(float, probabilities))
    total = sum(found)
    if not 0 < total < math.inf or min(found) < 0:
        raise ValueError(f"not a distribution: {found}")
    return found if total == 1.0 else [p / total for p in found]


def draw_once(probabilities: Sequence[float], u: float) -> int:
    """Which of normalised probabilities the number `u`, uniform in [0, 1), stands for:
    what Odds says of it, for a distribution that is hardly ever met again."""
    end, last = 0.0, 0
    for index, p in enumerate(probabilities):
        end += p
        if u < end:
            return index
        if p:
            last = index
    return last  # rounding left a gap above it


class Odds:
    """A distribution, compiled to be drawn from many times.

    `probabilities` are normalised; what has probability 0 is never drawn. `bounds` are
    where each of them ends: a uniform number is looked for in them.
    """

    __slots__ = ("bounds", "probabilities")

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = normalised(probabilities)
        self.bounds = list(accumulate(self.probabilities))
        # rounding may leave a gap above the last one that can be drawn
        last = max(i for i, p in enumerate(self.probabilities) if p)
        self.bounds[last:] = [math.inf] * (len(self.bounds) - last)

    def draw(self, u: float) -> int:
        """Which of them the number `u`, uniform in [0, 1), stands for."""
        return bisect_right(self.bounds, u)


class Seats:
    """Where users stay: a draw that is always the same for a uid, from the same odds over
    all uids, and moves few users when the odds change.

    Weighted rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to
    increase hit rates", IEEE/ACM Transactions on Networking 1998; with weights
    Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005): of the
    hashes h of uid and name, uniform in (0, 1], the least -ln(h) / p wins, which is that of
    name i with probability p_i. A user moves only to a name whose share has grown in
    proportion to that of the name left. With d the total variation between old and new
    odds, as few move as can, d, where one name gains from or loses to all others alike, and
    never more than 2 d / (1 + d).
    """

    __slots__ = ("_names",)

    def __init__(
        self, salt: object, names: Sequence[str], probabilities: Sequence[float]
    ) -> None:
        # each that can be drawn: its index, probability, and hash before the uid
        self._names = [
            (index, p, hashlib.blake2b(f"{salt}\0{name}\0".encode(), digest_size=8))
            for index, (name, p) in enumerate(zip(names, probabilities, strict=True))
            if p
        ]

    def draw(self, uid: str) -> int:
        """The index of the name that the user stays with."""
        if len(self._names) == 1:
            return self._names[0][0]
        text = uid.encode()
        best, least = self._names[0][0], math.inf
        for index, p, prefix in self._names:
            hashed = prefix.copy()
            hashed.update(text)
            # the upper 53 bits as a number in (0, 1]
            h = ((int.from_bytes(hashed.digest(), "little") >> 11) + 1) / 2**53
            score = -math.log(h) / p
            if score < least:
                best, least = index, score
        return best
