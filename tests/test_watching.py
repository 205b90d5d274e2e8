"""What becomes of arms that are watched: by guards, and as shadows."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import House, Receiver, replicas, row

from clipper.application import Application
from clipper.explanation.arms import arm_facts
from clipper.learning import events
from clipper.model import Model
from clipper.records import PolicySettings
from clipper.selection.canary import Canary
from clipper.selection.policy import MOST_ARMS, MOST_LEFT, Arm, Subject
from clipper.values import FailureKind


class Mine:
    """An application with a stable version and one that is on trial."""

    def __init__(self, house: House, **options: Any) -> None:
        self.house = house
        self.models = [house.model("a"), house.model("b")]
        options = {"weights": {"a": 0.5, "b": 0.5}, **options}
        self.application: Application = house.application(
            *self.models, policy=PolicySettings("canary", options), cache=False
        )
        self.application.update(self.application.record, self.models, {})
        self.learner = self.application.learner

    @property
    def canary(self) -> Arm:
        return list(self.application.arms)[1]

    def ask(self, count: int, bad: Model | None) -> None:
        for number in range(count):
            receiver = Receiver()
            self.application.submit(row(1), receiver, Subject(f"user{number}"))
            self.house.loop.turn()
            for model in self.models:
                replica = replicas(model).replica
                while replica.batches:
                    if model is bad:
                        replica.fail(FailureKind.RAISED)
                    else:
                        replica.answer(lambda _: b"1")
            self.house.loop.turn()
            assert receiver.told

    async def halts(self) -> list[events.Event]:
        log = self.house.learning.log
        entries = await log.entries(self.application.number, 0, 1000)
        return [events.decode(entry.body) for _, entry in entries]


@pytest.fixture
async def mine(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Mine:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    return Mine(House(clock, fake_loop))


async def test_a_canary_that_fails_is_taken_out_once(mine: Mine) -> None:
    mine.ask(200, mine.models[1])
    (halt,) = await mine.halts()
    assert isinstance(halt, events.Halt) and halt.arm == mine.canary
    assert "it failed" in halt.reason and halt.generation == mine.learner.generation
    assert mine.learner.halted == {mine.canary: halt.reason}
    before = len(replicas(mine.models[1]).replica.seen)
    mine.ask(100, None)
    assert len(replicas(mine.models[1]).replica.seen) == before


async def test_one_that_does_well_stays(mine: Mine) -> None:
    mine.ask(300, None)
    assert mine.learner.halted == {} and await mine.halts() == []


async def test_the_stable_one_is_never_taken_out(mine: Mine) -> None:
    mine.ask(300, mine.models[0])
    assert mine.learner.halted == {}


async def test_it_stays_out_after_a_restart_and_comes_back_with_the_policy(
    mine: Mine,
) -> None:
    mine.ask(200, mine.models[1])
    record, learning = mine.application.record, mine.house.learning
    for snapshot in (False, True):
        if snapshot:
            await learning.close()
        del learning.learners[mine.application.number]
        await learning.restore(record)
        learner = learning.learners[mine.application.number]
        assert list(learner.halted) == [mine.canary]
    learning.follow_policy(msgspec.structs.replace(record, policy_generation=2))
    mine.house.loop.turn()
    assert learner.halted == {} and learner.generation == 2


async def test_a_guard_begins_anew_with_its_policy(mine: Mine) -> None:
    mine.ask(200, mine.models[1])
    record = msgspec.structs.replace(mine.application.record, policy_generation=2)
    mine.house.learning.follow_policy(record, lambda _: mine.application.policy_changed())
    mine.house.loop.turn()
    assert mine.application.watch.scores()[mine.canary].queries == 0
    mine.ask(100, None)
    assert mine.learner.halted == {}
    mine.ask(200, mine.models[1])
    assert mine.canary in mine.learner.halted  # the same arm, by the new policy's guard


async def test_queries_of_a_batch_count_each(mine: Mine) -> None:
    receiver = Receiver()
    batch = mine.application.submit_batch([row(n) for n in range(4)], receiver)
    mine.house.loop.turn()
    for model in mine.models:
        while replicas(model).replica.batches:
            replicas(model).replica.answer(lambda _: b"1")
    mine.house.loop.turn()
    assert batch.choice.arm is not None
    assert mine.application.watch.scores()[batch.choice.arm].queries == 4


# -- as long as the policy says so -------------------------------------------------------


def set_policy(application: Application, name: str, **options: Any) -> None:
    record = application.record
    record = msgspec.structs.replace(
        record,
        policy=PolicySettings(name, options),
        policy_generation=record.policy_generation + 1,
    )
    application.learning.follow_policy(record)
    application.learning.journal.flush()
    application.update(record, application.models, {})


async def test_what_a_guard_said_does_not_outlive_its_policy(mine: Mine) -> None:
    mine.ask(200, mine.models[1])
    (first, second) = arm_facts(mine.application)
    assert first.guard is not None and second.halted is not None
    set_policy(mine.application, "ucb1")
    mine.house.loop.turn()
    for arm in arm_facts(mine.application):
        assert arm.halted is None and arm.guard is None


class Shaded(Mine):
    """The first model answers, the second is its shadow."""

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self.change("shadow")

    def change(self, name: str, **options: Any) -> None:
        set_policy(self.application, name, **options)
        self.house.loop.turn()

    def ask(self, count: int, bad: Model | None) -> None:
        for _ in range(count):
            super().ask(1, bad)
            self.house.loop.turn()
            while replicas(self.models[1]).replica.batches:
                replicas(self.models[1]).replica.answer(lambda _: b"1")
                self.house.loop.turn()

    def told(self) -> list[int | None]:
        """Of each arm, how many answers its own were compared with."""
        facts = arm_facts(self.application)
        return [None if arm.shadow is None else arm.shadow.compared for arm in facts]


@pytest.fixture
async def shaded(mine: Mine) -> Shaded:
    return Shaded(mine.house)


async def test_what_a_shadow_said_does_not_outlive_its_policy(shaded: Shaded) -> None:
    shaded.ask(3, None)
    assert shaded.told() == [None, 3]
    shaded.change("static", model="a")
    assert shaded.told() == [None, None]
    shaded.change("shadow")
    assert shaded.told() == [None, None]
    shaded.ask(1, None)
    assert shaded.told() == [None, 1]


async def test_a_comparison_begins_anew_with_its_policy(shaded: Shaded) -> None:
    shaded.ask(3, None)
    shaded.change("shadow", share=1.0)
    assert shaded.told() == [None, None]


async def test_what_a_shadow_says_late_is_told_of_no_more(shaded: Shaded) -> None:
    shaded.application.submit(row(1), Receiver())
    shaded.house.loop.turn()
    replicas(shaded.models[0]).replica.answer(lambda _: b"1")
    shaded.house.loop.turn()
    assert replicas(shaded.models[1]).replica.batches
    shaded.change("static", model="a")
    replicas(shaded.models[1]).replica.answer(lambda _: b"1")
    shaded.house.loop.turn()
    assert shaded.application.watch.comparisons == {}


async def test_a_shadow_that_answers_now_is_none(shaded: Shaded) -> None:
    shaded.ask(3, None)
    application = shaded.application
    application.update(application.record, shaded.models[1:], {})
    assert shaded.told() == [None]
    application.update(application.record, shaded.models, {})
    assert shaded.told() == [None, None]


async def test_a_shadow_that_left_is_remembered_for_when_it_returns(
    shaded: Shaded,
) -> None:
    shaded.ask(3, None)
    application = shaded.application
    application.update(application.record, shaded.models[:1], {})
    assert shaded.told() == [None]
    application.update(application.record, shaded.models, {})
    assert shaded.told() == [None, 3]


# -- within bounds -----------------------------------------------------------------------


async def test_shadows_of_long_ago_are_forgotten(shaded: Shaded) -> None:
    watch, answering = shaded.application.watch, "a:1#1"
    for number in range(2 * MOST_ARMS):
        arm = f"b:{number}#{number}"
        watch.follow([answering, arm], [arm])
        assert watch.comparison(arm) is not None
        assert watch.comparison(answering) is None
    assert len(watch.comparisons) <= 3 + MOST_LEFT
    assert [*watch.comparisons][-1] == arm and "b:0#0" not in watch.comparisons


async def test_guarded_arms_of_long_ago_are_forgotten(mine: Mine) -> None:
    watch, guard = mine.application.watch, mine.application.watch.guard
    assert guard is not None
    for number in range(2 * MOST_ARMS):
        guard.saw(f"b:{number}#{number}", False, 0.01)
        watch.follow([*mine.application.arms], [])
    first, last = "b:0#0", f"b:{number}#{number}"
    scores = guard.scores([first, last], {})
    assert (scores[first].queries, scores[last].queries) == (0, 1)


async def test_an_arm_is_taken_out_once_though_the_log_is_slow(
    mine: Mine, monkeypatch: pytest.MonkeyPatch
) -> None:
    halts: list[Any] = []
    monkeypatch.setattr(mine.house.learning, "halt", lambda *said: halts.append(said))
    mine.ask(200, mine.models[1])
    ((_, arm, reason, halted),) = halts
    guard = mine.application.watch.guard
    assert guard is not None and guard.halting == {arm} and "it failed" in reason
    halted()
    assert guard.halting == set()


async def test_a_policy_that_cannot_judge_is_done_without(
    mine: Mine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Canary, "judge", broken)
    with caplog.at_level(logging.ERROR):
        mine.ask(100, mine.models[1])  # all are answered
    assert caplog.text.count("failed to judge") == 1
    assert mine.learner.halted == {}
