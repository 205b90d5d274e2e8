"""Entries for the feedback log, gathered for one turn of the loop.

Feedback that comes in one turn is one append, so that the disk and its thread are asked
once for all of it. Much of it is cut: an append is encoded, and told of, in one turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from clipper.errors import ClipperError, InvalidInput
from clipper.store.base import Appended, Entry, FeedbackLog, Logged, Person

logger = logging.getLogger(__name__)

# Told what became of an entry: its number, or the entry that was there before, and the
# kept state that was asked for (None: there is none); or why it failed.
EntryDone: TypeAlias = Callable[[int | Logged | None, bytes | None, Exception | None], None]

SLICE = 300  # entries of one append

_Waiting: TypeAlias = tuple[Entry, Person | None, EntryDone]


class Journal:
    """Appends entries in the order they come and tells each what became of it, in the
    same order, after the commit."""

    def __init__(
        self, log: FeedbackLog, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._log = log
        self._call_soon = call_soon
        # All mutable state: what this turn has gathered.
        self._waiting: list[_Waiting] = []

    def append(self, entry: Entry, person: Person | None, done: EntryDone) -> None:
        """Add an entry; with `person`, ask for that kept state as well."""
        if not self._waiting:
            self._call_soon(self._turn)
        self._waiting.append((entry, person, done))

    def flush(self) -> None:
        """Hand over what was gathered."""
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), SLICE):
            self._hand_over(waiting[start : start + SLICE])

    def _turn(self) -> None:
        """Hand over a slice, and the others in the turns that follow."""
        if len(self._waiting) <= SLICE:
            self.flush()
            return
        waiting = self._waiting[:SLICE]
        del self._waiting[:SLICE]
        self._call_soon(self._turn)
        self._hand_over(waiting)

    def _hand_over(self, waiting: list[_Waiting]) -> None:
        def done(appended: Appended | None, error: Exception | None) -> None:
            _tell(waiting, appended, error)

        persons = list({person: None for _, person, _ in waiting if person is not None})
        try:
            self._log.append([entry for entry, _, _ in waiting], persons, done)
        except InvalidInput as error:
            if len(waiting) == 1:
                _tell(waiting, None, error)
                return
            for one in waiting:  # the others must not suffer for it
                self._hand_over([one])
        except ClipperError as error:
            _tell(waiting, None, error)


def _tell(
    waiting: list[_Waiting], appended: Appended | None, error: Exception | None
) -> None:
    for index, (entry, person, done) in enumerate(waiting):
        outcome = kept = None
        if appended is not None:
            outcome = appended.entries[index]
            if isinstance(outcome, Logged) and not outcome.entry.body:
                # what was said first is not known any more: it is taken for the same
                outcome = outcome._replace(entry=entry)
            kept = None if person is None else appended.states.get(person)
        try:
            done(outcome, kept, error)
        except Exception:
            logger.exception("who was told of an entry in the log raised")
