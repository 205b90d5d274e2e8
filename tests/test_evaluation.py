from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import House, Receiver, replicas, row

from clipper.application import Application
from clipper.evaluation import SECONDS, Evaluation
from clipper.model import Model
from clipper.values import FailureKind, RowError


class Jury:
    def __init__(self, house: House, **fields: Any) -> None:
        self.house = house
        self.models = [house.model(f"m{n}") for n in range(3)]
        self.application: Application = house.application(*self.models, **fields)
        self.application.update(self.application.record, self.models, {})
        self.told: list[dict[str, Any]] = []

    def evaluate(self, value: float = 1) -> None:
        now = self.house.clock.now()
        arms = self.application.arms

        def told(outputs: dict[str, Any], failure: RowError | None) -> None:
            self.told.append(outputs)

        Evaluation(self.application, row(value), arms, now, told)
        self.house.loop.turn()

    def answer(self, model: Model, output: Any = b"1") -> None:
        replicas(model).replica.answer(lambda _: output)
        self.house.loop.turn()


@pytest.fixture
def jury(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Jury]:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    return lambda **fields: Jury(House(clock, fake_loop), **fields)


Make = Callable[..., Jury]


async def test_it_tells_once_when_all_are_in(jury: Make) -> None:
    court = jury()
    court.evaluate()
    court.answer(court.models[2], b"3")
    court.answer(court.models[0], b"1")
    assert not court.told
    court.answer(court.models[1], b"2")
    assert court.told == [
        dict(zip(court.application.arms, (b"1", b"2", b"3"), strict=True))
    ]


async def test_who_fails_is_left_out(jury: Make) -> None:
    court = jury(cache=False)
    court.evaluate()
    replicas(court.models[0]).replica.fail(FailureKind.RAISED)
    court.answer(court.models[1], RowError("model_failed", "no"))
    court.answer(court.models[2], b"3")
    assert court.told == [{"m2:1#3": b"3"}]


async def test_if_nobody_can_be_asked_it_tells_at_once(jury: Make) -> None:
    court = jury()
    for model in court.models:
        model.connected = False
    court.evaluate()
    assert court.told == [{}]


async def test_what_is_in_the_cache_is_not_asked_again(jury: Make) -> None:
    court = jury()
    court.evaluate()
    for model in court.models:
        court.answer(model)
    court.evaluate()
    assert len(court.told) == 2
    assert all(len(replicas(model).replica.seen) == 1 for model in court.models)


async def test_a_query_on_the_same_input_hurries_it_and_both_are_told(jury: Make) -> None:
    court = jury()
    court.evaluate()
    receiver = Receiver()
    court.application.submit(row(1), receiver)
    for model in court.models:
        court.answer(model, b"5")
    assert receiver.output == b"5"
    assert court.told[0]["m0:1#1"] == b"5"
    assert len(replicas(court.models[0]).replica.seen) == 1


async def test_it_does_not_wait_for_ever(jury: Make) -> None:
    court = jury(cache=False)
    blocker = replicas(court.models[0]).replica
    blocker.capacity = 0
    court.evaluate()
    for model in court.models[1:]:
        court.answer(model)
    court.house.loop.advance(2 * SECONDS)
    blocker.capacity = 1
    receiver = Receiver()
    court.application.submit(row(9), receiver)
    court.house.loop.turn()
    while blocker.batches:
        blocker.answer()
        court.house.loop.turn()
    assert len(court.told) == 1
