from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import House, Receiver, replicas, row

from clipper.application import Application
from clipper.guarding import EVERY, Guard
from clipper.learning import events
from clipper.model import Model
from clipper.records import PolicySettings
from clipper.selection.canary import Canary
from clipper.selection.policy import Arm, Score, Subject, Total, Verdict
from clipper.values import FailureKind

A, B = "a:1#1", "b:1#2"


class Watcher(Canary):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(Canary.Options(weights={"a": 1.0, "b": 1.0}))
        self.shown: list[Mapping[Arm, Score]] = []

    def judge(self, scores: Mapping[Arm, Score]) -> Verdict | None:
        self.shown.append(scores)
        return None


def test_a_guard_counts_by_arm() -> None:
    guard = Guard(Watcher())
    for failed in (False, True, False):
        guard.saw(A, failed, 0.01)
    guard.saw(B, True, 5.0)
    totals = {A: Total(3.0, 1.0)}
    scores = guard.scores([A, B, "c:1#3"], totals)
    assert (scores[A].queries, scores[A].failures, scores[A].total) == (3, 1, totals[A])
    assert scores[A].latency == pytest.approx(0.01, rel=0.3)
    assert scores[B].latency is not None and scores[B].latency > 1
    assert scores["c:1#3"] == Score(0, 0, None, Total(0.0, 0.0))


def test_it_looks_again_after_some_queries() -> None:
    guard = Guard(Watcher())
    due = [guard.saw(A, False, 0.01) for _ in range(EVERY)]
    assert due == [False] * (EVERY - 1) + [True]
    guard.judge([A], {})
    assert not guard.saw(A, False, 0.01)


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
