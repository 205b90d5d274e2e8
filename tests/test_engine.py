"""The engine over fake replicas; tests/test_engine_workers.py has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest
from fakes import FakeReplicaSet, ManualClock

from clipper.application import GONE
from clipper.batching.job import EXPIRED
from clipper.config import Limits, Settings
from clipper.engine import Engine
from clipper.errors import (
    ClipperError,
    Conflict,
    DeployFailed,
    DiskFull,
    InvalidInput,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from clipper.eviction import POLICIES
from clipper.inputs import encode_python
from clipper.learning import events
from clipper.model import DEFAULT_OBJECTIVE, STOPPED, WAY_BACK
from clipper.pieces import Item
from clipper.query import NO_MODEL, Query
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.store.base import Change
from clipper.store.memory import MemoryStore
from clipper.values import ModelId, Prediction
from clipper.workers.replica_set import State

LIMITS = Limits(applications=3, models=6, replicas=4, deploys=2)


class Workers(FakeReplicaSet):
    """Answers at once with the version's name, if it starts."""

    fault: ClipperError | None = None
    gate: asyncio.Event | None = None
    stopped: ClassVar[list[Workers]]

    async def start(self, replicas: int, progress: Any = None) -> None:
        if progress is not None:
            progress("ready", {"replicas": replicas, "of": replicas})
        assert await self.load_blob() == b"function"
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        await super().start(replicas)

    def __init__(
        self, spec: Any, load_blob: Callable[[], Awaitable[bytes]], **more: Any
    ) -> None:
        super().__init__(spec, load_blob, **more)
        self.load_blob = load_blob

    async def stop(self, drain_seconds: float) -> None:
        await super().stop(drain_seconds)
        self.stopped.append(self)

    @property
    def ready(self) -> Any:
        """Asked for before every batch, which is answered on the next turn."""
        asyncio.get_running_loop().call_soon(self.answer)
        return super().ready

    def answer(self) -> None:
        while self.replica.batches and self.answering:
            self.replica.answer(lambda row: f'"{self.spec.version}"'.encode())

    answering = True


