"""A server without sockets and processes, in virtual time.

Applications, cache, queue, dispatcher, controllers and deadlines are the real ones;
loop, workers and clients are virtual. One seed decides all that happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Generic, Protocol, TypeVar
from unittest import mock

from fakes import ManualClock, make_application

from clipper.application import Application
from clipper.batching.job import Block, Job
from clipper.cache import PredictionCache
from clipper.config import Limits
from clipper.model import Model
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, BatchingSettings, ModelRecord
from clipper.values import Batch, BatchResult, FailureKind

from .loop import VirtualLoop
from .replicas import VirtualReplica, VirtualReplicaSet
from .scenario import Scenario
from .trace import Trace
from .workload import Ask, Client, row_of

REST = 120.0  # seconds, in which everything comes to an end
DRAIN = 0.05


class Watch(Protocol):
    """Who looks at all that happens."""

    def model_added(self, model: Model) -> None: ...
    def submitted(self, model: Model, work: Job | Block) -> None: ...
    def asked(self, ask: Ask) -> None: ...
    def left(self, ask: Ask) -> None: ...
    def told(self, ask: Ask, outputs: Any) -> None: ...
    def sent(self, replica: VirtualReplica, batch: Batch) -> None: ...
    def begun(self, replica: VirtualReplica, batch: Batch) -> None: ...
    def finished(
        self, replica: VirtualReplica, batch: Batch, result: BatchResult
    ) -> None: ...
    def step(self) -> None: ...


W = TypeVar("W", bound=Watch)


class World(Generic[W]):
    """One server, its workers and its clients, and who watches them."""

    def __init__(self, scenario: Scenario, watch: Callable[[World[W]], W]) -> None:
        self.scenario = scenario
        self.rng = Random(scenario.seed)
        self.clock = ManualClock()
        self.loop = VirtualLoop(self.clock, Random(self.rng.random()))
        self.begin = self.clock.now()
        self.end = self.begin + scenario.seconds
        self.trace = Trace(self.clock.now, 60)
        self.note = self.trace.note
        self._number = 0
        self.tasks: list[Any] = []
        self.models: list[Model] = []
        self.applications: list[Application] = []
        self.dead: set[Application] = set()
        self.cache: PredictionCache[Job] = PredictionCache(
            scenario.cache_bytes, scenario.cache_policy, self.clock
        )
        self.ids = QueryIds(bytes(32), self.clock)
        self.watch: W = watch(self)
        with self.loop.running():
            self._build()

    def _build(self) -> None:
        scenario = self.scenario
        self.add_model()
        slos = [scenario.slo]
        if scenario.other_slo is not None:
            slos.append(scenario.other_slo)
        for slo in slos:
            record = ApplicationRecord(
                f"app{len(self.applications)}",
                self.number(),
                "doubles",
                round(slo * 1e6),
                models=["m"],
                cache=scenario.caching,
                cache_ttl_seconds=scenario.ttl,
            )
            application = make_application(
                record, self.ids, self.cache, clock=self.clock, loop=self.loop
            )
            self.applications.append(application)
        self._link()

    def number(self) -> int:
        self._number += 1
        return self._number

    @property
    def model(self) -> Model:
        """The current version."""
        return self.models[-1]

    def replicas(self, model: Model) -> VirtualReplicaSet:
        found: Any = model.replicas
        return found

    # -- what happens --------------------------------------------------------------------

    def add_model(self) -> None:
        """Deploy a version; its name is its generation."""
        scenario, number = self.scenario, len(self.models) + 1
        record = ModelRecord(
            "m",
            str(number),
            "doubles",
            number,
            blob="0" * 64,
            num_replicas=scenario.replicas,
            batching=BatchingSettings(
                scenario.controller, scenario.bound, scenario.batch_wait
            ),
            retry=scenario.retry,
        )

        async def load() -> bytes:
            return b""

        limits = Limits(queue_rows=scenario.queue_rows)
        with mock.patch("clipper.model.ReplicaSet", partial(VirtualReplicaSet, self)):
            model = Model(record, load, self.cache, clock=self.clock, limits=limits)
        self.models.append(model)
        self.watch.model_added(model)
        slos = [scenario.slo, scenario.other_slo] if scenario.other_slo else [scenario.slo]
        model.set_objectives(slos)
        self.replicas(model).restore(scenario.replicas)

    def _link(self) -> None:
        model = self.model
        for application in self.applications:
            application.update(application.record, [model], {model.id.version: model})

    def send(self, ask: Ask, deadline_ms: float | None, cache: bool) -> None:
        """A request comes in."""
        rng, scenario = self.rng, self.scenario
        application = ask.application = self._application()
        if application in self.dead:
            return
        budget = application.slo
        if deadline_ms is not None:
            budget = min(budget, deadline_ms / 1e3)
        ask.deadline = self.clock.now() + budget
        ask.generation = self.model.record.generation
        self.watch.asked(ask)
        rows = [row_of(value, scenario.ragged) for value in ask.values]
        if len(rows) == 1 and rng.random() < 0.9:
            ask.query = application.submit(
                rows[0], ask, deadline_ms=deadline_ms, cache=cache
            )
        elif rows and not cache and len({len(row.payload) for row in rows}) == 1:
            payload = b"".join(row.payload for row in rows)
            ask.query = application.submit_block(
                payload, len(rows), None, ask, deadline_ms=deadline_ms
            )
        else:
            ask.query = application.submit_batch(
                rows, ask, deadline_ms=deadline_ms, cache=cache
            )

    def _application(self) -> Application:
        first, *others = self.applications
        if others and self.rng.random() < self.scenario.other_share:
            return others[0]
        return first

    def _happen(self, event: str) -> None:
        model, rng = self.model, self.rng
        replicas = self.replicas(model)
        self.note(f"event {event}")
        if event == "scale":
            replicas.scale(rng.randint(1, 4))
        elif event == "fail":
            replicas.fail()
            self.loop.at(self.clock.now() + rng.random() * 0.2, replicas.recover)
        elif event == "recover":
            replicas.recover()
        elif event == "kill":
            for replica in replicas.ready[:1]:
                replica.die(FailureKind.CRASHED)
        elif event == "swap":
            self.add_model()
            self._link()
            self.tasks.append(self.loop.create_task(model.stop(DRAIN)))
        elif event == "stop":
            self.tasks.append(self.loop.create_task(model.stop(DRAIN)))
        elif event == "delete":
            application = rng.choice(self.applications)
            self.dead.add(application)
            application.close()

    # -- running -------------------------------------------------------------------------

    def run(self) -> None:
        """From the first request until nothing is left to do."""
        scenario, loop = self.scenario, self.loop
        for traffic in scenario.traffic:
            Client(self, traffic, Random(self.rng.random())).start()
        for at, event in scenario.events:
            loop.at(self.begin + at, self._happen, event)
        loop.after = self._after
        with loop.running(), Complaints() as complaints:
            loop.run(self.end)
            loop.run(self.end + REST)
            assert not complaints.lines, complaints.lines
        assert not loop.failures, loop.failures
        for task in self.tasks:
            assert task.done() and task.exception() is None
        assert loop.idle, "timers are armed for ever"

    def _after(self) -> None:
        self.watch.step()
        stall = self.scenario.stall
        if stall and self.rng.random() < stall:
            self.clock.move(0.05 * self.rng.random())


class Complaints(logging.Handler):
    """What the server logs as errors: exceptions that it survived."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(
            f"{record.getMessage()}: {record.exc_info and record.exc_info[1]}"
        )

    def __enter__(self) -> Complaints:
        logging.getLogger("clipper").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("clipper").removeHandler(self)
