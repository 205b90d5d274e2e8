"""The engine over fake replicas; tests/test_engine_workers.py has real ones."""

from __future__ import annotations

import asyncio

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
    spec,
    submit,
    turns,
)
from fakes import ManualClock

from clipper.application import GONE
from clipper.batching.job import EXPIRED
from clipper.config import Settings
from clipper.engine import Engine
from clipper.errors import Conflict, InvalidInput, NotFound, TooManyRequests, Unavailable
from clipper.learning import events
from clipper.model import STOPPED
from clipper.pieces import Item
from clipper.records import PolicySettings
from clipper.workers.replica_set import State

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
