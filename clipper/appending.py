"""The way of feedback into the log, and from there to the learner.

It is learned from after the commit, in the order of the log, and told of last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from clipper.application import Application
from clipper.clock import Clock
from clipper.errors import (
    ClipperError,
    Conflict,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    Unavailable,
)
from clipper.learning import events
from clipper.learning.service import Learning
from clipper.learning.users import User
from clipper.pieces import LARGEST
from clipper.store.base import Entry, Logged, Person

logger = logging.getLogger(__name__)

# Told once: whether the same feedback was there before, or why it was not taken.
FeedbackDone = Callable[[bool, ClipperError | None], None]


class Appender:
    """Appends the feedback of one application, and has its learner learn of it."""

    def __init__(self, application: Application, learning: Learning, clock: Clock) -> None:
        self._application = application
        self._learner = application.learner
        self._journal = learning.journal
        self._clock = clock
        # All mutable state: whether the application was deleted.
        self._closed = False

    def close(self) -> None:
        """The application was deleted: nothing more comes into the log."""
        self._closed = True

    def append(
        self,
        key: str | None,
        uid: str | None,
        event: events.Feedback,
        asked: float,
        done: FeedbackDone,
    ) -> None:
        """Append an event, unless the log has one of that key. `asked` is when the query
        was asked, or feedback on an input was taken, in seconds since the epoch. Raises
        the ClipperError of an event that cannot be kept, and then tells nobody."""
        if self._closed:
            raise NotFound(f"the application '{self._application.name}' was deleted")
        if event.input is None:
            event.decided = float(asked)
        try:
            body = events.encode(event)
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise InvalidInput(f"the feedback cannot be kept: {error}") from None
        if len(body) > LARGEST:
            raise PayloadTooLarge(
                f"an entry of {len(body)} bytes is more than the log takes ({LARGEST})"
            )
        number, user, person = self._application.number, None, None
        users = self._learner.users
        if uid is not None and users.has_forgotten(uid, asked):
            uid = None
        if uid is not None:  # whether or not the policy is for each user: by the time the
            # entry is in the log there may be another, and the kept experience is needed
            user = users.get(uid)
            if user is None and users.may_be_kept(uid):
                user = users.put(uid, None)
            if user is not None:
                user.pins += 1
                if user.experience is None:
                    person = Person(number, uid)
        entry = Entry(number, key, uid, self._clock.wall(), body)
        self._journal.append(
            entry, person, partial(self._committed, entry, event, user, person, done)
        )

    def _committed(
        self,
        entry: Entry,
        event: events.Feedback,
        user: User | None,
        person: Person | None,
        done: FeedbackDone,
        outcome: int | Logged | None,
        kept: bytes | None,
        error: Exception | None,
    ) -> None:
        if user is not None:
            user.pins -= 1
        duplicate, refusal = False, None
        try:
            if outcome is None:
                if user is not None and entry.uid is not None:
                    self._learner.users.give_up(entry.uid, user)
                raise _told(error)
            if person is not None and entry.uid is not None:
                self._learner.admit(entry.uid, kept)
            if isinstance(outcome, Logged):
                check_same(event, outcome)
                duplicate = True
            else:
                self._learner.apply(outcome, entry.uid, event)
                self._application.stats.feedback += 1
                self._application.watch.judge()
        except Exception as failed:
            refusal = refusal_of(failed)
        done(duplicate, refusal)


def check_same(event: events.Feedback, logged: Logged) -> None:
    """There is feedback on this query already; raises Conflict if it is not the same."""
    before = events.decode(logged.entry.body)
    if not (isinstance(before, events.Feedback) and event.says(before)):
        raise Conflict("other feedback was given on this query before")


def refusal_of(error: Exception) -> ClipperError:
    """What is told of an error, so that somebody is told of any."""
    if isinstance(error, ClipperError):
        return error
    logger.error("feedback cannot be taken", exc_info=error)
    return ClipperError("the feedback cannot be taken; the server's own log says why")


def _told(error: Exception | None) -> ClipperError:
    if isinstance(error, ClipperError):
        return error
    return Unavailable("the feedback log takes no entries at present")
