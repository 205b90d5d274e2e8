"""Learning over a store: whatever happens, it is a fold of the log."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, ManualClock, fake_learning
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper.attainment import ApplicationStats
from clipper.config import LearningSettings
from clipper.errors import ClipperError, DiskFull, Unavailable
from clipper.feedback import Feedback
from clipper.learning import events, experience, service
from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.pieces import Item
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, PolicySettings
from clipper.selection import crowd, registry
from clipper.selection.policy import Options, SingleChoice
from clipper.store.base import AppendDone, Chunk, Entry, Person
from clipper.store.memory import MemoryStore
from clipper.store.sqlite import SQLiteStore

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
            judge=lambda: None,
        )
        ids = QueryIds(bytes(32), clock)
        self.feedback = Feedback(application, self.learning, ids, clock)

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
        self.feedback._append(key, uid, event, None, self._told)

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
        if NUMBER not in self.learning._saving:
            self.learning._saving.add(NUMBER)
            self.tasks.append(asyncio.create_task(self.learning._save(self.learner)))

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


uids = st.sampled_from([None, *UIDS])
steps = st.one_of(
    st.tuples(
        st.just("give"),
        uids,
        st.integers(0, 2),
        st.floats(0, 1, allow_subnormal=False),
    ),
    st.tuples(st.just("give"), uids, st.integers(0, 2), st.sampled_from([0.0, 1.0])),
    st.tuples(st.just("label"), uids, st.integers(0, 2), st.sampled_from([0.0, 0.2])),
    st.tuples(st.just("again"), uids),
    st.tuples(st.just("policy"), st.sampled_from(POLICIES)),
    st.tuples(st.just("policy"), st.sampled_from(HEDGES)),
    st.tuples(st.just("news")),
    st.tuples(st.just("prior"), st.integers(0, 1), st.floats(0, 8)),
    st.tuples(st.just("halt"), st.sampled_from(ARMS)),
    st.tuples(st.just("load"), st.sampled_from(UIDS)),
    st.tuples(st.just("forget"), st.sampled_from(UIDS)),
    st.tuples(st.just("save")),
    st.tuples(st.just("let"), st.integers(1, 4)),
    st.tuples(st.just("let"), st.integers(1, 4)),
    st.tuples(st.just("fail")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("crash")),
)


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


async def on_disk(directory: Path, script: list[tuple[Any, ...]], in_memory: int) -> None:
    life: Life | None = None
    record = record_of()
    for step in [*script, ("settle",), ("crash",)]:
        if life is None:
            store = SQLiteStore(directory, durability="process")
            await store.open()
            life = Life(store, record, in_memory)
            await life.start()
        await run(life, step)
        if step[0] == "settle":
            await check(life)
        if step[0] == "crash":
            life.learning.journal.flush()
            await quiet(life)
            record = life.record
            await life.store.close()
            life = None


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SLICE", 1)
    monkeypatch.setattr(service, "PAGE", 2)
    monkeypatch.setattr(service.logger, "disabled", True)
    # a script has few users
    monkeypatch.setattr(crowd, "LEAST_JUDGED", 2)
    monkeypatch.setattr(crowd, "LEAST_USERS", 2)


scripts = st.lists(steps, min_size=5, max_size=60)
allow = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(allow, max_examples=250)
@given(scripts, st.integers(1, 3))
def test_what_was_learned_is_a_fold_of_the_log(
    script: list[tuple[Any, ...]], in_memory: int
) -> None:
    asyncio.run(Slowly(in_memory).live(script))


@settings(allow, max_examples=15)
@given(scripts, st.integers(1, 3))
def test_so_it_is_on_disk(script: list[tuple[Any, ...]], in_memory: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(on_disk(Path(directory), script, in_memory))


labels = st.tuples(
    st.just("label"), st.sampled_from(UIDS), st.integers(0, 2), st.sampled_from([0.0, 0.2])
)
news = st.sampled_from(
    [("news",), ("crash",), ("settle",), ("save",), ("policy", HEDGES[1])]
)


@settings(allow, max_examples=100)
@given(st.lists(labels | labels | news, min_size=10, max_size=60), st.integers(1, 3))
def test_what_was_found_of_users_is_a_part_of_the_fold(
    script: list[tuple[Any, ...]], in_memory: int
) -> None:
    asyncio.run(Slowly(in_memory).live([("policy", HEDGES[0]), ("settle",), *script]))


# -- moments -----------------------------------------------------------------------------


@pytest.fixture
async def slowly() -> AsyncIterator[Slowly]:
    lives = Slowly(2)
    await lives.log.open()
    await lives.begin(record_of())
    yield lives
    lives.slow.release()
    await quiet(lives.life)


async def do(lives: Slowly, *script: tuple[Any, ...]) -> None:
    for step in script:
        await lives.step(step)


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


async def tell_apart(lives: Slowly, rounds: int = 5) -> None:
    """Two users whom two arms suit."""
    for _ in range(rounds):
        await do(lives, ("label", "ann", 0, 0.0), ("label", "bob", 1, 0.0), ("settle",))


async def priors(log: MemoryStore) -> list[events.Prior]:
    found = [events.decode(entry.body) for _, entry in await log.entries(NUMBER, 0, 1000)]
    return [event for event in found if isinstance(event, events.Prior)]


async def test_what_was_found_of_users_is_logged_and_back_after_a_restart(
    slowly: Slowly,
) -> None:
    await do(slowly, ("policy", HEDGES[0]), ("settle",))
    await tell_apart(slowly)
    await do(slowly, ("news",))
    assert "prior" not in slowly.life.learner.population.state  # it is on its way
    await do(slowly, ("news",), ("settle",), ("news",), ("settle",))
    (said,) = await priors(slowly.log)
    expected = [said.rate, said.weights]
    assert said.rate > 0 and slowly.life.learner.population.state["prior"] == expected
    await check(slowly.life)
    for step in (("crash",), ("save",), ("settle",), ("crash",)):
        await do(slowly, step)
        assert slowly.life.learner.population.state["prior"] == expected
    await check(slowly.life)


async def test_a_prior_that_comes_after_its_policy_changes_nothing(slowly: Slowly) -> None:
    await do(slowly, ("policy", HEDGES[0]), ("settle",))
    await tell_apart(slowly)
    await do(slowly, ("policy", HEDGES[1]), ("news",), ("settle",))
    (said,) = await priors(slowly.log)
    assert said.generation == slowly.life.learner.generation - 1
    assert "prior" not in slowly.life.learner.population.state
    await do(slowly, ("crash",), ("settle",))
    assert "prior" not in slowly.life.learner.population.state
    await check(slowly.life)


async def test_what_the_log_did_not_take_is_said_again(
    slowly: Slowly, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(slowly, ("policy", HEDGES[0]), ("settle",))
    await tell_apart(slowly)
    later: list[tuple[float, Callable[[], None]]] = []
    learning = slowly.life.learning
    monkeypatch.setattr(learning, "_call_later", lambda *call: later.append(call))
    await do(slowly, ("news",), ("fail",), ("news",), ("settle",))
    assert not await priors(slowly.log)
    ((seconds, again),) = later
    assert seconds == service.RETRY_SECONDS
    again()
    await do(slowly, ("news",), ("settle",))
    assert len(await priors(slowly.log)) == 1 and len(later) == 1
    await check(slowly.life)


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


# -- a policy of one's own ---------------------------------------------------------------


class Own(SingleChoice):
    name = "own"
    raises = False

    class Options(Options, frozen=True, forbid_unknown_fields=True):
        personal: bool = True

    def init(self) -> Any:
        return {"seen": 0}

    def observe(self, state: Any, seen: Any) -> Any:
        if seen.loss == 0.5:
            raise ZeroDivisionError("a bug")
        return {"seen": state["seen"] + 1}

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        return [1.0 / len(arms)] * len(arms)

    def blend(self, population: Any, own: Any) -> Any:
        return own


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    added: dict[str, Any] = {"own": Own}
    monkeypatch.setattr(registry, "_ADDED", added)
    monkeypatch.setattr(experience, "_complained", set())
    yield added


async def test_a_policy_that_raises_stops_nothing(
    slowly: Slowly, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await do(slowly, ("policy", PolicySettings("own")), ("settle",))
    for loss in (0.0, 0.5, 0.5, 1.0):
        await do(slowly, ("give", "ann", 0, loss), ("settle",))
    assert slowly.life.acknowledged == 4
    assert slowly.life.learner.population.state == {"seen": 2}
    assert caplog.text.count("ZeroDivisionError: a bug") == 1
    await do(slowly, ("crash",), ("settle",))
    await check(slowly.life)


async def test_a_policy_that_is_missing_keeps_what_it_learned(
    slowly: Slowly, own: Any
) -> None:
    await do(slowly, ("policy", PolicySettings("own")), ("give", "ann", 0, 1.0))
    await do(slowly, ("settle",), ("save",), ("settle",), ("give", "ann", 0, 0.0))
    await do(slowly, ("settle",))
    before = await slowly.life.state(UIDS)
    del own["own"]
    await do(slowly, ("crash",), ("settle",))
    learner, learning = slowly.life.learner, slowly.life.learning
    assert learner.missing is not None and learner.policy.name == "static"
    with pytest.raises(Unavailable, match="own"):
        slowly.life.feedback.take(Item("x", reward=1.0), lambda *_: None)
    slowly.life.learning._clock.move(1e6)  # type: ignore[attr-defined]
    learning.tick()
    await learning.close()
    own["own"] = Own
    await do(slowly, ("crash",), ("settle",))
    assert slowly.life.learner.missing is None
    assert await slowly.life.state(UIDS) == before


async def test_a_state_that_cannot_be_kept_is_told(
    slowly: Slowly, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "init", lambda self: {"seen": object()})
    await do(slowly, ("policy", PolicySettings("own")), ("settle",))
    told: list[Any] = []
    monkeypatch.setattr(service.logger, "error", lambda *args: told.append(args[-1]))
    slowly.slow.release()
    await slowly.life.learning.close()
    assert "policy own cannot be kept" in str(told[0])
    assert not slowly.life.learning._saving and slowly.life.learner.unsaved


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


async def test_what_is_learned_during_a_snapshot_is_for_the_next(slowly: Slowly) -> None:
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",))
    await do(slowly, ("save",), ("give", "ann", 0, 1.0), ("settle",))
    learner = slowly.life.learner
    assert learner.unsaved == 1
    learned = await slowly.log.learned(NUMBER)
    assert learned.seq == 1 and len(learned.entries) == 1
    user = learner.users.get("ann")
    assert user is not None and user.dirty


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


async def test_two_applications_do_not_meet(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    learning = fake_learning(clock, fake_loop)
    one = learning.begin(record_of())
    other = learning.begin(msgspec.structs.replace(record_of(), name="b", number=8))
    assert learning.begin(record_of()) is one
    one.users.count("ann")
    assert one.users.may_be_kept("ann") and not other.users.may_be_kept("ann")
