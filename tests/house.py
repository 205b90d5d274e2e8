"""One application over fake replicas in manual time, and who asks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes import (
    FakeLoop,
    FakeReplica,
    FakeReplicaSet,
    ManualClock,
    fake_learning,
    make_application,
)

from clipper.application import Application
from clipper.cache import PredictionCache
from clipper.config import Limits
from clipper.inputs import InputType, Row, encode_json_value
from clipper.model import Model
from clipper.query import BatchQuery, Query
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, BatchingSettings, ModelRecord
from clipper.values import FailureKind, Output

SLO = 0.1  # seconds


class Receiver:
    """Remembers the answer; a second one is an error."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.query: Query | None = None
        self.batch: BatchQuery | None = None
        self.then = then

    @property
    def told(self) -> bool:
        return self.query is not None or self.batch is not None

    def query_settled(self, query: Query) -> None:
        assert not self.told, "answered twice"
        self.query = query
        if self.then is not None:
            self.then()

    def batch_settled(self, batch: BatchQuery) -> None:
        assert not self.told, "answered twice"
        self.batch = batch

    @property
    def output(self) -> Output | None:
        return self.query.output if self.query is not None else None

    @property
    def outputs(self) -> list[Output | None] | None:
        return self.batch.outputs if self.batch is not None else None


class House:
    """Applications and models of one server, without the server."""

    def __init__(self, clock: ManualClock, loop: FakeLoop) -> None:
        self.clock = clock
        self.loop = loop
        self.limits = Limits(queue_rows=50)
        self.cache: PredictionCache[Any] = PredictionCache(100_000, clock=self.clock)
        self.ids = QueryIds(bytes(32), clock)
        self.number = 0
        self.learning = fake_learning(clock, loop)

    def model(self, name: str = "m", version: str = "1", **fields: Any) -> Model:
        self.number += 1
        fields = {"input_type": "doubles", "blob": "0" * 64, **fields}
        record = ModelRecord(
            name=name,
            version=version,
            generation=self.number,
            batching=BatchingSettings("fixed", 100),
            **fields,
        )

        async def load() -> bytes:
            return b""

        model = Model(record, load, self.cache, clock=self.clock, limits=self.limits)
        model.dispatcher._alarm._call_soon = self.loop.call_soon
        if record.blob is not None:
            model.replicas.restore(1)
        return model

    def application(self, *models: Model, **fields: Any) -> Application:
        self.number += 1
        fields = {"input_type": "doubles", "slo_micros": int(SLO * 1e6), **fields}
        names = list(dict.fromkeys(model.record.name for model in models))
        record = ApplicationRecord("app", self.number, models=names, **fields)
        application = make_application(
            record,
            self.ids,
            self.cache,
            clock=self.clock,
            loop=self.loop,
            learning=self.learning,
        )
        application.update(record, models[:1], {m.id.version: m for m in models})
        return application


def replicas(model: Model) -> FakeReplicaSet:
    found: Any = model.replicas
    return found


def row(*values: float) -> Row:
    return encode_json_value(InputType.DOUBLES, list(values))


class Ask:
    """One application over one model, and what is sent to its replica."""

    def __init__(self, house: House, **fields: Any) -> None:
        self.house = house
        self.model = house.model()
        self.application = house.application(self.model, **fields)
        self.stats = self.application.stats

    @property
    def replica(self) -> FakeReplica:
        return replicas(self.model).replica

    def one(
        self, *values: float, receiver: Receiver | None = None, **more: Any
    ) -> Receiver:
        receiver = receiver or Receiver()
        self.query = self.application.submit(row(*values), receiver, **more)
        return receiver

    def many(self, *values: float, **more: Any) -> Receiver:
        receiver = Receiver()
        rows = [row(value) for value in values]
        self.batch = self.application.submit_batch(rows, receiver, **more)
        return receiver

    def block(self, *values: float, **more: Any) -> Receiver:
        receiver = Receiver()
        payload = row(*values).payload
        self.batch = self.application.submit_block(
            payload, len(values), None, receiver, **more
        )
        return receiver

    def turn(self) -> None:
        self.house.loop.turn()

    def answer(self, function: Callable[[Any], Output] = lambda x: b"%d" % x[0]) -> None:
        self.turn()
        self.replica.answer(function)
        self.turn()

    def fail(self, kind: FailureKind) -> None:
        self.turn()
        self.replica.fail(kind)
        self.turn()

    def wait(self, seconds: float) -> None:
        self.house.loop.advance(seconds)


@pytest.fixture
async def house(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> House:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    return House(clock, fake_loop)


@pytest.fixture
async def ask(house: House) -> Ask:
    return Ask(house)
