"""Explanations of an application over fake replicas, in manual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fakes import (
    FakeLoop,
    FakeReplica,
    FakeReplicaSet,
    ManualClock,
    make_application,
)

from clipper.application import Application
from clipper.batching.fixed import Fixed
from clipper.batching.registry import CONTROLLERS
from clipper.cache import PredictionCache
from clipper.config import Limits
from clipper.explanation.collect import capacity_of, collect, explain
from clipper.explanation.facts import Explanation, Facts, ModelFacts
from clipper.inputs import InputType, encode_json_value
from clipper.model import Model
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, BatchingSettings, ModelRecord
from clipper.values import FailureKind
from clipper.workers.replica_set import SetStatistics, State

SLO = 0.02  # seconds


class Replicas(FakeReplicaSet):
    """Two replicas that tell of themselves."""

    reason = ""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.replicas = [self.replica, FakeReplica(self.spec.input_type)]

    @property
    def ready(self) -> tuple[FakeReplica, ...]:
        return (*self.replicas[: self.live],)

    def statistics(self) -> SetStatistics:
        return SetStatistics(self.state, self.reason, self.live, self.wanted, 0, 0, ())


class Nobody:
    """Who asks and does not care."""

    def query_settled(self, query: Any) -> None: ...

    def batch_settled(self, batch: Any) -> None: ...


class House:
    """The application `app` over the model `m`."""

    def __init__(self, clock: ManualClock, loop: FakeLoop) -> None:
        self.clock = clock
        self.loop = loop
        self.cache: PredictionCache[Any] = PredictionCache(100_000, clock=clock)
        self.ids = QueryIds(bytes(32), clock)
        self.asked = 0

    def model(self, version: str, replicas: int = 1, **batching: Any) -> Model:
        record = ModelRecord(
            "m", version, "doubles", int(version), blob="0" * 64, num_replicas=replicas,
            batching=BatchingSettings(**{"batch_wait": 0.0} | batching),
        )  # fmt: skip

        async def load() -> bytes:
            return b""

        model = Model(record, load, self.cache, clock=self.clock, limits=Limits())
        model.dispatcher._alarm._call_soon = self.loop.call_soon
        model.dispatcher._alarm._call_later = self.loop.call_later
        model.set_objectives([SLO])
        if replicas:
            model.replicas.restore(replicas)
        return model

    def application(self, *models: Model, **fields: Any) -> Application:
        """Over versions of one model, of which the first is current."""
        record = ApplicationRecord(
            "app", 1, "doubles", round(SLO * 1e6), models=["m"], **fields
        )
        application = make_application(
            record, self.ids, self.cache, clock=self.clock, loop=self.loop
        )
        application.update(record, models[:1], {m.id.version: m for m in models})
        return application

    def ask(self, application: Application, rows: int = 1, **more: Any) -> None:
        for _ in range(rows):
            self.asked += 1
            row = encode_json_value(InputType.DOUBLES, [float(self.asked)])
            application.submit(row, Nobody(), **more)
        self.loop.turn()

    def answer(
        self, model: Model, seconds: Callable[[int], float], number: int = 0
    ) -> None:
        """Let the replica answer its oldest batch, in so many seconds for its rows."""
        replicas: Any = model.replicas
        replica = replicas.replicas[number]
        took = seconds(replica.batches[0].rows)
        self.loop.advance(took)
        replica.answer(seconds=took)
        self.loop.turn()


@pytest.fixture
async def house(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> House:
    monkeypatch.setattr("clipper.model.ReplicaSet", Replicas)
    return House(clock, fake_loop)


def line(rows: int) -> float:
    return 0.001 + 0.0004 * rows


def only(facts: Facts) -> ModelFacts:
    (model,) = facts.models
    return model


async def test_before_anything_was_asked(house: House) -> None:
    model = house.model("1")
    facts = collect(house.application(model), house.cache)
    assert (facts.application, facts.slo_ms, facts.linked) == ("app", 20.0, ["m"])
    assert (facts.attainment.recent, facts.attainment.rows) == (None, 0)
    assert facts.latency.p50_ms is None and facts.failures == {}
    shown = only(facts)
    assert (shown.model, shown.current, shown.state) == ("m:1", True, "live")
    assert (shown.cap_rows, shown.bound_rows, shown.controller) == (1, 4096, "aimd")
    assert shown.fitted is None and shown.capacity_rows_per_second is None
    assert shown.recent is None and shown.replicas == []


async def test_the_speed_is_what_was_measured(house: House) -> None:
    model = house.model("1", controller="fixed", max_batch_size=8)
    app = house.application(model, cache=False)
    for rows in (1, 8, 4, 8, 2, 8):
        house.ask(app, rows)
        while model.dispatcher.in_flight:
            house.answer(model, line)
    house.clock.move(2.0)
    facts = collect(app, house.cache)
    shown = only(facts)
    assert shown.fitted is not None
    assert shown.fitted.fixed_ms == pytest.approx(1.0, abs=1e-3)
    assert shown.fitted.per_row_us == pytest.approx(400.0, abs=0.1)
    assert shown.full_batch_ms == pytest.approx(4.2, abs=1e-2)
    assert shown.capacity_rows_per_second == pytest.approx(8 / line(8), rel=1e-3)
    assert (shown.rows, shown.cap_rows, shown.bound_rows) == (31, 8, 8)
    assert facts.attainment.recent == 1.0 and facts.attainment.recent_rows == 31
    assert facts.latency.recent_p50_ms is not None
    load = shown.recent
    assert load is not None and load.seconds > 2.0
    assert load.offered_rows_per_second == pytest.approx(31 / load.seconds, abs=0.1)
    busy = model.dispatcher.stats.service_seconds.sum
    assert load.busy_share == pytest.approx(busy / load.seconds, abs=1e-3)
    (replica,) = shown.replicas
    assert (replica.replica, replica.cap_rows, replica.busy) == (0, 8, False)


async def test_what_was_refused_and_why(house: House) -> None:
    model = house.model("1", controller="none")
    app = house.application(model, cache=False, default_output="0")
    house.ask(app)
    house.answer(model, line)
    house.ask(app)
    house.ask(app, 40)  # 1.4 ms each: most of them cannot be done within 20 ms
    facts = collect(app, house.cache)
    refused = model.dispatcher.stats.refused_rows
    assert refused > 0
    assert facts.recent_overload.refused == refused
    assert facts.failures["overloaded"].recent_rows == refused
    assert facts.failures["overloaded"].answer == "default"
    shown = only(facts)
    assert shown.recent_shed.refused_rows == shown.shed.refused_rows == refused
    assert shown.queue_rows > 0 and shown.replicas[0].busy
    assert shown.queue_ms == pytest.approx(shown.queue_rows * 1.4, rel=1e-3)
    house.loop.advance(1.0)
    late = collect(app, house.cache)
    assert late.failures["deadline_exceeded"].rows == 41 - refused


async def test_rejecting_under_overload_is_an_error(house: House) -> None:
    model = house.model("1", controller="none")
    app = house.application(model, cache=False, default_output="0", on_overload="reject")
    house.ask(app)
    house.answer(model, line)
    house.ask(app)
    house.ask(app, 40)
    assert collect(app, house.cache).failures["overloaded"].answer == "error"


async def test_replicas_are_compared(house: House) -> None:
    model = house.model("1", replicas=2, controller="none")
    app = house.application(model, cache=False)
    for _ in range(3):
        house.ask(app, 2)
        house.answer(model, line, 0)
        house.answer(model, lambda rows: 4 * line(rows), 1)
        house.loop.advance(2.0)
    shown = only(collect(app, house.cache))
    assert [replica.replica for replica in shown.replicas] == [0, 1]
    first, second = (replica.times_as_long for replica in shown.replicas)
    assert first is not None and second is not None
    assert second > 2.0 and first == pytest.approx(1 / second, abs=0.01)
    rates = [1 / line(1), 1 / line(1) / second]
    assert shown.capacity_rows_per_second == pytest.approx(sum(rates), rel=0.01)


async def test_a_replica_that_has_done_nothing_yet_counts_as_its_siblings(
    house: House,
) -> None:
    model = house.model("1", replicas=1, controller="none")
    app = house.application(model, cache=False)
    house.ask(app)
    house.answer(model, line)
    replicas: Any = model.replicas
    replicas.restore(2)
    assert capacity_of(model) == pytest.approx(2 / line(1), rel=0.01)
    replicas.become(State.FAILED)
    assert capacity_of(model) == 0.0
    replicas.reason = "it fell"
    shown = only(collect(app, house.cache))
    assert (shown.state, shown.reason, shown.replicas) == ("failed", "it fell", [])


async def test_versions_that_can_be_asked_by_name_are_there(house: House) -> None:
    app = house.application(house.model("2"), house.model("1", replicas=0))
    assert [
        (m.model, m.current, m.state, m.reason) for m in collect(app, house.cache).models
    ]
    current, other = collect(app, house.cache).models
    assert (current.model, current.current) == ("m:2", True)
    assert (other.model, other.current) == ("m:1", False)
    assert (other.state, other.reason) == ("stopped", "scaled to 0 replicas")


async def test_the_cache(house: House) -> None:
    model = house.model("1")
    app = house.application(model, cache_ttl_seconds=5.0)
    row = encode_json_value(InputType.DOUBLES, [1.0])
    for _ in range(4):
        app.submit(row, Nobody())
        house.loop.turn()
        if model.dispatcher.in_flight:
            house.answer(model, line)
    cache = collect(app, house.cache).cache
    assert (cache.enabled, cache.ttl_seconds, cache.rows, cache.share) == (
        True,
        5.0,
        4,
        0.75,
    )


async def test_failed_batches(house: House) -> None:
    model = house.model("1")
    app = house.application(model, cache=False)
    house.ask(app)
    replicas: Any = model.replicas
    replicas.replica.fail(FailureKind.HUNG)
    house.loop.turn()
    replicas.replica.fail(FailureKind.HUNG)  # alone as well
    facts = collect(app, house.cache)
    assert only(facts).recent_shed.failed_batches == 2
    failure = facts.failures["model_hung"]
    assert (failure.answer, failure.rows) == ("error", 1)


async def test_a_controller_of_ones_own_that_predicts_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(Fixed):
        latency = None  # type: ignore[assignment]

        def __init__(self, objective: float, bound: int) -> None:
            self.objective, self.bound = objective, 3

        def record(self, size: int, service_seconds: float) -> None: ...

    monkeypatch.setitem(CONTROLLERS, "mine", Mine)
    model = house.model("1", controller="mine")
    app = house.application(model, cache=False)
    house.ask(app, 3)
    house.answer(model, line)
    explanation = explain(app, house.cache)
    shown = only(explanation)
    assert (shown.controller, shown.cap_rows, shown.fitted) == ("mine", 3, None)
    assert any("keeps no record" in line for line in explanation.sentences)


async def test_an_explanation_has_the_facts_and_survives_json(house: House) -> None:
    model = house.model("1")
    app = house.application(model)
    house.ask(app, 3)
    house.answer(model, line)
    explanation = explain(app, house.cache)
    assert explanation.sentences
    text = msgspec.json.encode(explanation)
    assert msgspec.json.decode(text, type=Explanation) == explanation
