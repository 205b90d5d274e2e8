from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeReplicaSet, ManualClock

from clipper.batching.aimd import AIMD
from clipper.cache import PredictionCache, key_prefix
from clipper.config import Limits
from clipper.inputs import InputType, encode_json_value
from clipper.model import DEFAULT_OBJECTIVE, Model
from clipper.records import BatchingSettings, ModelRecord
from clipper.workers.replica_set import State


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)


def make(**fields: Any) -> Model:
    fields = {"input_type": "doubles", "blob": "b", "generation": 7, **fields}

    async def load() -> bytes:
        return b""

    record = ModelRecord(name="m", version="1", **fields)
    cache: PredictionCache[Any] = PredictionCache(1000)
    return Model(record, load, cache, clock=ManualClock(), limits=Limits())


def replicas(model: Model) -> FakeReplicaSet:
    found: Any = model.replicas
    return found


async def test_a_worker_is_told_what_the_record_says() -> None:
    model = make(
        example=[1, 2],
        environment={"A": "1"},
        memory_limit=5,
        spares=1,
        recycle_after=2,
        recycle_memory=3,
    )
    spec = replicas(model).spec
    assert (spec.name, spec.version, spec.input_type) == ("m", "1", InputType.DOUBLES)
    assert spec.example == encode_json_value(InputType.DOUBLES, [1, 2])
    assert (spec.environment, spec.memory_limit) == ({"A": "1"}, 5)
    assert (spec.spares, spec.recycle_after, spec.recycle_memory) == (1, 2, 3)
    assert replicas(make()).spec.example is None
    assert model.prefix == key_prefix(7)


async def test_a_controller_that_is_gone_is_replaced_by_the_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = make(batching=BatchingSettings("of_another_program"))
    assert isinstance(model.dispatcher.controller, AIMD)
    assert "served with the default controller" in caplog.text


async def test_the_controller_is_the_record_s() -> None:
    model = make(batching=BatchingSettings("fixed", 5))
    assert model.dispatcher.controller.cap == 5
    assert model.dispatcher.controller.objective == DEFAULT_OBJECTIVE
    model.set_objectives([0.5, 0.7])
    assert 0.2 < model.dispatcher.controller.objective < 0.5
    model.set_objectives([])
    assert model.dispatcher.controller.objective == DEFAULT_OBJECTIVE


async def test_it_is_connected_while_an_answer_may_come() -> None:
    model = make()
    assert model.connected and model.starting
    for state, connected in (
        (State.LIVE, True),
        (State.STARTING, True),
        (State.FAILED, False),
        (State.LIVE, True),
    ):
        replicas(model).wanted = 1
        replicas(model).become(state)
        assert model.connected is connected and not model.starting
    await model.stop(0.0)
    assert not model.connected and not model.starting
    replicas(model).become(State.LIVE)
    assert not model.connected


@pytest.mark.parametrize("fields", [{"blob": None}, {"num_replicas": 0}])
async def test_without_workers_it_is_neither_connected_nor_starting(
    fields: dict[str, Any],
) -> None:
    model = make(**fields)
    assert not model.connected and not model.starting


async def test_it_describes_itself() -> None:
    assert "m:1 STARTING" in repr(make())
