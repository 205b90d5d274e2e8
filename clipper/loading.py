"""Queries of users whose experience is on the disk: they wait for it, but not for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipper.errors import InvalidInput
from clipper.values import RowError

if TYPE_CHECKING:
    from clipper.application import Application
    from clipper.inputs import Row
    from clipper.learning.learner import Learner
    from clipper.query import Query


def is_cold(learner: Learner, uid: str) -> bool:
    """Whether a user may have an experience that is not in memory."""
    users = learner.users
    return users.get(uid) is None and users.may_be_kept(uid)


class Loading:
    """Starts a query once its user's experience is there, or half of its time is over: it
    chooses by what is there then."""

    def __init__(
        self, application: Application, query: Query, row: Row, cache: bool
    ) -> None:
        assert query.subject.uid is not None
        self._application = application
        self._query = query
        self._row = row
        self._cache = cache
        self._started = False  # all mutable state
        wait = (query.deadline - query.arrived) / 2
        self._timer = application.call_later(wait, self._start)
        learner = application.learner
        application.learning.load(learner, query.subject.uid, self._start)

    def _start(self) -> None:
        application, query = self._application, self._query
        if self._started or query.settled:
            return
        self._started = True
        self._timer.cancel()
        try:
            query.choice = application.roster.choose(query.subject, None, application.now())
        except InvalidInput as refusal:  # the policy became one that needs a context
            query.job_done(RowError(refusal.code, refusal.cause))
            return
        application.start(query, self._row, self._cache)
