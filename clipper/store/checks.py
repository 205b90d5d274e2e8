"""What every store refuses, with the same words."""

from __future__ import annotations

import math

from clipper.errors import InvalidInput, StoreError

from .base import Chunk, Entry, Person, Snapshot

# A clock's double is a multiple of 2**-22 s from 2004 to 2038, and of more after that, so
# that as a whole number of these steps it is exact.
STEPS_PER_SECOND = 2**22
_LATEST = 2.0**40


def to_steps(at: float) -> int:
    """A time, in seconds since the epoch, as a whole number."""
    if not (math.isfinite(at) and abs(at) < _LATEST):
        raise InvalidInput(f"{at!r} is no time, expected seconds since the epoch")
    return round(at * STEPS_PER_SECOND)


def from_steps(steps: int) -> float:
    return steps / STEPS_PER_SECOND


def check_entry(entry: Entry) -> Entry:
    """The entry as it will be read back."""
    application, key, uid, at, body = entry
    try:
        for text in (key, uid):
            if text is not None:
                text.encode()
        body.decode()
    except UnicodeError as error:
        raise InvalidInput(f"feedback cannot be stored: {error}") from None
    if b"\0" in body:
        raise InvalidInput("feedback cannot be stored: JSON holds no zero byte")
    return Entry(application, key, uid, from_steps(to_steps(at)), body)


def check_order(snapshot: Snapshot, earlier: int, last: int) -> None:
    """An own state from before the kept one, or any from after the end of the log, would
    make entries count twice or never."""
    lowest = earlier if None in snapshot.states else 0
    if not lowest <= snapshot.seq <= last:
        raise StoreError(
            f"a snapshot of application {snapshot.application} after entry {snapshot.seq} "
            f"cannot be kept: the last one is after entry {earlier}, the log ends at {last}"
        )


def check_uid(uid: str | None) -> None:
    if uid is not None:
        try:
            uid.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{uid!r:.100} is no legal uid: {error.reason}") from None


def check_user(person: Person) -> str:
    """The uid of someone who can be forgotten."""
    if person.uid is None:
        raise InvalidInput("only a user can be forgotten, an application is deleted")
    check_uid(person.uid)
    return person.uid


def check_nonce(nonce: int) -> None:
    if not 0 <= nonce < 2**64:
        raise InvalidInput(f"{nonce!r:.40} is no nonce, which has 64 bits")


def check_chunk(chunk: Chunk) -> None:
    check_nonce(chunk.first)
    check_nonce(chunk.last)
    if chunk.first > chunk.last:
        raise InvalidInput(f"the nonces of a chunk run from {chunk.first} to {chunk.last}")
    if not math.isfinite(chunk.at):
        raise InvalidInput(f"{chunk.at!r} is no time, expected seconds since the epoch")
