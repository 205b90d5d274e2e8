"""Ensembles: members asked in parallel, with fake replicas, in manual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import SLO, House, Receiver, replicas, row

from clipper.application import Application
from clipper.batching.job import EXPIRED
from clipper.frontend.answers import batch_answer, prediction_answer
from clipper.model import Model
from clipper.query import NO_MODEL, BatchQuery
from clipper.records import PolicySettings
from clipper.values import FailureKind, Output, RowError


class Jury:
    """An application that asks some models at once."""

    def __init__(
        self, clock: ManualClock, loop: FakeLoop, members: int, policy: str, **fields: Any
    ) -> None:
        self.house = House(clock, loop)
        self.models = [self.house.model(f"m{n}") for n in range(members)]
        settings = PolicySettings(policy, fields.pop("options", {}))
        fields = {"cache": False, **fields}
        self.application: Application = self.house.application(
            *self.models, policy=settings, **fields
        )
        self.application.update(self.application.record, self.models, {})

    def ask(self, *values: float, **more: Any) -> Receiver:
        receiver = Receiver()
        self.query = self.application.submit(row(*values), receiver, **more)
        self.house.loop.turn()
        return receiver

    def answer(self, member: int, output: Output) -> None:
        replicas(self.models[member]).replica.answer(lambda _: output)
        self.house.loop.turn()

    def fail(self, member: int) -> None:
        replicas(self.models[member]).replica.fail(FailureKind.RAISED)
        self.house.loop.turn()

    def shown(self) -> dict[str, Any]:
        status, body = prediction_answer(self.query)
        value: dict[str, Any] = msgspec.json.decode(body)
        return {"status": status, **value}


@pytest.fixture
def jury(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Jury]:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)

    def make(members: int = 3, policy: str = "majority", **fields: Any) -> Jury:
        return Jury(clock, fake_loop, members, policy, **fields)

    return make


Make = Callable[..., Jury]


async def test_all_members_are_asked_and_the_vote_answers(jury: Make) -> None:
    court = jury()
    receiver = court.ask(1)
    court.answer(0, b"3")
    court.answer(1, b"8")
    assert not receiver.told
    court.answer(2, b"3")
    assert receiver.output == b"3"
    shown = court.shown()
    assert shown["confidence"] == pytest.approx(2 / 3, abs=1e-4)
    assert "missing" not in shown and not shown["default"]


async def test_the_answer_comes_when_the_vote_is_decided(jury: Make) -> None:
    court = jury()
    receiver = court.ask(1)
    court.answer(0, b"3")
    court.answer(2, b"3")
    assert receiver.output == b"3"
    assert "missing" not in court.shown()  # nobody was late


async def test_at_the_deadline_those_who_are_in_answer(jury: Make) -> None:
    court = jury()
    receiver = court.ask(1)
    court.answer(1, b"8")
    court.house.loop.advance(SLO)
    assert receiver.output == b"8"
    assert court.shown()["missing"] == ["m0:1", "m2:1"]
    assert court.application.stats.missing == {"m0:1": 1, "m2:1": 1}
    assert court.application.stats.predictions == 1


async def test_nobody_in_time_is_a_missed_deadline(jury: Make) -> None:
    court = jury(default_output="-1")
    receiver = court.ask(1)
    court.house.loop.advance(SLO)
    assert receiver.output == EXPIRED
    shown = court.shown()
    assert shown["output"] == -1 and shown["default"] and "confidence" not in shown


async def test_a_late_answer_is_kept_for_feedback(jury: Make) -> None:
    court = jury()
    court.ask(1)
    court.answer(1, b"8")
    court.house.loop.advance(SLO)
    court.answer(0, b"3")
    panel = court.query.panel
    assert panel is not None
    assert list(panel.outputs().values()) == [b"3", b"8"]
    assert panel.agreeing == (1,)


async def test_a_panel_that_is_kept_keeps_no_inputs(jury: Make) -> None:
    court = jury()
    court.ask(1)
    court.answer(1, b"8")
    panel = court.query.panel
    assert panel is not None and len(panel.jobs) == 3
    court.house.loop.advance(SLO)
    assert panel.jobs == []


async def test_a_late_answer_fills_the_cache(jury: Make) -> None:
    court = jury(cache=True)
    court.ask(1)
    court.answer(1, b"8")
    court.house.loop.advance(SLO)
    court.answer(0, b"3")
    court.answer(2, b"3")
    again = court.ask(1)
    assert again.output == b"3"  # of all three


async def test_a_member_that_fails_is_left_out(jury: Make) -> None:
    court = jury()
    receiver = court.ask(1)
    court.fail(2)
    court.answer(1, b"8")
    assert not receiver.told  # the first may still make it a tie, and comes before
    court.answer(0, b"8")
    assert receiver.output == b"8"
    assert court.shown()["confidence"] == 1.0


async def test_a_member_that_could_not_be_in_time_is_missing(jury: Make) -> None:
    court = jury()
    receiver = court.ask(1)
    replicas(court.models[0]).replica.answer(lambda _: RowError("overloaded", "too late"))
    court.answer(1, b"8")
    court.answer(2, b"8")
    assert receiver.output == b"8"
    assert court.shown()["missing"] == ["m0:1"]
    assert court.application.stats.missing == {"m0:1": 1}


async def test_if_all_fail_so_does_the_query(jury: Make) -> None:
    court = jury()
    receiver = court.ask(1)
    for member in range(3):
        court.fail(member)
    assert isinstance(receiver.output, RowError)
    assert receiver.output.code == "model_failed"
    assert court.application.stats.failures == {"model_failed": 1}


async def test_a_member_without_replicas_is_not_asked(jury: Make) -> None:
    court = jury()
    court.models[0].connected = False
    court.application.connection_changed()
    receiver = court.ask(1)
    court.answer(1, b"8")
    court.answer(2, b"8")
    assert receiver.output == b"8"
    assert court.query.choice.arms == ("m1:1#2", "m2:1#3")


async def test_with_no_member_there_is_no_model(jury: Make) -> None:
    court = jury()
    for model in court.models:
        model.connected = False
    court.application.connection_changed()
    assert court.ask(1).output == NO_MODEL


async def test_a_client_that_leaves_takes_queued_work_along(jury: Make) -> None:
    court = jury()
    receiver = Receiver()
    query = court.application.submit(row(1), receiver)
    query.cancel()
    court.house.loop.turn()
    assert not receiver.told
    assert all(not replicas(model).replica.seen for model in court.models)
    assert court.application.stats.cancelled == 1


async def test_each_row_of_a_batch_is_voted_on(jury: Make) -> None:
    court = jury(default_output=None)
    receiver = Receiver()
    batch = court.application.submit_batch([row(1), row(2)], receiver)
    court.house.loop.turn()
    for member, offset in ((0, 0), (1, 0), (2, 5)):
        replicas(court.models[member]).replica.answer(
            lambda x, more=offset: b"%d" % (x[0] + more)
        )
        court.house.loop.turn()
    assert receiver.outputs == [b"1", b"2"]
    rows = msgspec.json.decode(batch_answer(batch))["batch_predictions"]
    assert [r["output"] for r in rows] == [1, 2]
    assert all(r["confidence"] > 0.6 and "missing" not in r for r in rows)


async def test_a_batch_at_its_deadline_answers_row_by_row(jury: Make) -> None:
    court = jury(default_output="-1")
    receiver = Receiver()
    batch: BatchQuery = court.application.submit_batch([row(1), row(2)], receiver)
    court.house.loop.turn()
    replicas(court.models[0]).replica.answer(
        lambda x: b"1" if x[0] == 1 else RowError("model_failed", "no")
    )
    court.house.loop.advance(SLO)
    assert receiver.outputs == [b"1", EXPIRED]
    rows = msgspec.json.decode(batch_answer(batch))["batch_predictions"]
    assert rows[0]["missing"] == ["m1:1", "m2:1"] and rows[1]["default"]


async def test_a_block_is_voted_on_as_well(jury: Make) -> None:
    court = jury()
    receiver = Receiver()
    payload = row(1).payload + row(2).payload
    court.application.submit_block(payload, 2, None, receiver)
    court.house.loop.turn()
    for member in range(2):
        replicas(court.models[member]).replica.answer(lambda x: b"%d" % x[0])
        court.house.loop.turn()
    assert receiver.outputs == [b"1", b"2"]


async def test_a_named_version_is_asked_alone(jury: Make) -> None:
    court = jury(members=1)
    other = court.house.model("m0", "2")
    models: list[Model] = [court.models[0], other]
    versions = {model.id.version: model for model in models}
    court.application.update(court.application.record, models, versions)
    receiver = court.ask(1, version="2")
    assert not replicas(court.models[0]).replica.seen
    replicas(other).replica.answer(lambda _: b"5")
    assert receiver.output == b"5"


async def test_mean_and_median_suit_the_loss(jury: Make) -> None:
    for loss, expected in (("squared(10)", 4.0), ("absolute(10)", 2.0)):
        court = jury(loss=loss)
        receiver = court.ask(1)
        for member, output in enumerate((b"1", b"2", b"9")):
            court.answer(member, output)
        assert isinstance(receiver.output, bytes)
        assert msgspec.json.decode(receiver.output) == expected
