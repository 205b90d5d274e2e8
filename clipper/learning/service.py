"""What learning needs of a server: the log, decisions, and the learners' way to disk.

One for an engine. It brings learners back at the start, has them follow what was set, and
drops what is too old.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from clipper.clock import Clock
from clipper.config import LearningSettings
from clipper.errors import ClipperError, NotFound
from clipper.learning import events
from clipper.learning.bloom import Bloom
from clipper.learning.decisions import Decisions
from clipper.learning.journal import Journal
from clipper.learning.learner import Learner
from clipper.learning.snapshots import Snapshots
from clipper.query_id import LIFETIME
from clipper.records import ApplicationRecord, PolicySettings
from clipper.store.base import Entry, FeedbackLog, Logged, Person

logger = logging.getLogger(__name__)

PAGE = 5000  # users that are counted in one turn
PRUNE_SECONDS = 600.0
DAY = 24 * 3600.0
RETRY_SECONDS = 5.0  # until the log is asked again to take what it did not

Spawn = Callable[[Coroutine[Any, Any, None]], object]

# Told once an event is in the log, or why it is not.
LogDone = Callable[[Exception | None], None]


class Learning:
    """The learners of all applications, by number."""

    def __init__(
        self,
        log: FeedbackLog,
        clock: Clock,
        settings: LearningSettings,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        spawn: Spawn,
    ) -> None:
        self.log = log
        self.journal = Journal(log, call_soon)
        self.decisions = Decisions(log, clock, call_later, spawn)
        self._clock = clock
        self._settings = settings
        self._call_later = call_later
        self._spawn = spawn
        # All mutable state beside the above and the snapshots: learners; who may have a
        # kept state; when old entries were last dropped, and when this began; and whether
        # the end has come.
        self.learners: dict[int, Learner] = {}
        self.snapshots = Snapshots(log, self.learners, settings, spawn)
        self._known = Bloom()
        self._pruned = clock.now()
        self._began = clock.now(), clock.wall()
        self.closed = False
        # what seems to be left of deleted applications may be that of some whose records
        # cannot be read
        self.unowned_stay = False

    def __repr__(self) -> str:
        return f"<Learning learners={len(self.learners)} {self.decisions!r}>"

    # -- learners -----------------------------------------------------------------------

    def begin(self, record: ApplicationRecord) -> Learner:
        """The learner of an application; a new one has learned nothing."""
        learner = self.learners.get(record.number)
        if learner is None:
            learner = self._make(record, record.policy_generation, record.policy)
            learner.users.counted = True
        return learner

    def _has(self, learner: Learner) -> bool:
        return self.learners.get(learner.application) is learner

    def _make(
        self, record: ApplicationRecord, generation: int, policy: PolicySettings
    ) -> Learner:
        learner = self.learners[record.number] = Learner(
            record.number,
            generation,
            policy,
            self._known,
            self._settings.users_in_memory,
            record.loss,
        )
        return learner

    async def restore(
        self, record: ApplicationRecord, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Fold what the log holds of an application. `changed` as in `change_policy`. What
        cannot be folded makes the application answer without it, and no other."""
        try:
            await self._fold(record)
        except Exception as error:
            learner = self._make(record, record.policy_generation, record.policy)
            learner.give_up(_reason(error))
            logger.debug("why %s learns nothing", record.name, exc_info=error)
            return
        # whoever begins with this learner must find the policy it will have
        await self.change_policy(record, changed)

    async def _fold(self, record: ApplicationRecord) -> None:
        """In pieces, each kept before the next: however long the log is, a server that is
        killed while it starts has less to do the next time, and its users need not all be
        in memory."""
        number, most = record.number, self._settings.snapshot_entries
        kept = await self.log.learned(number, most)
        if kept.state is None:
            first = await self._first_policy(record, kept.entries)
            learner = self._make(record, *first)
        else:
            learner = self._make(record, record.policy_generation, record.policy)
            learner.unpack(kept.state)
        entries = kept.entries
        while True:
            await self._fold_piece(learner, entries)
            if len(entries) < most:
                break
            if learner.missing is None:
                await self.snapshots.keep(learner)
            entries = await self.log.entries(number, entries[-1].seq, most)
        if learner.unsaved:
            learner.unsaved_since = self._clock.now()
        await self._count_users(learner)

    async def _fold_piece(self, learner: Learner, entries: list[Logged]) -> None:
        for seq, entry in entries:
            if entry.uid is not None:
                await self._warm(learner, entry.uid)
            learner.apply(seq, entry.uid, events.of_entry(seq, entry.body))

    async def _first_policy(
        self, record: ApplicationRecord, entries: list[Logged]
    ) -> tuple[int, PolicySettings]:
        """The generation and settings that the log, which begins with these entries,
        begins with."""
        found = _policy_before(entries)
        if found is None and len(entries) == self._settings.snapshot_entries:
            for generation in range(2, record.policy_generation + 1):
                change = await self.log.entry_of(record.number, _policy_key(generation))
                if change is not None:
                    found = _policy_before([change])
                    break
        if found is not None:
            return found
        if record.previous_policy is not None:  # the end came before the log was told
            return record.previous_generation, record.previous_policy
        return record.policy_generation, record.policy

    async def _warm(self, learner: Learner, uid: str) -> None:
        if learner.users.get(uid) is None:
            kept = await self.log.state_of(Person(learner.application, uid))
            learner.admit(uid, kept)

    async def _count_users(self, learner: Learner) -> None:
        after = None
        while page := await self.log.uids(learner.application, after, PAGE):
            for uid in page:
                learner.users.count(uid)
            after = page[-1]
            await asyncio.sleep(0)
        learner.users.counted = True

    def load(self, learner: Learner, uid: str, done: Callable[[], None]) -> None:
        """Bring a user's kept experience to memory, and tell."""

        async def load() -> None:
            try:
                kept = await self.log.state_of(Person(learner.application, uid))
                learner.admit(uid, kept)
            except Exception as error:
                logger.warning("a user's experience cannot be read: %s", _reason(error))
                learner.users.give_up(uid, user)
            done()

        user = learner.users.put(uid, None)
        self._spawn(load())

    # -- changes ------------------------------------------------------------------------

    def follow_policy(
        self, record: ApplicationRecord, done: LogDone = lambda error: None
    ) -> None:
        """Go on under the record's policy, once that is in the log."""
        learner = self.learners[record.number]
        if learner.generation == record.policy_generation:
            done(None)
            return
        self._log(
            learner,
            events.PolicyChange(
                record.policy_generation,
                record.policy,
                learner.settings,
                learner.generation,
            ),
            _policy_key(record.policy_generation),
            done,
        )

    async def change_policy(
        self, record: ApplicationRecord, changed: Callable[[], None]
    ) -> None:
        """The same without waiting for others. The record is kept by now, and the next
        start would follow it: a log that does not take the change is asked again until it
        does. `changed` is called in the very turn in which the learner goes on: a query
        must not meet one policy here, one there."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        learner = self.learners[record.number]
        learner.wanted = record.policy_generation

        def followed(error: Exception | None) -> None:
            try:
                if error is None:
                    changed()
                else:
                    self._retry(again)
            finally:
                if not asked.done():
                    asked.set_result(None)

        def again() -> None:
            if self._has(learner) and learner.wanted == record.policy_generation:
                self.follow_policy(record, followed)

        again()
        self.journal.flush()
        await asked

    def halt(
        self, learner: Learner, arm: str, reason: str, done: Callable[[], None]
    ) -> None:
        """Take an arm out, for good, or until the policy is set anew. Tried again until
        it is in the log."""
        generation = learner.generation

        def again() -> None:
            if self._has(learner) and learner.generation == generation:
                self.halt(learner, arm, reason, done)

        def halted(error: Exception | None) -> None:
            if error is None:
                done()
            else:
                self._retry(again)

        self._log(learner, events.Halt(arm, reason, generation), None, halted)

    def _tell_news(self, learner: Learner) -> None:
        news, crowd = learner.news(), learner.crowd
        if news is None or crowd is None:
            return

        def told(error: Exception | None) -> None:
            if error is not None:
                self._retry(crowd.unsay)

        self._log(learner, news, None, told)

    def _retry(self, work: Callable[[], None]) -> None:
        def again() -> None:
            if not self.closed:
                work()

        self._call_later(RETRY_SECONDS, again)

    def _log(
        self,
        learner: Learner,
        event: events.Event,
        key: str | None,
        done: LogDone,
    ) -> None:
        def committed(
            outcome: int | Logged | None, kept: bytes | None, error: Exception | None
        ) -> None:
            try:
                if isinstance(outcome, int):
                    learner.apply(outcome, None, event)
                elif outcome is None:
                    logger.error("%r was not logged: %s", event, error)
            finally:
                done(error)

        if not self._has(learner):
            done(NotFound("the application was deleted"))
            return
        entry = Entry(
            learner.application, key, None, self._clock.wall(), events.encode(event)
        )
        self.journal.append(entry, None, committed)

    def look_up(
        self,
        application: int,
        key: str,
        found: Callable[[Logged | None, ClipperError | None], None],
    ) -> None:
        """Tell the entry of a key, from the log."""

        async def look_up() -> None:
            try:
                logged = await self.log.entry_of(application, key)
            except ClipperError as error:
                found(None, error)
            else:
                found(logged, None)

        self._spawn(look_up())

    async def forget(self, learner: Learner, uid: str) -> None:
        """Delete a user's experience, and the uid from the log. Feedback that comes
        meanwhile is nobody's, and so is feedback that comes later on what was asked
        before."""
        users = learner.users
        self.journal.flush()  # what came before is in the log before
        users.leaving[uid] += 1
        try:
            await self.log.forget(Person(learner.application, uid))
            users.forget(uid, self._clock.wall())
        finally:
            users.leaving[uid] -= 1
            users.leaving += Counter()  # without those that are 0

    async def drop(self, number: int) -> None:
        """An application was deleted. What cannot be dropped now is dropped later."""
        self.journal.flush()  # what came before is in the log before
        self.learners.pop(number, None)
        try:
            await self.log.drop(number)
        except ClipperError as error:
            logger.error("what a deleted application left is not dropped yet: %s", error)

    async def drop_left(self) -> None:
        """Drop what is left of applications that are no more: the server ended, or the
        disk was full, in the middle."""
        if self.unowned_stay:
            return
        for number in await self.log.applications():
            if number not in self.learners:
                await self.drop(number)

    # -- keeping ------------------------------------------------------------------------

    def tick(self) -> None:
        """Called about once a second: log what was found of users, begin the snapshots that
        are due, drop what is too old."""
        now = self._clock.now()
        for learner in self.learners.values():
            self._tell_news(learner)
        self.snapshots.begin_due(now)
        if now - self._pruned >= PRUNE_SECONDS:
            self._pruned = now
            self._spawn(self._prune())

    async def close(self) -> None:
        """Keep everything: the next start folds nothing."""
        self.closed = True
        self.journal.flush()
        self.decisions.flush()
        await self.snapshots.keep_all()

    async def _prune(self) -> None:
        settings, now = self._settings, self._surely()
        try:
            await self.log.prune_decisions(
                now - settings.decision_days * DAY, settings.decision_bytes
            )
            await self.log.prune_entries(
                now - settings.feedback_days * DAY, settings.feedback_bytes, now - LIFETIME
            )
            await self.drop_left()
        except ClipperError as error:
            logger.warning("old entries of the logs were not dropped: %s", error)

    def _surely(self) -> float:
        """The wall clock, but no later than it can be by the one that nobody sets: what
        was dropped because of a wrong date could be learned from again."""
        now, wall = self._began
        return min(self._clock.wall(), wall + self._clock.now() - now)


def _reason(error: Exception) -> str:
    if isinstance(error, ClipperError):
        return error.cause
    return f"{type(error).__name__}: {error}"[:300]


def _policy_key(generation: int) -> str:
    """The key, in the log, of the change to a policy."""
    return f"policy:{generation}"


def _policy_before(entries: list[Logged]) -> tuple[int, PolicySettings] | None:
    """Generation and settings from before the first change of the policy among these."""
    for seq, entry in entries:
        event = events.of_entry(seq, entry.body)
        if isinstance(event, events.PolicyChange) and event.before is not None:
            return event.before_generation or event.generation - 1, event.before
    return None
