"""Signed query ids: all that feedback needs to know, in the answer itself.

An id is 64 characters of base64: time, application, policy generation, arm, propensity,
a nonce, the number of rows it was issued for, and a keyed BLAKE2b signature over them. A
prediction therefore writes nothing to disk, and feedback after a restart still knows
which model answered and with what probability it had been chosen. Rows of one
input_batch share an id and append their index: ``<id>.17``.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import struct
from typing import NamedTuple

from clipper.clock import Clock
from clipper.errors import NotFound, QueryIdExpired

LIFETIME = 7 * 24 * 3600  # seconds

# Keys change with the calendar, so that one that leaked is of no use for long. The key of
# the period before stays valid: an id lives for less than a period.
PERIOD = 30 * 24 * 3600  # seconds

_FORMAT = 1
_FIXED = struct.Struct("<BBIIIIf")  # format, key, time, application, policy, arm, p
_TAIL = struct.Struct("<QH")  # nonce, rows
MOST_ROWS = 2**16 - 1  # of one id
_SIGNATURE = 16
ID_LENGTH = 64  # characters of an id, without a row's index
_URLSAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_MASK = 2**63 - 1  # what a database can keep as an integer

# 22 + 10 + 16 = 48 bytes: 64 characters without padding.
assert (_FIXED.size + _TAIL.size + _SIGNATURE) * 4 == ID_LENGTH * 3


class QueryToken(NamedTuple):
    """What an id says: who answered which query, when, and how likely that choice was.

    `arm` is the generation of the model version that was chosen, 0 where none was.
    """

    issued: int  # seconds since the epoch
    application: int
    policy_generation: int
    arm: int
    propensity: float
    nonce: int
    row: int


def key_number(wall: float) -> int:
    """The number of the key that signs at this time: 1 to 255, in turn."""
    return 1 + int(wall // PERIOD) % 255


class QueryIds:
    """Issues query ids with one key (32 bytes) and the number that names it; reads those
    of earlier keys too."""

    def __init__(
        self, key: bytes, clock: Clock, number: int = 0, nonce: int | None = None
    ) -> None:
        self._clock = clock
        # All mutable state: keys ready to sign, by number, the one that signs, and the
        # nonce of the last id, random at start, so that ids of two lives of a server
        # differ.
        self._signers = {number: _signer(key)}
        self._number = number
        if nonce is None:
            nonce = int.from_bytes(os.urandom(8), "little")
        self.nonce = nonce & _MASK

    def accept(self, key: bytes, number: int) -> None:
        """Read ids of this key as well."""
        self._signers[number] = _signer(key)

    def sign_with(self, key: bytes, number: int) -> None:
        """Issue ids with this key from now on; those of the last one stay valid. To say
        the same again changes nothing."""
        if number == self._number:
            return
        self._signers = {
            self._number: self._signers[self._number],
            number: _signer(key),
        }
        self._number = number

    @property
    def number(self) -> int:
        """The number of the key that signs."""
        return self._number

    def stamp(
        self, application: int, generation: int, arm: int, propensity: float
    ) -> Stamp:
        """A maker of ids for one decision that is taken again and again."""
        return Stamp(self, application, generation, arm, propensity)

    def stamp_once(
        self, application: int, generation: int, arm: int, propensity: float
    ) -> Stamp:
        """The same for a decision that is hardly ever taken again."""
        return OneStamp(self, application, generation, arm, propensity)

    def read(self, text: str) -> QueryToken:
        """What a genuine id says. Raises NotFound for anything else, QueryIdExpired for
        one that is too old."""
        token, dot, index = text.partition(".")
        row = int(index) if index.isascii() and index.isdecimal() and len(index) < 6 else 0
        if len(token) != ID_LENGTH or (dot and str(row) != index):
            raise _unknown()
        try:
            raw = binascii.a2b_base64(
                token.encode("ascii").translate(_STANDARD), strict_mode=True
            )
        except (binascii.Error, UnicodeEncodeError):
            raise _unknown() from None
        known = self._signers.get(raw[1])
        if known is None:
            raise _unknown()
        signer = known.copy()
        signer.update(raw[:-_SIGNATURE])
        if not hmac.compare_digest(signer.digest(), raw[-_SIGNATURE:]):
            raise _unknown()
        form, _, issued, application, policy, arm, p = _FIXED.unpack_from(raw)
        nonce, rows = _TAIL.unpack_from(raw, _FIXED.size)
        if form != _FORMAT or row >= max(rows, 1):
            raise _unknown()
        # base64 has spare spellings of the same bytes; only the one we wrote is ours
        if binascii.b2a_base64(raw, newline=False).translate(_URLSAFE) != token.encode():
            raise _unknown()
        if issued + LIFETIME < self._clock.wall():
            raise QueryIdExpired(f"the query id is older than {LIFETIME // 86400} days")
        return QueryToken(issued, application, policy, arm, p, nonce, row)


class Stamp:
    """Ids of one decision. The signed prefix is the same for a second, so an id costs
    one block of BLAKE2b."""

    __slots__ = ("_decision", "_ids", "_prefix", "_renew", "_signer")

    def __init__(
        self, ids: QueryIds, application: int, generation: int, arm: int, propensity: float
    ) -> None:
        self._ids = ids
        self._decision = (application, generation, arm, propensity)
        self._renew = float("-inf")
        self._prefix = b""
        self._signer = ids._signers[ids._number]

    def issue(self, now: float, rows: int = 1) -> bytes:
        """A new id as ASCII bytes; `now` is the monotonic time of the query."""
        if now >= self._renew:
            self._start_second(now)
        ids = self._ids
        ids.nonce = nonce = (ids.nonce + 1) & _MASK
        tail = _TAIL.pack(nonce, rows)
        signer = self._signer.copy()
        signer.update(tail)
        raw = self._prefix + tail + signer.digest()
        return binascii.b2a_base64(raw, newline=False).translate(_URLSAFE)

    def _start_second(self, now: float) -> None:
        self._renew = now + 1.0
        ids = self._ids
        wall = int(ids._clock.wall())
        self._prefix = _FIXED.pack(_FORMAT, ids._number, wall, *self._decision)
        self._signer = ids._signers[ids._number].copy()
        self._signer.update(self._prefix)


class OneStamp(Stamp):
    """For a decision that is taken once: signs in one go."""

    __slots__ = ()

    def issue(self, now: float, rows: int = 1) -> bytes:
        ids = self._ids
        ids.nonce = nonce = (ids.nonce + 1) & _MASK
        number, wall = ids._number, int(ids._clock.wall())
        raw = _FIXED.pack(_FORMAT, number, wall, *self._decision) + _TAIL.pack(nonce, rows)
        signer = ids._signers[number].copy()
        signer.update(raw)
        raw += signer.digest()
        return binascii.b2a_base64(raw, newline=False).translate(_URLSAFE)


def _signer(key: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(key=key, digest_size=_SIGNATURE)


def _unknown() -> NotFound:
    return NotFound("no such query id")
