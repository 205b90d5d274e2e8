"""Versions of models over fake replicas: how they come, and how they go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_room import (
    LIMITS,
    Disk,
    Workers,
    answer,
    app,
    ask,
    deploy,
    fakes_of,
    quiet,
    spec,
    submit,
)
from fakes import ManualClock
from polling import turns

from clipper.config import Settings
from clipper.engine import Engine
from clipper.errors import Conflict, DeployFailed, NotFound, TooManyRequests, Unavailable
from clipper.eviction import POLICIES
from clipper.query import NO_MODEL
from clipper.values import ModelId

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
