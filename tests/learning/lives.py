"""Lives of one application's learning over a store, moved by a script."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from fakes import ManualClock

from clipper.attainment import ApplicationStats
from clipper.config import LearningSettings
from clipper.errors import ClipperError, DiskFull
from clipper.feedback import Feedback
from clipper.learning import events
from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, PolicySettings
from clipper.store.base import AppendDone, Entry, Person
from clipper.store.memory import MemoryStore

NUMBER = 7
FIRST = PolicySettings("ucb1")
ARMS = ("a:1#1", "b:1#2", "c:1#3")
UIDS = ("ann", "bob", "cy", "dee")
POLICIES = [
    PolicySettings("static"),
    PolicySettings("ucb1"),
    PolicySettings("epsilon_greedy", {"prior": 2.0}),
    PolicySettings("exp3"),
    PolicySettings("exp3", {"personal": False}),
    PolicySettings("hedge"),
    PolicySettings("thompson"),
    PolicySettings("discounted_ucb"),
    PolicySettings("linucb", {"features": 2}),
    PolicySettings("squarecb", {"features": 3}),
]
HEDGES = [
    PolicySettings("hedge"),
    PolicySettings("hedge", {"prior": 2.0}),
    PolicySettings("hedge", {"share": 0.0}),
]


def record_of(policy: PolicySettings = FIRST, generation: int = 1) -> ApplicationRecord:
    return ApplicationRecord(
        "app", NUMBER, input_type="doubles", slo_micros=1000, policy=policy,
        policy_generation=generation,
    )  # fmt: skip


Work = Callable[[Exception | None], None]


class Slow:
    """A log whose works wait in line until they are let through, one by one."""

    def __init__(self, log: MemoryStore) -> None:
        self.log = log
        self.waiting: deque[tuple[str, Work]] = deque()
        self.through = True  # nothing waits

    def append(
        self, entries: Sequence[Entry], persons: Sequence[Person], done: AppendDone
    ) -> None:
        def work(error: Exception | None) -> None:
            if error is None:
                self.log.append(entries, persons, done)
            else:
                done(None, error)

        self._line_up("append", work)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.log, name)

        async def later(*arguments: Any) -> Any:
            future = asyncio.get_running_loop().create_future()

            def work(error: Exception | None) -> None:
                try:
                    if error is not None:
                        raise error
                    function(*arguments).send(None)
                except StopIteration as stop:
                    result, error = stop.value, None
                except ClipperError as failed:
                    result, error = None, failed
                if future.done():
                    return
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

            self._line_up(name, work)
            return await future

        return later

    def _line_up(self, name: str, work: Work) -> None:
        self.waiting.append((name, work))
        while self.through and self.waiting:
            self.step()

    def step(self, error: Exception | None = None) -> None:
        if self.waiting:
            name, work = self.waiting.popleft()
            # one that fails in the middle leaves a log of which nothing is said
            work(None if name == "forget" else error)

    def release(self) -> None:
        self.through = True
        while self.waiting:
            self.step()


class Life:
    """One application's learning over a store, from a start to an end."""

    def __init__(self, store: Any, record: ApplicationRecord, in_memory: int) -> None:
        self.store = store
        self.record = record
        self.tasks: list[asyncio.Task[None]] = []
        self.acknowledged = self.failed = 0
        loop = asyncio.get_running_loop()
        self.learning = Learning(
            store,
            ManualClock(),
            LearningSettings(users_in_memory=in_memory),
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            spawn=lambda work: self.tasks.append(loop.create_task(work)),
        )

    async def start(self) -> None:
        await self.learning.restore(self.record)
        self.learner = self.learning.learners[NUMBER]
        clock = ManualClock()
        application: Any = SimpleNamespace(
            number=NUMBER,
            learner=self.learner,
            stats=ApplicationStats(0.0),
            watch=SimpleNamespace(judge=lambda: None),
        )
        ids = QueryIds(bytes(32), clock)
        self.feedback = Feedback(application, self.learning, ids, clock, {})

    def give(self, uid: str | None, arm: int, loss: float, key: str | None = None) -> None:
        self._give({ARMS[arm]: loss}, uid, arm, loss, key)

    def label(self, uid: str | None, arm: int, loss: float) -> None:
        """What tells the losses of all: this arm's, and of each other one what is left."""
        losses = dict.fromkeys(ARMS, 1.0 - loss) | {ARMS[arm]: loss}
        self._give(losses, uid, arm, loss, None)

    def _give(
        self, losses: dict[str, float], uid: str | None, arm: int, loss: float,
        key: str | None,
    ) -> None:  # fmt: skip
        event = events.Feedback(
            arms=ARMS,
            losses=losses,
            chosen=(ARMS[arm],),
            propensity=0.5,
            loss=loss,
            context=[loss, arm / 3],
        )
        now = self.feedback._clock.wall()
        self.feedback._append(key, uid, event, now, self._told)

    def _told(self, duplicate: bool, error: ClipperError | None) -> None:
        self.failed += error is not None
        self.acknowledged += error is None and not duplicate

    def load(self, uid: str) -> None:
        users = self.learner.users
        if users.get(uid) is None and users.may_be_kept(uid):
            self.learning.load(self.learner, uid, lambda: None)

    def set_policy(self, policy: PolicySettings) -> None:
        self.record = msgspec.structs.replace(
            self.record,
            policy=policy,
            policy_generation=self.record.policy_generation + 1,
            previous_policy=self.learner.settings,
            previous_generation=self.learner.generation,
        )
        self.learning.follow_policy(self.record)

    def save(self) -> None:
        if NUMBER not in self.learning.snapshots.under_way:
            keeping = self.learning.snapshots.keep(self.learner)
            self.tasks.append(asyncio.create_task(keeping))

    async def settle(self) -> None:
        """All that was begun ends."""
        self.learning.journal.flush()
        await self.store.state_of(Person(NUMBER, None))  # behind all that waits
        await asyncio.gather(*self.tasks)
        self.tasks.clear()

    async def state(self, uids: Iterable[str]) -> dict[str, Any]:
        """Everything that is known, as bytes."""
        learner = self.learner
        found = {}
        for uid in uids:
            user = learner.users.get(uid)
            if user is not None and user.experience is not None:
                found[uid] = user.experience.pack()
            elif kept := await self.store.state_of(Person(NUMBER, uid)):
                found[uid] = Experience.unpack(kept).pack()
        # who was asked for and taught nothing is nobody
        found = {uid: p for uid, p in found.items() if Experience.unpack(p).seq}
        return _shown(learner, found)


