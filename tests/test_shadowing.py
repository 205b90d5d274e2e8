from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import SLO, House, Receiver, replicas, row

from clipper.application import Application
from clipper.model import Model
from clipper.records import PolicySettings
from clipper.shadowing import Comparison
from clipper.values import FailureKind, Output


class Stage:
    """An application with one model that answers and two shadows."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.application, self.models = self._make()

    def _make(self, **fields: Any) -> tuple[Application, list[Model]]:
        models = [self.house.model(f"m{n}") for n in range(3)]
        options = fields.pop("options", {})
        fields = {"cache": False, **fields}
        application: Application = self.house.application(
            *models, policy=PolicySettings("shadow", options), **fields
        )
        application.update(application.record, models, {})
        return application, models

    def make(self, **fields: Any) -> None:
        self.application, self.models = self._make(**fields)

    def ask(self, value: float = 1) -> Receiver:
        receiver = Receiver()
        self.query = self.application.submit(row(value), receiver)
        self.house.loop.turn()
        return receiver

    def answer(self, model: int, output: Output) -> None:
        replicas(self.models[model]).replica.answer(lambda _: output)
        self.house.loop.turn()

    def seen(self, model: int) -> int:
        return sum(map(len, replicas(self.models[model]).replica.seen))

    def compared(self, model: int) -> Comparison:
        arm = list(self.application.arms)[model]
        return self.application.watch.comparisons.setdefault(arm, Comparison())


@pytest.fixture
async def stage(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    return Stage(House(clock, fake_loop))


async def test_the_first_answers_and_the_shadows_are_asked_after_it(stage: Stage) -> None:
    receiver = stage.ask()
    assert (stage.seen(0), stage.seen(1), stage.seen(2)) == (1, 0, 0)
    stage.answer(0, b"3")
    assert receiver.output == b"3"
    assert (stage.seen(0), stage.seen(1), stage.seen(2)) == (1, 1, 1)


async def test_agreement_is_counted_for_each(stage: Stage) -> None:
    for said in ((b"3", b"3.0"), (b"3", b"4"), (b"4", b'"3"')):
        stage.ask()
        stage.answer(0, b"3")
        stage.answer(1, said[0])
        stage.answer(2, said[1])
    assert (stage.compared(1).agreed, stage.compared(1).differed) == (2, 1)
    assert (stage.compared(2).agreed, stage.compared(2).differed) == (1, 2)
    assert stage.compared(1).agreement == pytest.approx(2 / 3)
    assert Comparison().agreement is None


async def test_latency_is_from_the_answer_on(stage: Stage) -> None:
    stage.ask()
    stage.answer(0, b"3")
    stage.house.loop.advance(0.5)
    stage.answer(1, b"3")
    latency = stage.compared(1).latency.quantile(0.5)
    assert latency is not None and latency == pytest.approx(0.5, rel=0.3)


async def test_a_shadow_that_fails_is_counted_and_the_answer_is_out(stage: Stage) -> None:
    receiver = stage.ask()
    stage.answer(0, b"3")
    replicas(stage.models[1]).replica.fail(FailureKind.RAISED)
    stage.house.loop.turn()
    assert stage.compared(1).failed == 1 and stage.compared(1).agreement is None
    assert receiver.output == b"3"
    assert stage.application.stats.predictions == 1
    assert not stage.application.stats.failures


async def test_nothing_is_asked_after_a_failed_answer(stage: Stage) -> None:
    stage.ask()
    replicas(stage.models[0]).replica.fail(FailureKind.RAISED)
    stage.house.loop.turn()
    late = stage.ask()
    stage.house.loop.advance(SLO)
    assert late.told
    stage.query = stage.application.submit(row(1), Receiver())
    stage.query.cancel()
    stage.house.loop.turn()
    stage.answer(0, b"3")  # too late for all of them
    assert (stage.seen(1), stage.seen(2)) == (0, 0)


async def test_a_shadow_that_is_down_changes_nothing(stage: Stage) -> None:
    stage.models[1].connected = False
    stage.application.connection_changed()
    receiver = stage.ask()
    stage.answer(0, b"3")
    assert receiver.output == b"3" and stage.compared(1).failed == 1
    stage.answer(2, b"3")
    assert stage.compared(2).agreed == 1


async def test_a_shadow_never_stands_in(stage: Stage) -> None:
    stage.models[0].connected = False
    stage.application.connection_changed()
    receiver = stage.ask()
    assert not isinstance(receiver.output, bytes) and receiver.told
    assert stage.seen(1) == 0


async def test_an_error_of_ours_behind_the_answer_does_not_reach_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receivers = [stage.ask(1), stage.ask(2)]  # two in one batch perhaps
    ask = stage.application.ask

    def broken(model: Model, *more: Any, **fields: Any) -> Any:
        if model is not stage.models[0]:
            raise RuntimeError("a bug")
        return ask(model, *more, **fields)

    monkeypatch.setattr(stage.application, "ask", broken)
    while replicas(stage.models[0]).replica.batches:
        stage.answer(0, b"3")
    assert [receiver.output for receiver in receivers] == [b"3", b"3"]
    assert "a bug" in caplog.text


async def test_nor_does_it_where_the_answer_came_from_the_cache(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage.make(cache=True)
    stage.ask()
    stage.answer(0, b"3")
    ask = stage.application.ask

    def broken(model: Model, *more: Any, **fields: Any) -> Any:
        if model is not stage.models[0]:
            raise RuntimeError("a bug")
        return ask(model, *more, **fields)

    monkeypatch.setattr(stage.application, "ask", broken)
    assert stage.ask().output == b"3"
    assert stage.seen(0) == 1 and "a bug" in caplog.text


async def test_the_share_says_how_often(stage: Stage) -> None:
    stage.make(options={"share": 0.25})
    for number in range(400):
        stage.ask(number)
        stage.answer(0, b"3")
        while replicas(stage.models[1]).replica.batches:
            stage.answer(1, b"3")
    assert 60 <= stage.seen(1) <= 140
    assert stage.compared(1).agreed == stage.seen(1)


async def test_each_row_of_a_batch_is_compared(stage: Stage) -> None:
    receiver = Receiver()
    stage.application.submit_batch([row(1), row(2), row(3)], receiver)
    stage.house.loop.turn()
    replicas(stage.models[0]).replica.answer(lambda x: b"%d" % x[0])
    stage.house.loop.turn()
    assert receiver.outputs == [b"1", b"2", b"3"]
    while replicas(stage.models[1]).replica.batches:
        stage.answer(1, b"2")
    assert (stage.compared(1).agreed, stage.compared(1).differed) == (1, 2)


async def test_shadows_wait_behind_queries(stage: Stage) -> None:
    replica = replicas(stage.models[1]).replica
    replica.capacity = 0
    stage.ask(7)
    stage.answer(0, b"3")
    other = stage.house.application(stage.models[1], cache=False)
    other.update(other.record, stage.models[1:2], {})
    other.submit(row(8), Receiver())
    stage.house.loop.turn()
    assert not replica.seen
    replica.capacity = 1
    other.submit(row(9), Receiver())
    stage.house.loop.turn()
    assert replica.seen == [[[8.0], [9.0], [7.0]]]