class Disk(MemoryStore):
    """A store whose commits can be held up or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.fault: ClipperError | None = None
        self.commits = 0

    async def commit(self, *changes: Change) -> None:
        self.commits += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        await super().commit(*changes)

    @property
    def blobs(self) -> set[str]:
        return set(self._blobs)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[Workers]:
    class Fresh(Workers):
        stopped: ClassVar[list[Workers]] = []

    monkeypatch.setattr("clipper.model.ReplicaSet", Fresh)
    return Fresh


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def engine(disk: Disk, workers: type[Workers]) -> AsyncIterator[Engine]:
    engine = Engine(Settings(limits=LIMITS, drain_seconds=0.2), disk, ManualClock())
    await engine.start()
    yield engine
    disk.gate = disk.fault = None
    await engine.drain(0.2)
    await engine.close()
    assert not engine._tasks.running and not engine._deploying


def app(name: str = "app", *models: str, **fields: Any) -> ApplicationRecord:
    fields = {"input_type": "doubles", "slo_micros": 3_600_000_000, **fields}
    return ApplicationRecord(name, 0, models=list(models), **fields)


def spec(name: str = "m", version: str = "1", **fields: Any) -> ModelRecord:
    fields = {"input_type": "doubles", "generation": 0, **fields}
    return ModelRecord(name=name, version=version, **fields)


async def deploy(engine: Engine, *names: str, **fields: Any) -> None:
    for name in names:
        model, _, version = name.partition(":")
        await engine.deploy(spec(model, version or "1", **fields), b"function")


def submit(engine: Engine, name: str = "app", value: Any = 1.0, **more: Any) -> Any:
    """A query, as a future of itself settled."""
    future: asyncio.Future[Query] = asyncio.get_running_loop().create_future()

    class Receiver:
        def query_settled(self, query: Query) -> None:
            future.set_result(query)

    application = engine.application(name)
    row = encode_python(application.input_type, [value])
    application.submit(row, Receiver(), **more)
    return future


async def ask(
    engine: Engine, name: str = "app", value: Any = 1.0, **more: Any
) -> Prediction:
    async with asyncio.timeout(10):
        query = await submit(engine, name, value, **more)
    return query.prediction()


async def answer(engine: Engine, name: str = "app", **more: Any) -> Any:
    return (await ask(engine, name, **more)).output


def fakes_of(engine: Engine, name: str, version: str = "1") -> Workers:
    found: Any = engine.model(name, version).replicas
    return found


async def quiet(engine: Engine) -> None:
    """Until no background task runs."""
    async with asyncio.timeout(10):
        await engine._tasks.join()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- applications ----------------------------------------------------------------------


async def test_an_application_is_registered_once(engine: Engine) -> None:
    record = await engine.register_application(app(input_type="d"))
    assert (record.input_type, record.number) == ("doubles", 1)
    assert record.created == engine.clock.wall()
    with pytest.raises(Conflict, match="'app' already exists"):
        await engine.register_application(app())
    with pytest.raises(InvalidInput, match="which is a route"):
        await engine.register_application(app("admin"))
    assert list(engine.applications) == ["app"] and "applications=1" in repr(engine)


async def test_of_many_at_once_no_more_than_allowed_are_registered(
    engine: Engine, disk: Disk
) -> None:
    disk.gate = asyncio.Event()
    tries = [engine.register_application(app(f"a{i}")) for i in range(10)]
    waiting = asyncio.gather(*tries, return_exceptions=True)
    await turns()
    disk.gate.set()
    results = await waiting
    assert sum(isinstance(result, TooManyRequests) for result in results) == 7
    assert len(engine.applications) == 3


async def test_a_name_that_is_free_again_is_another_application(engine: Engine) -> None:
    first = await engine.register_application(app())
    await engine.delete_application("app")
    with pytest.raises(NotFound, match="No application with name 'app'"):
        await engine.delete_application("app")
    second = await engine.register_application(app())
    assert second.number > first.number


async def test_deleting_an_application_tells_who_waits(
    engine: Engine, workers: type[Workers]
) -> None:
    await deploy(engine, "m")
    await engine.register_application(app("app", "m", default_output="0"))
    workers.answering = False
    waiting = [submit(engine, value=value) for value in (1.0, 1.0, 2.0)]
    await turns()
    await engine.delete_application("app")
    for future in waiting:
        prediction = (await future).prediction()
        assert prediction.default and prediction.default_explanation == GONE.cause


async def test_models_are_linked_and_unlinked(engine: Engine) -> None:
    await deploy(engine, "m", "n")
    await engine.register_application(app())
    assert not engine.application("app").models
    await engine.link("app", ["m"])
    assert await answer(engine) == "1"
    for models, error in (
        (["m"], Conflict),
        (["x"], NotFound),
        (["n", "n"], InvalidInput),
    ):
        with pytest.raises(error):
            await engine.link("app", models)
    await engine.link("app", ["n"])
    assert engine.application("app").record.models == ["m", "n"]
    await engine.unlink("app", ["m", "n"])
    with pytest.raises(Unavailable):
        await answer(engine)
    with pytest.raises(NotFound, match="nonexistent link between app app and model m"):
        await engine.unlink("app", ["m"])
    for change in (engine.link("x", ["m"]), engine.unlink("x", ["m"])):
        with pytest.raises(NotFound):
            await change


async def test_a_link_needs_the_same_input_type(engine: Engine) -> None:
    await deploy(engine, "m", input_type="ints")
    await engine.register_application(app())
    with pytest.raises(Conflict, match="incompatible input_type 'ints'"):
        await engine.link("app", ["m"])
    with pytest.raises(Conflict):
        await engine.register_application(app("other", "m"))
    await engine.register_application(app("other", "later"))
    with pytest.raises(Conflict, match="already linked to app 'other'"):
        await engine.add_model(spec("later", input_type="ints"))


async def test_a_new_policy_is_a_new_generation(engine: Engine) -> None:
    await deploy(engine, "m:1", "n:2")
    await engine.register_application(app("app", "m", "n"))
    assert await answer(engine) == "1"
    record = await engine.set_policy("app", PolicySettings("static", {"model": "n"}))
    assert record.policy_generation == 2 and await answer(engine) == "2"
    prediction = await ask(engine)
    assert engine.ids.read(prediction.query_id).policy_generation == 2
    with pytest.raises(InvalidInput):
        await engine.set_policy("app", PolicySettings("magic"))
    with pytest.raises(NotFound):
        await engine.set_policy("x", PolicySettings())


async def test_a_kill_before_the_log_knows_of_a_policy_leaves_its_entries_to_the_old(
    engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploy(engine, "m:1", "n:2")
    spec = app("app", "m", "n", policy=PolicySettings("ucb1"))
    number = (await engine.register_application(spec)).number
    item = Item((await ask(engine)).query_id, reward=1.0)
    engine.feedback["app"].take(item, lambda duplicate, error: None)
    await turns()
    with monkeypatch.context() as patch:
        patch.setattr(disk, "append", lambda *batch: None)
        change = asyncio.create_task(engine.set_policy("app", PolicySettings("exp3")))
        await turns()
    await disk.close()
    after = Engine(Settings(limits=LIMITS), disk, engine.clock)
    await after.start()
    (_, said), (_, changed) = await disk.entries(number, 0, 10)
    assert isinstance(events.decode(said.body), events.Feedback)
    event = events.decode(changed.body)
    assert isinstance(event, events.PolicyChange) and event.generation == 2
    assert event.before == PolicySettings("ucb1") and event.before_generation == 1
    assert after.learning.learners[number].policy.name == "exp3"
    await after.drain(0.0)
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change


# -- versions --------------------------------------------------------------------------


async def test_versions_are_rolled_out_and_back(engine: Engine) -> None:
    await engine.register_application(app("app", "m"))
    for version in ("1", "2", "3"):
        await deploy(engine, f"m:{version}")
        assert await answer(engine) == version
    assert await engine.rollback("m") == "2" and await answer(engine) == "2"
    await engine.set_version("m", "1")
    assert await answer(engine) == "1"
    assert await engine.rollback("m") == "2"
    assert await answer(engine, version="3") == "3"
    for change, error in (
        (engine.set_version("m", "9"), NotFound),
        (engine.set_version("x", "1"), NotFound),
        (engine.rollback("x"), NotFound),
        (engine.delete_model("m", "9"), NotFound),
    ):
        with pytest.raises(error):
            await change


async def test_a_version_without_a_function_takes_no_place_of_one_that_works(
    engine: Engine,
) -> None:
    await engine.register_application(app("app", "m"))
    await engine.add_model(spec(version="1"))
    assert engine.catalog.current("m") is not None
    with pytest.raises(Unavailable, match="No connected models"):
        await answer(engine)
    await engine.add_model(spec(version="2"))
    assert engine.catalog.state.current == {"m": "2"}
    await deploy(engine, "m:3")
    await engine.add_model(spec(version="4"))
    assert await answer(engine) == "3"
    with pytest.raises(Conflict, match="already exists"):
        await engine.add_model(spec(version="4"))


async def test_a_version_that_fails_to_start_leaves_the_old_one_serving(
    engine: Engine, workers: type[Workers], disk: Disk
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    before = disk.blobs
    workers.fault = DeployFailed("it does not load")
    with pytest.raises(DeployFailed, match="it does not load"):
        await deploy(engine, "m:2")
    assert await answer(engine) == "1"
    assert list(engine.models) == [ModelId("m", "1")]
    assert [w.spec.version for w in workers.stopped] == ["2"]
    workers.fault = None
    await deploy(engine, "m:2")
    assert await answer(engine) == "2" and disk.blobs == before


async def test_what_a_failed_deploy_stored_is_dropped(
    engine: Engine, workers: type[Workers], disk: Disk
) -> None:
    workers.fault = DeployFailed("it does not load")
    with pytest.raises(DeployFailed):
        await deploy(engine, "m:1")
    await quiet(engine)
    assert disk.blobs == set()


async def test_deploys_are_bounded(engine: Engine, workers: type[Workers]) -> None:
    workers.gate = asyncio.Event()
    first = asyncio.create_task(deploy(engine, "a", num_replicas=2))
    await turns()
    with pytest.raises(Conflict, match="a:1 is being deployed already"):
        await deploy(engine, "a")
    with pytest.raises(TooManyRequests, match="2 replicas run and 4 are allowed"):
        await deploy(engine, "b", num_replicas=3)
    second = asyncio.create_task(deploy(engine, "b"))
    await turns()
    with pytest.raises(TooManyRequests, match="2 deploys are under way"):
        await deploy(engine, "c")
    workers.gate.set()
    await asyncio.gather(first, second)
    with pytest.raises(Conflict, match="already exists"):
        await deploy(engine, "a")
    await deploy(engine, "c")
    with pytest.raises(TooManyRequests, match="4 replicas run"):
        await deploy(engine, "d")


async def test_what_was_registered_during_a_deploy_is_heeded(
    engine: Engine, workers: type[Workers]
) -> None:
    workers.gate = asyncio.Event()
    deploying = asyncio.create_task(deploy(engine, "m", input_type="ints"))
    await turns()
    await engine.register_application(app("app", "m"))
    workers.gate.set()
    with pytest.raises(Conflict, match="not compatible"):
        await deploying
    assert not engine.models and len(workers.stopped) == 1


async def test_during_a_deploy_the_model_can_be_rolled_back(
    engine: Engine, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1", "m:2")
    workers.gate = asyncio.Event()
    deploying = asyncio.create_task(deploy(engine, "m:3"))
    await turns()
    assert await engine.rollback("m") == "1" and await answer(engine) == "1"
    await engine.delete_model("m", "2")
    workers.gate.set()
    await deploying
    assert await answer(engine) == "3" and await engine.rollback("m") == "1"


async def test_a_deploy_reports_its_stages(engine: Engine) -> None:
    stages: list[tuple[str, dict[str, Any]]] = []
    await engine.deploy(spec(), b"function", lambda *stage: stages.append(stage))
    assert stages == [
        ("ready", {"replicas": 1, "of": 1}),
        ("live", {"model_name": "m", "model_version": "1"}),
    ]


# -- leaving ---------------------------------------------------------------------------


async def test_a_deleted_version_leaves_nothing_behind(
    engine: Engine, disk: Disk, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    await answer(engine)
    assert len(engine.cache) == 1 and len(disk.blobs) == 1
    await engine.delete_model("m", "1")
    with pytest.raises(Unavailable):
        await answer(engine)
    await quiet(engine)
    assert len(engine.cache) == 0 and disk.blobs == set()
    assert [w.spec.version for w in workers.stopped] == ["1"]
    assert engine.catalog.state.previous == {}


async def test_a_blob_stays_as_long_as_a_version_needs_it(
    engine: Engine, disk: Disk
) -> None:
    await deploy(engine, "m:1", "m:2")
    await engine.delete_model("m", "1")
    await quiet(engine)
    assert len(disk.blobs) == 1


async def test_a_version_that_is_deployed_again_does_not_meet_old_answers(
    engine: Engine, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    first = (await ask(engine)).query_id
    await engine.delete_model("m", "1")
    await deploy(engine, "m:1")
    assert engine.cache.hits == 0
    second = (await ask(engine)).query_id
    assert engine.cache.hits == 0
    assert engine.ids.read(second).arm > engine.ids.read(first).arm
    await quiet(engine)
    assert await answer(engine) == "1" and engine.cache.hits == 1


async def test_an_application_with_a_ttl_has_its_outputs_made_anew(
    engine: Engine, workers: type[Workers]
) -> None:
    await engine.register_application(app("fresh", "m", cache_ttl_seconds=2.0))
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    await answer(engine, "fresh")
    clock: Any = engine.clock
    clock.move(3)
    await answer(engine)
    assert (engine.cache.hits, engine.cache.misses) == (1, 1)
    await answer(engine, "fresh")
    await answer(engine, "fresh")
    assert (engine.cache.hits, engine.cache.misses) == (2, 2)


@pytest.mark.parametrize("policy", ["sieve", "lru"])
async def test_the_cache_has_the_policy_that_is_set(disk: Disk, policy: Any) -> None:
    engine = Engine(Settings(limits=LIMITS, cache_policy=policy), disk, ManualClock())
    assert type(engine.cache._eviction) is POLICIES[policy]


async def test_a_deleted_version_finishes_what_it_accepted(
    engine: Engine, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    workers.answering = False
    waiting = submit(engine)
    await turns()
    fakes = fakes_of(engine, "m")
    await engine.delete_model("m", "1")
    await turns()
    workers.answering = True
    fakes.answer()
    assert (await waiting).output == b'"1"'
    await quiet(engine)
    assert len(engine.cache) == 0


async def test_scaling_is_remembered(engine: Engine) -> None:
    await engine.register_application(app("app", "m", default_output="0"))
    await deploy(engine, "m:1", "m:2")
    record = await engine.scale("m", None, 2)
    assert (record.version, record.num_replicas) == ("2", 2)
    assert (await engine.scale("m", "1", 2)).key == "m:1"
    with pytest.raises(TooManyRequests):
        await engine.scale("m", "1", 3)
    await engine.scale("m", "2", 0)
    assert (await ask(engine)).default_explanation == NO_MODEL.cause
    assert engine.ready, "a version that is meant to have no workers is not starting"
    await engine.scale("m", "2", 1)
    assert await answer(engine) == "2"


async def test_a_version_that_is_deleted_while_it_is_scaled_is_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploy(engine, "m:1")
    fakes, gate = fakes_of(engine, "m"), asyncio.Event()

    async def scale(replicas: int, drain_seconds: float = 10.0) -> None:
        await gate.wait()

    monkeypatch.setattr(fakes, "scale", scale)
    scaling = asyncio.create_task(engine.scale("m", "1", 2))
    await turns()
    await engine.delete_model("m", "1")
    gate.set()
    with pytest.raises(Conflict, match="removed meanwhile"):
        await scaling
    assert not engine.models and not engine.catalog.models


async def test_the_objective_follows_the_tightest_application(engine: Engine) -> None:
    await deploy(engine, "m")
    controller = engine.model("m", "1").dispatcher.controller
    assert controller.objective == DEFAULT_OBJECTIVE
    await engine.register_application(app("slow", "m", slo_micros=1_000_000))
    await engine.register_application(app("fast", "m", slo_micros=100_000))
    assert controller.objective == pytest.approx(0.1 * (1 - WAY_BACK))
    await engine.delete_application("fast")
    assert controller.objective == pytest.approx(1.0 - WAY_BACK)
    await engine.register_application(app("hasty", "m", slo_micros=1))
    assert controller.objective == pytest.approx(1e-6 * (1 - WAY_BACK))


# -- commits ---------------------------------------------------------------------------


async def test_nothing_changes_when_a_commit_fails(
    engine: Engine, disk: Disk, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    disk.fault = DiskFull("no room")
    for change in (
        engine.register_application(app("b")),
        engine.delete_application("app"),
        engine.unlink("app", ["m"]),
        engine.add_model(spec("n")),
        engine.delete_model("m", "1"),
        engine.deploy(spec(version="2"), b"function"),
    ):
        with pytest.raises(DiskFull):
            await change
    assert await answer(engine) == "1"
    assert list(engine.applications) == ["app"] and list(engine.models) == [("m", "1")]
    assert [w.spec.version for w in workers.stopped] == ["2"]
    disk.fault = None
    await deploy(engine, "m:2")
    assert await answer(engine) == "2"


async def test_a_change_is_not_seen_before_it_is_durable(
    engine: Engine, disk: Disk
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1", "m:2")
    disk.gate = asyncio.Event()
    change = asyncio.create_task(engine.set_version("m", "1"))
    await turns()
    assert await answer(engine) == "2"
    disk.gate.set()
    await change
    assert await answer(engine) == "1"


async def test_a_change_that_is_being_written_is_not_torn_by_its_caller(
    engine: Engine, disk: Disk
) -> None:
    """Else the disk would know what memory does not, until the next start."""
    await engine.register_application(app("app"))
    disk.gate = asyncio.Event()
    change = asyncio.create_task(engine.delete_application("app"))
    await turns()
    for _ in range(3):
        change.cancel()
        await turns()
    assert not change.done()
    disk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert not engine.applications
    await engine.register_application(app("app"))


async def test_a_deploy_cancelled_while_it_is_written_is_live_with_its_workers(
    engine: Engine, disk: Disk, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    disk.gate = asyncio.Event()
    deploying = asyncio.create_task(deploy(engine, "m:1"))
    await turns(20)
    deploying.cancel()
    disk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await deploying
    assert await answer(engine) == "1" and workers.stopped == []


async def test_a_commit_that_fails_after_its_caller_left_says_nothing(
    engine: Engine, disk: Disk
) -> None:
    disk.gate, disk.fault = asyncio.Event(), DiskFull("no room")
    change = asyncio.create_task(engine.register_application(app("app")))
    await turns()
    change.cancel()
    disk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert not engine.applications


# -- the end ---------------------------------------------------------------------------


async def test_a_server_that_drains_answers_and_takes_nothing_new(
    engine: Engine, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    workers.answering = False
    waiting = submit(engine)
    await turns()
    fakes = fakes_of(engine, "m")
    draining = asyncio.create_task(engine.drain(5))
    await turns()
    assert not engine.ready
    for change in (
        engine.register_application(app("b")),
        engine.set_version("m", "1"),
        engine.scale("m", "1", 2),
        deploy(engine, "m:2"),
    ):
        with pytest.raises(Unavailable, match="shutting down"):
            await change
    workers.answering = True
    fakes.answer()
    await draining
    assert (await waiting).output == b'"1"'


async def test_what_cannot_be_answered_in_time_is_told_on_the_way_out(
    engine: Engine, workers: type[Workers]
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1")
    workers.answering = False
    waiting = submit(engine)
    await turns()
    await engine.drain(0.0)
    assert (await waiting).output == STOPPED


async def test_draining_ends_a_deploy_under_way(
    engine: Engine, workers: type[Workers], disk: Disk
) -> None:
    workers.gate = asyncio.Event()
    deploying = asyncio.create_task(deploy(engine, "m:1"))
    await turns()
    await engine.drain(0.0)
    with pytest.raises((Unavailable, asyncio.CancelledError)):
        await deploying
    assert len(workers.stopped) == 1 and disk.commits == 0


async def test_everything_is_back_after_a_restart(
    engine: Engine, disk: Disk, workers: type[Workers]
) -> None:
    await deploy(engine, "m:1", "m:2", "n:3")
    await engine.register_application(app("app", "m"))
    await engine.add_model(spec("bare"))
    await engine.scale("n", "3", 0)
    await engine.set_version("m", "1")
    await engine.drain(0.0)
    await engine.close()
    after = Engine(Settings(limits=LIMITS), disk, engine.clock)
    await after.start()
    assert after.ready and after.token == engine.token
    assert after.catalog.state == engine.catalog.state
    assert await answer(after) == "1"
    assert await after.rollback("m") == "2" and await answer(after) == "2"
    old = (await ask(after)).query_id
    assert after.ids.read(old).arm == after.model("m", "2").record.generation
    number = (await after.register_application(app("b"))).number
    assert number > after.catalog.state.models["m:2"].generation
    await after.drain(0.0)
    await after.close()


async def test_it_is_ready_when_every_version_answers_or_has_failed(
    engine: Engine, disk: Disk
) -> None:
    await deploy(engine, "m:1", "n:1")
    fakes_of(engine, "m").become(State.STARTING)
    assert not engine.ready and "m:1" in repr(engine.model("m", "1"))
    fakes_of(engine, "m").become(State.FAILED)
    assert engine.ready


async def test_a_query_waits_for_its_deadline_and_no_longer(engine: Engine) -> None:
    await deploy(engine, "m:1")
    await engine.register_application(app("app", "m", slo_micros=1000))
    fakes_of(engine, "m").become(State.STARTING)
    waiting = submit(engine)
    assert isinstance(engine.clock, ManualClock)
    engine.clock.move(0.001)
    async with asyncio.timeout(5):
        assert (await waiting).output == EXPIRED