def _shown(learner: Learner, users: dict[str, bytes]) -> dict[str, Any]:
    return {
        "population": learner.population.pack(),
        "halted": learner.halted,
        "generation": learner.generation,
        "users": users,
    }


async def fold(store: Any) -> dict[str, Any]:
    """The whole log, folded from its beginning without any snapshot."""
    learner = Learner(NUMBER, 1, FIRST, Bloom(), 1_000_000)
    for seq, entry in await store.entries(NUMBER, 0, 1_000_000):
        learner.apply(seq, entry.uid, events.decode(entry.body))
    users = {
        uid: user.experience.pack()
        for uid, user in learner.users
        if user.experience is not None
    }
    return _shown(learner, users)


async def run(life: Life, step: tuple[Any, ...]) -> None:
    match step:
        case "give", uid, arm, loss:
            life.give(uid, arm, loss)
        case "label", uid, arm, loss:
            life.label(uid, arm, loss)
        case ("news",):
            life.learning.tick()
        case "prior", ago, rate:
            generation = life.learner.generation - ago
            weights = {ARMS[0]: rate / 8, "gone:1#4": 0.0}
            prior = events.Prior(generation, rate, weights)
            life.learning._log(life.learner, prior, None, lambda error: None)
        case "again", uid:
            life.give(uid, 0, 0.5, key="once")
        case "policy", policy:
            life.set_policy(policy)
        case "halt", arm:
            life.learning.halt(life.learner, arm, "why", lambda: None)
        case "load", uid:
            life.load(uid)
        case "forget", uid:
            work = life.learning.forget(life.learner, uid)
            life.tasks.append(asyncio.create_task(work))
        case ("save",):
            life.save()
        case ("settle",):
            await life.settle()
    for _ in range(3):
        await asyncio.sleep(0)


async def quiet(life: Life) -> None:
    """The process dies: of what is under way nothing goes on."""
    for task in life.tasks:
        task.cancel()
    await asyncio.gather(*life.tasks, return_exceptions=True)


async def check(life: Life) -> None:
    assert await life.state(UIDS) == await fold(life.store)


class Slowly:
    """Lives over a log in memory whose every work is let through by the script."""

    def __init__(self, in_memory: int) -> None:
        self.in_memory = in_memory
        self.log = MemoryStore()

    async def begin(self, record: ApplicationRecord) -> None:
        self.slow = Slow(self.log)
        self.life = Life(self.slow, record, self.in_memory)
        await self.life.start()

    async def step(self, step: tuple[Any, ...]) -> None:
        life, slow = self.life, self.slow
        slow.through = False
        match step:
            case "let", count:
                for _ in range(count):
                    slow.step()
            case ("fail",):
                slow.step(DiskFull("the disk is full"))
            case ("crash",):
                await quiet(life)
                await self.begin(life.record)
            case ("settle",):
                slow.release()
        await run(self.life, step)

    async def live(self, script: list[tuple[Any, ...]]) -> None:
        await self.log.open()
        await self.begin(record_of())
        for step in script:
            await self.step(step)
        self.slow.release()
        await self.life.settle()
        await check(self.life)
        await quiet(self.life)
        await self.begin(self.life.record)
        await check(self.life)


async def do(lives: Slowly, *script: tuple[Any, ...]) -> None:
    for step in script:
        await lives.step(step)
