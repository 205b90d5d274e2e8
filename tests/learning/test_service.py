"""Learning over a store, moment by moment."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, ManualClock, fake_learning

from clipper.config import LearningSettings
from clipper.errors import DiskFull
from clipper.learning import events, service
from clipper.learning.bloom import Bloom
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.query_id import LIFETIME
from clipper.records import PolicySettings
from clipper.store.base import Chunk, Entry, Learned, Logged, Person
from clipper.store.memory import MemoryStore

from .lives import ARMS, FIRST, HEDGES, NUMBER, UIDS, Slowly, check, do, record_of


def known(lives: Slowly, uid: str) -> float:
    """How much was learned of a user."""
    user = lives.life.learner.users.get(uid)
    if user is None or user.experience is None:
        return 0
    return sum(total.count for total in user.experience.totals.values())


async def test_nothing_is_acknowledged_or_learned_before_the_commit(
    slowly: Slowly,
) -> None:
    await do(slowly, ("give", "ann", 0, 1.0), ("give", "bob", 1, 0.0))
    life = slowly.life
    assert not life.acknowledged and life.learner.population.seq == 0
    await do(slowly, ("let", 1))
    assert life.acknowledged == 1 and life.learner.population.seq == 1
    await do(slowly, ("fail",))
    assert (life.acknowledged, life.failed) == (1, 1)
    assert life.learner.population.seq == 1 and known(slowly, "bob") == 0


async def test_a_policy_that_comes_between_does_not_lose_a_user(slowly: Slowly) -> None:
    static, ucb1 = ("policy", PolicySettings("static")), ("policy", FIRST)
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",), ("save",), ("settle",))
    await do(slowly, static, ("settle",))
    slowly.life.learner.users.remove("ann")
    # at the time nobody has a state of their own, by the commit everybody has
    await do(slowly, ucb1, ("give", "ann", 0, 1.0), ("settle",))
    assert known(slowly, "ann") == 2
    await check(slowly.life)


async def test_a_users_state_is_not_replaced_by_another_policy(slowly: Slowly) -> None:
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",))
    user = slowly.life.learner.users.get("ann")
    assert user is not None and user.experience is not None
    before = user.experience.pack()
    await do(slowly, ("policy", PolicySettings("exp3")), ("settle",))
    assert user.experience.pack() == before
    slowly.life.learner.state_for(user)  # begun from the score, kept by nobody
    assert user.experience.pack() == before
    await do(slowly, ("policy", FIRST), ("settle",))
    assert user.experience.pack() == before
    await check(slowly.life)


async def test_a_failed_append_leaves_no_empty_user(slowly: Slowly) -> None:
    slowly.life.learner.users.count("ann")
    await do(slowly, ("give", "ann", 0, 1.0))
    assert slowly.life.learner.users.get("ann") is not None
    await do(slowly, ("fail",))
    assert slowly.life.learner.users.get("ann") is None
    assert slowly.life.failed == 1


async def test_a_failed_load_takes_no_user_that_has_learned(slowly: Slowly) -> None:
    slowly.life.learner.users.count("ann")
    await do(slowly, ("give", "bob", 0, 1.0), ("load", "ann"))
    user = slowly.life.learner.users.get("ann")
    assert user is not None and user.experience is None
    await do(slowly, ("give", "ann", 0, 1.0), ("let", 1), ("fail",), ("let", 1))
    assert known(slowly, "ann") == 1
    # and the other way round
    slowly.life.learner.users.count("cy")
    await do(slowly, ("load", "cy"), ("fail",))
    assert slowly.life.learner.users.get("cy") is None


async def test_who_is_being_forgotten_does_not_come_back(slowly: Slowly) -> None:
    life = slowly.life
    await do(slowly, ("give", "ann", 0, 1.0), ("give", "bob", 0, 1.0), ("settle",))
    await do(slowly, ("save",), ("forget", "ann"), ("give", "ann", 1, 1.0), ("settle",))
    assert await life.store.uids(NUMBER, None, 10) == ["bob"]
    assert {entry.uid for _, entry in await life.store.entries(NUMBER, 0, 10)} == {
        "bob",
        None,
    }
    assert life.acknowledged == 3 and life.learner.users.get("ann") is None
    await check(life)


async def test_what_is_deleted_in_the_middle_of_a_snapshot_stays_so(slowly: Slowly) -> None:
    await do(slowly, ("give", "ann", 0, 1.0), ("give", "bob", 0, 1.0), ("settle",))
    await do(slowly, ("save",))
    life = slowly.life
    life.tasks.append(asyncio.create_task(life.learning.drop(NUMBER)))
    await do(slowly, ("let", 0), ("settle",))
    assert slowly.log._applications == {}


async def test_a_verdict_on_an_earlier_policy_is_none_on_the_next(slowly: Slowly) -> None:
    await do(slowly, ("policy", FIRST), ("halt", ARMS[0]), ("settle",))
    assert slowly.life.learner.halted == {}
    await do(slowly, ("halt", ARMS[0]), ("settle",))
    assert slowly.life.learner.halted == {ARMS[0]: "why"}
    await do(slowly, ("save",), ("settle",), ("crash",), ("settle",))
    assert slowly.life.learner.halted == {ARMS[0]: "why"}
    await do(slowly, ("policy", FIRST), ("settle",))
    assert slowly.life.learner.halted == {}


def test_an_arm_is_taken_out_once_the_log_takes_it(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = fake_learning(clock, fake_loop)
    learner, told = learning.begin(record_of()), []

    def full(entries: Any, persons: Any, done: Any) -> None:
        done(None, DiskFull("the disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(learning.log, "append", full)
        learning.halt(learner, ARMS[0], "why", lambda: told.append(1))
        fake_loop.turn()
        assert learner.halted == {} and not told
    fake_loop.advance(service.RETRY_SECONDS)
    fake_loop.turn()
    assert learner.halted == {ARMS[0]: "why"} and told == [1]


async def test_a_restart_finds_a_policy_that_was_not_logged(slowly: Slowly) -> None:
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",), ("save",), ("settle",))
    slowly.life.record = record_of(PolicySettings("hedge"), 2)  # and then it died
    await do(slowly, ("crash",))
    learner = slowly.life.learner
    assert (learner.policy.name, learner.generation) == ("hedge", 2)
    assert len(await slowly.log.entries(NUMBER, 0, 10)) == 2


async def test_entries_from_before_a_policy_that_was_not_logged_are_its_predecessors(
    slowly: Slowly,
) -> None:
    """Of which there is no snapshot yet."""
    for _ in range(3):
        await do(slowly, ("give", "ann", 0, 1.0), ("settle",))
    before = slowly.life.learner.population.pack()
    await do(slowly, ("policy", PolicySettings("hedge")))
    await slowly.begin(slowly.life.record)  # it died before the log took that in
    log = await slowly.log.entries(NUMBER, 0, 10)
    change = events.decode(log[-1].entry.body)
    assert isinstance(change, events.PolicyChange) and len(log) == 4
    assert (change.before, change.before_generation) == (FIRST, 1)
    assert slowly.life.learner.policy.name == "hedge"
    learner = Learner(NUMBER, 1, FIRST, Bloom(), 10)
    for seq, entry in log[:-1]:
        learner.apply(seq, entry.uid, events.decode(entry.body))
    assert learner.population.pack() == before
    await check(slowly.life)


async def test_a_policy_that_the_log_never_heard_of_is_nobodys_predecessor(
    slowly: Slowly,
) -> None:
    await do(slowly, ("halt", ARMS[0]), ("settle",))
    await do(slowly, ("policy", HEDGES[1]), ("fail",), ("give", "ann", 0, 1.0))
    await do(slowly, ("policy", HEDGES[0]))
    life = slowly.life
    assert life.record.policy_generation == 3 and life.learner.generation == 1
    for _ in range(2):  # before the log takes the change, and after
        await slowly.begin(life.record)
        await check(slowly.life)


# -- when snapshots are taken ------------------------------------------------------------


async def test_snapshots_are_due_by_number_and_by_time(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    chosen = LearningSettings(snapshot_entries=3, snapshot_seconds=10.0)
    learning = fake_learning(clock, fake_loop, chosen)
    learner = learning.begin(record_of())
    learning.tick()
    assert not fake_loop.spawned

    def learn(count: int) -> None:
        for _ in range(count):
            learning.journal.append(
                Entry(NUMBER, None, None, 0.0, b"{}"),
                None,
                lambda seq, *_: learner.apply(seq, None, events.Feedback()),
            )
        fake_loop.turn()

    learn(2)
    learning.tick()
    clock.move(9.9)
    learning.tick()
    assert not fake_loop.spawned
    clock.move(0.1)
    learning.tick()
    learning.tick()
    assert len(fake_loop.spawned) == 1
    await fake_loop.work()
    assert learner.unsaved == 0
    learn(3)
    learning.tick()
    assert len(fake_loop.spawned) == 1
    await fake_loop.work()
    assert learner.unsaved == 0
    assert (await learning.log.learned(NUMBER)).seq == 5


async def test_a_start_folds_so_many_entries_of_all_applications_together(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    chosen = LearningSettings(snapshot_entries=10, snapshot_seconds=1e6)
    learning = fake_learning(clock, fake_loop, chosen)
    learners = []
    for number in range(1, 6):
        record = msgspec.structs.replace(record_of(), name=f"a{number}", number=number)
        learners.append(learning.begin(record))
    seq = 0
    for learner, count in zip(learners, (1, 4, 2, 0, 5), strict=True):
        for _ in range(count):
            seq += 1
            learning.log.append(
                [Entry(learner.application, None, None, 0.0, b"{}")], [], lambda *_: None
            )
            learner.apply(seq, None, events.Feedback())
    learning.tick()
    await fake_loop.work()
    assert [learner.unsaved for learner in learners] == [1, 4, 2, 0, 0]
    learning.tick()
    assert not fake_loop.spawned


async def test_a_snapshot_is_due_when_too_many_users_wait_for_one(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    chosen = LearningSettings(
        snapshot_entries=1000, snapshot_seconds=1e6, users_in_memory=10
    )
    learning = fake_learning(clock, fake_loop, chosen)
    learner = learning.begin(record_of())
    learner.set_policy(1, PolicySettings("ucb1"))
    for seq in range(1, 17):
        event = events.Feedback(ARMS, {ARMS[0]: 1.0}, (ARMS[0],), 1.0, 1.0)
        assert not fake_loop.spawned
        entry = Entry(learner.application, None, f"u{seq}", 0.0, events.encode(event))
        learning.log.append([entry], [], lambda *_: None)
        learner.apply(seq, f"u{seq}", event)
        learning.tick()
    assert len(learner.users) == 16
    await fake_loop.work()
    assert len(learner.users) == 10 and learner.unsaved == 0
    learning.tick()
    assert not fake_loop.spawned


async def test_what_is_learned_during_a_snapshot_is_for_the_next(slowly: Slowly) -> None:
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",))
    await do(slowly, ("save",), ("give", "ann", 0, 1.0), ("settle",))
    learner = slowly.life.learner
    assert learner.unsaved == 1
    learned = await slowly.log.learned(NUMBER)
    assert learned.seq == 1 and len(learned.entries) == 1
    user = learner.users.get("ann")
    assert user is not None and user.dirty


async def test_a_snapshot_lets_users_go_that_are_too_many(slowly: Slowly) -> None:
    for uid in UIDS:
        await do(slowly, ("give", uid, 0, 1.0), ("settle",))
    for lives in ("first", "restarted"):
        users = slowly.life.learner.users
        assert len(users) == 4, lives  # none of them is kept
        if lives == "restarted":
            await do(slowly, ("save",), ("settle",))
            assert [uid for uid, _ in users] == ["cy", "dee"]
        await check(slowly.life)
        await do(slowly, ("crash",))
    assert await slowly.log.learned(NUMBER, 0) == (4, slowly.life.learner.pack(), [])


# -- starts that fold much ---------------------------------------------------------------

LONG = LearningSettings(snapshot_entries=10, users_in_memory=3)
GIVEN = 35


class Shortened:
    """A log that ends the process once so many entries were read, and counts them."""

    def __init__(self, log: MemoryStore, most: int) -> None:
        self._log = log
        self._most = most
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def learned(self, *arguments: Any) -> Learned:
        found = await self._log.learned(*arguments)
        self._count(len(found.entries))
        return found

    async def entries(self, *arguments: Any) -> list[Logged]:
        found = await self._log.entries(*arguments)
        self._count(len(found))
        return found

    def _count(self, more: int) -> None:
        self.read += more
        if self.read > self._most:
            raise asyncio.CancelledError


async def long_log(policies: dict[int, PolicySettings] | None = None) -> MemoryStore:
    """A log without any snapshot; before entry n the policy is changed to policies[n]."""
    log = MemoryStore()
    await log.open()
    generation, before = 1, FIRST
    for n in range(GIVEN):
        if n in (policies or {}):
            assert policies is not None
            generation, now = generation + 1, policies[n]
            change = events.PolicyChange(generation, now, before, generation - 1)
            before = now
            body, key = events.encode(change), f"policy:{generation}"
            log.append([Entry(NUMBER, key, None, 0.0, body)], [], lambda *_: None)
        event = events.Feedback(ARMS, {ARMS[n % 3]: n / GIVEN}, (ARMS[n % 3],), 0.5, 1.0)
        body = events.encode(event)
        log.append([Entry(NUMBER, None, f"u{n % 7}", 0.0, body)], [], lambda *_: None)
    return log


def start_on(log: Any, settings: LearningSettings = LONG) -> Learning:
    clock = ManualClock()
    loop = FakeLoop(clock)
    return Learning(
        log, clock, settings,
        call_soon=loop.call_soon, call_later=loop.call_later, spawn=loop.spawned.append,
    )  # fmt: skip


async def test_a_server_that_is_killed_while_it_starts_gets_on(
    small: None,
) -> None:
    log = await long_log()
    whole = start_on(log, LearningSettings(users_in_memory=100))
    await whole.restore(record_of())
    told = whole.learners[NUMBER]
    assert told.unsaved == GIVEN  # nothing is kept of what is folded at once
    reads = []
    for _ in range(3):
        dying = Shortened(log, most=14)
        with pytest.raises(asyncio.CancelledError):
            await start_on(dying).restore(record_of())
        reads.append((await log.learned(NUMBER, 0)).seq)
    assert reads == [10, 20, 30]
    last = Shortened(log, most=15)
    learning = start_on(last)
    await learning.restore(record_of())
    learner = learning.learners[NUMBER]
    assert last.read == learner.unsaved == 5
    assert learner.population.pack() == told.population.pack()
    await learning.snapshots.keep(learner)
    assert len(learner.users) == 3
    for uid, user in told.users:
        assert user.experience is not None
        assert await log.state_of(Person(NUMBER, uid)) == user.experience.pack()


@pytest.mark.parametrize(
    "policies",
    [
        {22: HEDGES[0]},
        {2: HEDGES[0], 22: PolicySettings("exp3")},
        {12: HEDGES[0], 25: PolicySettings("exp3")},
    ],
)
async def test_a_policy_that_changed_far_behind_the_first_piece_is_found(
    small: None, policies: dict[int, PolicySettings]
) -> None:
    log = await long_log(policies)
    last = [*policies.values()][-1]
    record = record_of(last, 1 + len(policies))
    found = []
    for settings in (LONG, LearningSettings(users_in_memory=100)):
        learning = start_on(Shortened(await long_log(policies), 10**6), settings)
        await learning.restore(record)
        found.append(learning.learners[NUMBER])
    assert found[0].generation == found[1].generation == record.policy_generation
    assert found[0].population.pack() == found[1].population.pack()
    learner = Learner(NUMBER, 1, FIRST, Bloom(), 100)
    for seq, entry in await log.entries(NUMBER, 0, 100):
        learner.apply(seq, entry.uid, events.decode(entry.body))
    assert learner.population.pack() == found[0].population.pack()


async def test_what_is_old_is_dropped_now_and_then(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    learning = fake_learning(clock, fake_loop)
    learner = learning.begin(record_of())
    await learning.log.put_chunk(Chunk(1, 2, clock.wall(), b"x"))
    entry = Entry(NUMBER, None, None, clock.wall(), b"{}")
    learning.journal.append(
        entry, None, lambda seq, *_: learner.apply(seq, None, events.Feedback())
    )
    fake_loop.turn()
    await learning.close()  # what is in no snapshot is not dropped
    clock.move(service.PRUNE_SECONDS)
    learning.tick()
    await fake_loop.work()
    size = await learning.log.size(NUMBER)
    assert (size.entries, size.chunks) == (1, 1)
    clock.move(400 * 24 * 3600)
    learning.tick()
    await fake_loop.work()
    size = await learning.log.size(NUMBER)
    assert (size.entries, size.chunks) == (0, 0)


async def test_a_wrong_date_drops_nothing(clock: ManualClock, fake_loop: FakeLoop) -> None:
    learning = fake_learning(clock, fake_loop)
    learner = learning.begin(record_of())
    entry = Entry(NUMBER, "k", None, clock.wall(), b"{}")
    learning.journal.append(
        entry, None, lambda seq, *_: learner.apply(seq, None, events.Feedback())
    )
    fake_loop.turn()
    await learning.close()
    clock.move(service.PRUNE_SECONDS)
    clock._wall += 400 * service.DAY  # somebody set it
    learning.tick()
    await fake_loop.work()
    assert (await learning.log.size(NUMBER)).entries == 1


async def test_feedback_beyond_its_bytes_is_dropped_but_not_learned_again(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    learning = fake_learning(clock, fake_loop, LearningSettings(feedback_bytes=4))
    learner = learning.begin(record_of())
    told: list[Any] = []

    def give(key: str) -> None:
        def done(outcome: Any, *_: Any) -> None:
            told.append(outcome)
            if isinstance(outcome, int):
                learner.apply(outcome, None, events.Feedback())

        learning.journal.append(Entry(NUMBER, key, None, clock.wall(), b"{}"), None, done)

    for key in "abc":
        give(key)
    fake_loop.turn()
    await learning.close()
    clock.move(service.PRUNE_SECONDS)
    learning.tick()
    await fake_loop.work()
    assert (await learning.log.size(NUMBER)).entries == 2
    give("a")
    fake_loop.turn()
    assert told[:3] == [1, 2, 3] and not isinstance(told[3], int)
    clock.move(LIFETIME)
    learning.tick()
    await fake_loop.work()
    give("a")
    fake_loop.turn()
    assert isinstance(told[4], int)


async def test_two_applications_do_not_meet(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    learning = fake_learning(clock, fake_loop)
    one = learning.begin(record_of())
    other = learning.begin(msgspec.structs.replace(record_of(), name="b", number=8))
    assert learning.begin(record_of()) is one
    one.users.count("ann")
    assert one.users.may_be_kept("ann") and not other.users.may_be_kept("ann")
