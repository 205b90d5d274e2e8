"""A request that brings feedback, on its way through the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from clipper.errors import ClipperError
from clipper.feedback import Feedback
from clipper.pieces import Item

if TYPE_CHECKING:
    from clipper.appending import FeedbackDone

SLICE = 100  # pieces that are taken in one turn of the loop

_ACCEPTED = {
    False: b'{"accepted":true,"duplicate":false}',
    True: b'{"accepted":true,"duplicate":true}',
}


class UpdateReceiver(Protocol):
    """Who gets the answer. Called once, perhaps before the request is under way."""

    def update_settled(self, update: Update) -> None: ...


class Update:
    """Some pieces of feedback and what became of each. A single one is answered by
    itself, several in a list."""

    __slots__ = ("_left", "_outcomes", "_receiver", "_single")

    def __init__(self, items: int, single: bool, receiver: UpdateReceiver) -> None:
        # All mutable state: for each item whether it was a duplicate, or why it was not
        # taken; how many are out; who is told, nobody if the client is gone.
        self._outcomes: list[bool | ClipperError] = [False] * items
        self._left = items
        self._single = single
        self._receiver: UpdateReceiver | None = receiver

    def begin(self, feedback: Feedback, items: Sequence[Item]) -> Update:
        """Take every item; each is accepted or refused by itself. Long lists are taken in
        slices, so that queries go between."""
        if items:
            self._take(feedback, items, 0)
        elif self._receiver is not None:
            self._receiver.update_settled(self)
        return self

    def _take(self, feedback: Feedback, items: Sequence[Item], start: int) -> None:
        end = start + SLICE
        for index, item in enumerate(items[start:end], start):
            done: FeedbackDone = partial(self._done, index)
            try:
                feedback.take(item, done)
            except ClipperError as error:
                done(False, error)
        if end < len(items):
            loop = asyncio.get_running_loop()
            loop.call_soon(self._take, feedback, items, end)

    def cancel(self) -> None:
        """The client is gone. What it said is taken all the same."""
        self._receiver = None

    def _done(self, index: int, duplicate: bool, error: ClipperError | None) -> None:
        self._outcomes[index] = duplicate if error is None else error
        self._left -= 1
        if not self._left and self._receiver is not None:
            self._receiver.update_settled(self)

    def answer(self) -> tuple[int, bytes]:
        """Status and body."""
        if self._single:
            outcome = self._outcomes[0]
            if isinstance(outcome, ClipperError):
                return outcome.status, msgspec.json.encode(outcome.body())
            return 200, _ACCEPTED[outcome]
        return 200, b'{"feedback":[%b]}' % b",".join(map(_shown, self._outcomes))


def _shown(outcome: Any) -> bytes:
    if isinstance(outcome, ClipperError):
        return msgspec.json.encode(outcome.body())
    return _ACCEPTED[outcome]
