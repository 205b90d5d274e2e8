"""Queries of users whose experience has to come from the disk, in manual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import SLO, House, Receiver, replicas, row

from clipper.batching.job import EXPIRED
from clipper.errors import InvalidInput
from clipper.learning.events import PolicyChange
from clipper.loading import is_cold
from clipper.records import PolicySettings
from clipper.selection.policy import Subject
from clipper.values import RowError

ALICE = Subject("alice")


class Desk:
    """An application that knows alice, and a disk that answers when it is told to."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.model = house.model()
        policy = PolicySettings("hedge", {})
        self.application = house.application(self.model, policy=policy, cache=False)
        self.learner = self.application.learner
        self.learner.users.count("alice")
        self.asked: list[Callable[[], None]] = []

        def load(learner: Any, uid: str, done: Callable[[], None]) -> None:
            self.asked.append(done)

        monkeypatch.setattr(house.learning, "load", load)

    def submit(self, **more: Any) -> Receiver:
        receiver = Receiver()
        self.query = self.application.submit(row(1), receiver, ALICE, **more)
        self.house.loop.turn()
        return receiver

    def evaluated(self) -> int:
        return sum(map(len, replicas(self.model).replica.seen))

    def loaded(self) -> None:
        for done in self.asked:
            done()
        self.house.loop.turn()

    def answer(self) -> None:
        replicas(self.model).replica.answer(lambda _: b"1")
        self.house.loop.turn()


@pytest.fixture
async def desk(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    return Desk(House(clock, fake_loop), monkeypatch)


async def test_who_is_cold(desk: Desk) -> None:
    assert is_cold(desk.learner, "alice")
    assert not is_cold(desk.learner, "bob"), "nothing was ever kept of him"
    desk.learner.admit("alice", None)
    assert not is_cold(desk.learner, "alice")


async def test_a_query_waits_for_its_users_experience(desk: Desk) -> None:
    receiver = desk.submit()
    assert desk.evaluated() == 0
    desk.loaded()
    assert desk.evaluated() == 1
    desk.answer()
    assert receiver.output == b"1" and desk.query.choice.arms
    desk.house.loop.advance(SLO)
    desk.loaded()
    assert desk.evaluated() == 1, "it is started once"


async def test_half_of_its_time_is_the_longest_wait(desk: Desk) -> None:
    receiver = desk.submit()
    desk.house.loop.advance(SLO / 2 - 0.002)
    assert desk.evaluated() == 0
    desk.house.loop.advance(0.004)
    assert desk.evaluated() == 1
    desk.loaded()
    assert desk.evaluated() == 1
    desk.house.loop.advance(SLO)
    assert receiver.output == EXPIRED


async def test_who_has_gone_meanwhile_is_not_evaluated(desk: Desk) -> None:
    receiver = desk.submit()
    desk.query.cancel()
    desk.loaded()
    desk.house.loop.advance(SLO)
    assert desk.evaluated() == 0 and not receiver.told


async def test_an_application_that_goes_tells_who_waits(desk: Desk) -> None:
    receiver = desk.submit()
    desk.application.close()
    assert receiver.told
    desk.loaded()
    assert desk.evaluated() == 0


async def test_who_names_a_version_has_it_at_once(desk: Desk) -> None:
    other = desk.house.model(version="2")
    versions = {"1": desk.model, "2": other}
    desk.application.update(desk.application.record, [desk.model], versions)
    desk.submit(version="2")
    assert not desk.asked
    assert replicas(other).replica.seen and desk.query.choice.model is other


@pytest.mark.parametrize("default", [None, "0"])
async def test_who_brought_no_context_is_told_that_one_is_needed_now(
    desk: Desk, default: str | None
) -> None:
    """The policy may change while a query waits."""
    receiver = desk.submit()
    change = PolicyChange(2, PolicySettings("linucb", {"features": 2}))
    desk.learner.apply(desk.learner.population.seq + 1, None, change)
    desk.application.policy_changed()
    desk.loaded()
    assert desk.evaluated() == 0
    assert isinstance(receiver.output, RowError)
    assert "needs a context of 2 numbers" in receiver.output.cause
    desk.application.rendering.default = None if default is None else b"0"
    if default is None:
        with pytest.raises(InvalidInput, match="context of 2 numbers"):
            desk.query.prediction()
    else:
        assert desk.query.prediction().default_explanation == receiver.output.cause
