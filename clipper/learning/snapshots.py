"""Snapshots of what was learned, so that the next start has few entries to fold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from clipper.config import LearningSettings
from clipper.errors import ClipperError, StoreError
from clipper.learning.learner import Learner
from clipper.learning.users import User
from clipper.store.base import FeedbackLog, Snapshot

logger = logging.getLogger(__name__)

SLICE = 200  # users that are packed in one turn of the loop


class Snapshots:
    """Keeps learners on the disk, each when it has learned enough or long enough."""

    def __init__(
        self,
        log: FeedbackLog,
        learners: Mapping[int, Learner],
        settings: LearningSettings,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._log = log
        self._learners = learners
        self._settings = settings
        self._spawn = spawn
        # All mutable state: the learners whose snapshot is being kept.
        self.under_way: set[int] = set()

    def begin_due(self, now: float) -> None:
        """Begin those that are due at this time of the monotonic clock. The next start
        folds about `snapshot_entries` entries at most, of all applications together: those
        with most of them are due first. So is whoever has too many users that can only go
        once they are kept."""
        settings = self._settings
        unsaved = [
            learner
            for learner in self._learners.values()
            if learner.unsaved and learner.missing is None
        ]
        entries = sum(learner.unsaved for learner in unsaved)
        for learner in sorted(unsaved, key=lambda learner: -learner.unsaved):
            if learner.unsaved_since is None:
                learner.unsaved_since = now
            due = now - learner.unsaved_since >= settings.snapshot_seconds
            due = due or learner.users.crowded
            if due or entries >= settings.snapshot_entries:
                entries -= learner.unsaved
                if learner.application not in self.under_way:
                    self.under_way.add(learner.application)
                    self._spawn(self.keep(learner))

    async def keep_all(self) -> None:
        """Keep everything: the next start folds nothing."""
        for learner in list(self._learners.values()):
            if learner.unsaved and learner.missing is None:
                await self.keep(learner)

    async def keep(self, learner: Learner) -> None:
        """Keep a snapshot in slices. Users first: each state says which entries are in it,
        so those of a snapshot that was cut short are of use all the same."""
        number, seq, unsaved = learner.application, learner.population.seq, learner.unsaved
        self.under_way.add(number)
        learner.unsaved_since = None
        try:
            pack = learner.begin_pack()
            await asyncio.sleep(0)
            dirty = [(uid, user) for uid, user in learner.users if user.dirty]
            for start in range(0, len(dirty), SLICE):
                await self._keep_users(learner, dirty[start : start + SLICE])
            if self._has(learner):
                await self._save(number, seq, {None: pack()})
                learner.unsaved -= unsaved
                learner.users.trim()
        except StoreError as error:
            logger.error("a snapshot of what was learned was not kept: %s", error)
        except ClipperError as error:
            logger.warning("a snapshot of what was learned has to wait: %s", error)
        finally:
            self.under_way.discard(number)

    def _has(self, learner: Learner) -> bool:
        """Whether the application was not deleted meanwhile."""
        return self._learners.get(learner.application) is learner

    async def _keep_users(self, learner: Learner, users: list[tuple[str, User]]) -> None:
        if not self._has(learner):
            return
        states: dict[str | None, bytes] = {}
        packed = []
        for uid, user in users:
            if user.experience is not None and learner.users.keeps(uid, user):
                states[uid] = user.experience.pack()
                packed.append((user, user.version))
        await self._save(learner.application, learner.population.seq, states)
        for user, version in packed:
            user.dirty = user.version != version

    async def _save(self, number: int, seq: int, states: dict[str | None, bytes]) -> None:
        await self._log.save(Snapshot(number, seq, states), self._settings.users_on_disk)
