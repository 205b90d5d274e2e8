"""The log of a server that was killed, folded offline and compared with what the server
makes of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from learner_ledger import Ledger
from msgspec.structs import replace

from clipper.client.bodies import to_plain
from clipper.clock import SystemClock
from clipper.config import LearningSettings
from clipper.learning import events
from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.records import ApplicationRecord, PolicySettings
from clipper.selection.policy import Arm
from clipper.store.base import Entry, Logged, Person
from clipper.store.sqlite import SQLiteStore

EVERYTHING = 10**9


class Fold:
    """All entries of one application, from the first one on, in memory alone: nothing is
    packed and unpacked, no user is evicted."""

    def __init__(self, number: int, begun_with: tuple[int, PolicySettings]) -> None:
        self.begun_with = begun_with
        self.learner = Learner(number, *begun_with, Bloom(), EVERYTHING)
        self.entries: list[Logged] = []
        self.keys: set[str] = set()
        self.losses: Counter[Arm] = Counter()

    def add(self, entries: list[Logged]) -> list[tuple[Entry, events.Event]]:
        """Go on to these, which begin with those that are in; the new ones."""
        known = len(self.entries)
        assert entries[:known] == self.entries, "the log is not append-only"
        new = []
        for seq, entry in entries[known:]:
            if entry.key is not None:
                assert entry.key not in self.keys, f"{entry.key} is in the log twice"
                self.keys.add(entry.key)
            event = events.decode(entry.body)
            self.learner.apply(seq, entry.uid, event)
            if isinstance(event, events.Feedback):
                self.losses.update(event.losses.keys())
            new.append((entry, event))
        self.entries = entries
        return new


class Auditor:
    """Looks at the directory of a stopped server."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.folds: dict[str, Fold] = {}
        self.cut_short = 0  # snapshots that the kill interrupted

    async def check(self, store: SQLiteStore) -> None:
        """Everything that was acknowledged is in the log once, and what the server would
        restore is what an offline fold gives. `store` is closed."""
        state = await store.open()
        try:
            for name, record in state.applications.items():
                await self._check_application(store, name, record)
        finally:
            await store.close()
        for said in self.ledger.unchecked:
            assert said.acknowledged
            assert said.key in self._logged(said.app), f"lost: {said.body}"
        self.ledger.unchecked.clear()

    def _logged(self, app: str) -> set[str]:
        return self.folds[app].keys

    async def _check_application(
        self, store: SQLiteStore, name: str, record: ApplicationRecord
    ) -> None:
        fold = await self._fold(store, name, record)
        restored = await restore(store, _as_logged(record, fold.learner))
        assert restored.pack() == fold.learner.pack(), name
        totals = fold.learner.population.totals
        assert {arm: total.count for arm, total in totals.items()} == fold.losses
        kept = await store.uids(record.number, None, EVERYTHING)
        assert {*kept} <= {uid for uid, _ in fold.learner.users}
        snapshot = (await store.learned(record.number)).seq
        newest = 0
        for uid, user in fold.learner.users:
            experience = await _experience(store, restored, uid)
            assert user.experience is not None and experience is not None, uid
            assert experience.pack() == user.experience.pack(), (name, uid)
        for uid in kept:
            state = await store.state_of(Person(record.number, uid))
            assert state is not None
            newest = max(newest, Experience.unpack(state).seq)
        self.cut_short += newest > snapshot

    async def _fold(self, store: SQLiteStore, name: str, record: ApplicationRecord) -> Fold:
        entries = await store.entries(record.number, 0, EVERYTHING)
        begun_with = await _first_policy(store, record, entries)
        fold = self.folds.get(name)
        if fold is None or fold.begun_with != begun_with:
            fold = self.folds[name] = Fold(record.number, begun_with)
        for entry, event in fold.add(entries):
            if isinstance(event, events.Feedback):
                self._check_entry(name, fold, entry, event)
        return fold

    def _check_entry(
        self, name: str, fold: Fold, entry: Entry, event: events.Feedback
    ) -> None:
        key = entry.key
        if key is None:
            key = f"i:{event.input}"
            assert key not in fold.keys, "feedback on an input was taken twice"
            fold.keys.add(key)
        said = self.ledger.said.get((name, key))
        assert said is not None, f"nobody said {event}"
        said.check(entry, event)


async def _first_policy(
    store: SQLiteStore, record: ApplicationRecord, entries: list[Logged]
) -> tuple[int, PolicySettings]:
    """What the log begins with: the first change of policy says it. Without a change it is
    that of a snapshot, or that of the record before a change that the kill kept from the
    log."""
    for _, entry in entries:
        event = events.decode(entry.body)
        if isinstance(event, events.PolicyChange):
            assert event.before is not None
            return event.before_generation, event.before
    generation, policy = record.policy_generation, record.policy
    if record.previous_policy is not None:
        generation, policy = record.previous_generation, record.previous_policy
    learner = Learner(record.number, generation, policy, Bloom(), 1)
    kept = await store.learned(record.number)
    if kept.state is not None:
        learner.unpack(kept.state)
    return learner.generation, learner.settings


def _as_logged(record: ApplicationRecord, learner: Learner) -> ApplicationRecord:
    """The record without a change of policy that the kill kept from the log."""
    return replace(record, policy=learner.settings, policy_generation=learner.generation)


def _ignore(*arguments: Any) -> None:
    """Nothing is appended to the log of a stopped server."""


def _discard(work: Any) -> None:
    work.close()


async def restore(store: SQLiteStore, record: ApplicationRecord) -> Learner:
    """What a server's start makes of snapshot and log."""
    learning = Learning(
        store,
        SystemClock(),
        LearningSettings(users_in_memory=EVERYTHING),
        call_soon=_ignore,
        call_later=_ignore,
        spawn=_discard,
    )
    await learning.restore(record)
    return learning.learners[record.number]


async def _experience(store: SQLiteStore, learner: Learner, uid: str) -> Experience | None:
    user = learner.users.get(uid)
    if user is not None and user.experience is not None:
        return user.experience
    kept = await store.state_of(Person(learner.application, uid))
    return None if kept is None else Experience.unpack(kept)


def shown(experience: Experience) -> Any:
    """A policy's state as the admin port shows it."""
    return msgspec.json.decode(msgspec.json.encode(experience.state, enc_hook=to_plain))
