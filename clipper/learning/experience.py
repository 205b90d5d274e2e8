"""What one person's feedback has taught, or everybody's: a policy's state and the score.

An experience is a pure fold over entries of the feedback log. It changes by `observe`
and `adopt` alone and is packed to bytes that give it back bit by bit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from clipper.errors import StoreError
from clipper.selection.policy import (
    Arm,
    Observation,
    SelectionPolicy,
    State,
    Total,
)
from clipper.selection.totals import prune

logger = logging.getLogger(__name__)

_NOTHING = Total(0.0, 0.0)

# All mutable state: policies that raised, so that each is told of once.
_complained: set[str] = set()

_ARRAY = 1  # msgpack's extension type for a numpy array


def complain(policy: SelectionPolicy) -> None:
    """A policy, a program's own, raised. That is told once and no more: the entries are in
    the log, so they have to be got over now and at every start."""
    if policy.name not in _complained:
        _complained.add(policy.name)
        logger.exception("policy %s raised; its state is what it was", policy.name)


def begin(policy: SelectionPolicy, totals: Mapping[Arm, Total]) -> State:
    """The state to start from where another policy has been at work before."""
    try:
        return policy.begin(totals)
    except Exception:
        complain(policy)
        return policy.init()


class Experience:
    """A policy's state, and how often each arm's loss was learned and its sum.

    `policy` names the policy whose state it is. `seq` is the last entry in it.
    """

    # All mutable state.
    __slots__ = ("policy", "seq", "state", "totals")

    def __init__(self, policy: SelectionPolicy) -> None:
        self.policy = policy.name
        self.state: State = policy.init()
        self.totals: dict[Arm, Total] = {}
        self.seq = 0

    def observe(self, policy: SelectionPolicy, seen: Observation, seq: int) -> None:
        """Learn from entry `seq`; an entry that is in already changes nothing."""
        if seq <= self.seq:
            return
        self.seq = seq
        self.adopt(policy)
        self._count(seen)
        if policy.learns and (seen.losses or seen.loss is not None):
            try:
                self.state = policy.observe(self.state, seen)
            except Exception:
                complain(policy)

    def adopt(self, policy: SelectionPolicy) -> None:
        """Go on under this policy. Its own state is kept if it has one; another's is
        replaced by what the policy makes of the score."""
        if self.policy != policy.name:
            self.policy = policy.name
            self.state = begin(policy, self.totals)

    def _count(self, seen: Observation) -> None:
        losses = seen.losses
        if not losses and seen.loss is not None and len(seen.chosen) == 1:
            losses = {seen.chosen[0]: seen.loss}
        for arm, loss in losses.items():
            before = self.totals.pop(arm, _NOTHING)
            self.totals[arm] = Total(before.count + 1, before.loss + loss)  # newest last
        prune(self.totals, seen.arms)

    def pack(self) -> bytes:
        """Raises StoreError for a state of what cannot be kept."""
        try:
            return _encode([self.policy, self.seq, self.state, self.totals])
        except (NotImplementedError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"policy {self.policy} cannot be kept: {error}") from error

    @classmethod
    def unpack(cls, data: bytes) -> Experience:
        """Raises StoreError for bytes of another version or none."""
        self = cls.__new__(cls)
        try:
            self.policy, self.seq, self.state, totals = _decode(data)
            self.totals = {arm: Total(*total) for arm, total in totals.items()}
        except (msgspec.DecodeError, AttributeError, TypeError, ValueError) as error:
            raise StoreError(f"a kept state makes no sense: {error}") from error
        return self


def _to_extension(value: Any) -> msgspec.msgpack.Ext:
    if isinstance(value, np.ndarray):
        head = msgspec.msgpack.encode([value.dtype.str, value.shape])
        numbers = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return msgspec.msgpack.Ext(
            _ARRAY,
            b"".join((bytes([len(head)]), head, numbers.data)),  # one copy: it is large
        )
    if isinstance(value, np.generic):  # a number that was taken out of an array
        raise NotImplementedError("a policy's state holds a numpy scalar; use float()")
    raise NotImplementedError(f"a policy's state holds a {type(value).__name__}")


def _from_extension(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code}")
    end = 1 + data[0]
    dtype, shape = msgspec.msgpack.decode(data[1:end])
    return np.frombuffer(data[end:], dtype).reshape(shape).copy()


_encode = msgspec.msgpack.Encoder(enc_hook=_to_extension).encode
_decode = msgspec.msgpack.Decoder(ext_hook=_from_extension).decode
