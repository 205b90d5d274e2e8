"""The engine over fake replicas; tests/test_engine_workers.py has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
from msgspec.structs import replace
from polling import turns

from clipper.application import GONE, NOBODY
from clipper.batching.job import EXPIRED
from clipper.config import Settings
from clipper.engine import Engine
from clipper.errors import (
    Conflict,
    DiskFull,
    InvalidInput,
    NotFound,
    StoreError,
    TooManyRequests,
    Unavailable,
)
from clipper.learning import events
from clipper.learning.service import PRUNE_SECONDS
from clipper.model import STOPPED
from clipper.pieces import Item
from clipper.query_id import PERIOD
from clipper.records import PolicySettings
from clipper.selection.combine import Combiner
from clipper.store.base import AppendDone, DeleteApplication, PutApplication
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
    untold = []
    with monkeypatch.context() as patch:
        patch.setattr(disk, "append", lambda *batch: untold.append(batch))
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
    for _, _, done in untold:  # of the server that died, so that it ends
        done(None, StoreError("the store is closed"))
    await change


async def gone(engine: Engine, name: str) -> bool:
    """Whether nothing is left of an application once the tasks are done."""
    await quiet(engine)
    return name not in engine.applications and await engine.store.applications() == []


async def teach(engine: Engine, disk: Disk) -> int:
    """Register an application that learned something; its number."""
    await deploy(engine, "m:1", "n:2")
    spec = app("app", "m", "n", policy=PolicySettings("thompson"))
    number = (await engine.register_application(spec)).number
    item = Item((await ask(engine)).query_id, reward=1.0)
    engine.feedback["app"].take(item, lambda duplicate, error: None)
    await turns()
    assert await disk.applications() == [number]
    return number


async def test_a_deletion_whose_caller_leaves_is_a_whole_one(
    engine: Engine, disk: Disk
) -> None:
    number = await teach(engine, disk)
    disk.gate = asyncio.Event()
    change = asyncio.create_task(engine.delete_application("app"))
    await turns()
    change.cancel()
    await turns()
    disk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert number not in engine.learning.learners and await gone(engine, "app")


async def test_what_a_deletion_could_not_drop_is_dropped_later(
    engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(number: int) -> None:
        raise DiskFull("the disk is full")

    await teach(engine, disk)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "drop", full)
        await engine.delete_application("app")
        assert not await gone(engine, "app")
    assert isinstance(engine.clock, ManualClock)
    engine.clock.move(PRUNE_SECONDS)
    engine.learning.tick()
    assert await gone(engine, "app")


async def test_a_start_drops_what_the_last_server_left(engine: Engine, disk: Disk) -> None:
    number = await teach(engine, disk)
    await disk.commit(DeleteApplication("app"))  # and then it died
    await disk.close()
    after = Engine(Settings(limits=LIMITS), disk, engine.clock)
    await after.start()
    assert number not in after.learning.learners and await gone(after, "app")
    await after.drain(0.0)


async def test_what_comes_with_a_deletion_leaves_nothing(
    engine: Engine, disk: Disk
) -> None:
    number = await teach(engine, disk)
    learner = engine.learning.learners[number]
    engine.learning.halt(learner, "m:1#1", "in the turn of the end", lambda: None)
    await engine.delete_application("app")
    engine.learning.halt(learner, "n:2#2", "after the end", lambda: None)
    await turns()
    assert await gone(engine, "app")


async def test_a_policy_whose_caller_leaves_is_followed(engine: Engine, disk: Disk) -> None:
    await teach(engine, disk)
    disk.gate = asyncio.Event()
    change = asyncio.create_task(engine.set_policy("app", PolicySettings("hedge")))
    await turns()
    change.cancel()
    await turns()
    disk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await change
    application = engine.application("app")
    assert application.record.policy.name == application.learner.policy.name == "hedge"


async def test_a_policy_that_is_kept_is_followed_once_the_log_has_room(
    engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = list[Callable[[], None]]()
    monkeypatch.setattr(engine.learning, "_call_later", lambda _, work: later.append(work))

    def full(entries: object, persons: object, done: AppendDone) -> None:
        done(None, DiskFull("the disk is full"))

    number = await teach(engine, disk)
    learner = engine.learning.learners[number]
    with monkeypatch.context() as patch:
        patch.setattr(disk, "append", full)
        for name in ("hedge", "ucb1"):
            record = await engine.set_policy("app", PolicySettings(name))
        await turns()
        later.pop()()  # that of ucb1: no room yet
        await turns()
    assert record.policy.name == "ucb1" and learner.policy.name == "thompson"
    assert await answer(engine) in "12"
    while later:
        later.pop()()
        await turns()
    assert (learner.policy.name, learner.generation) == ("ucb1", 3)
    assert engine.application("app").roster.chooser.choose(NOBODY, 0.0).generation == 3
    last = (await disk.entries(number, 0, 10))[-1]
    assert len(await disk.entries(number, 0, 10)) == 2  # hedge was never chosen by
    change = events.decode(last.entry.body)
    assert isinstance(change, events.PolicyChange)
    assert change.before == PolicySettings("thompson")


async def test_a_start_asks_a_full_log_again_for_the_policy(
    engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = list[Callable[[], None]]()

    def full(entries: object, persons: object, done: AppendDone) -> None:
        done(None, DiskFull("the disk is full"))

    await teach(engine, disk)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "append", full)
        await engine.set_policy("app", PolicySettings("hedge"))
        await disk.close()
        after = Engine(Settings(limits=LIMITS), disk, engine.clock)
        made = after._make_learning()
        monkeypatch.setattr(made, "_call_later", lambda _, work: later.append(work))
        monkeypatch.setattr(after, "_make_learning", lambda: made)
        await after.start()
    assert after.application("app").learner.policy.name == "thompson"
    [again] = later
    again()
    await turns()
    application = after.application("app")
    assert application.learner.policy.name == "hedge"
    assert isinstance(application._combiner, Combiner)
    await after.drain(0.0)
    again()  # too late
    await turns()


async def test_a_record_that_is_refused_today_keeps_nobody_from_starting(
    engine: Engine, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    await teach(engine, disk)
    record = engine.application("app").record
    pool = PolicySettings("log_pool")
    await disk.commit(PutApplication(replace(record, policy=pool, loss="zero_one")))
    await disk.close()
    after = Engine(Settings(limits=LIMITS), disk, engine.clock)
    await after.start()
    assert await answer(after) == "1"
    assert "the first model answers" in caplog.text and "loss log" in caplog.text
    item = Item((await ask(after)).query_id, reward=1.0)
    with pytest.raises(Unavailable, match="loss log"):
        after.feedback["app"].take(item, lambda duplicate, error: None)
    await after.set_policy("app", PolicySettings("hedge"))
    assert after.application("app").learner.missing is None
    await after.drain(0.0)


async def test_one_change_of_keys_is_enough(
    engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the store takes over it."""
    await deploy(engine, "m")
    await engine.register_application(app("app", "m"))
    early = (await ask(engine)).query_id
    gate, asked, secret = asyncio.Event(), list[str](), disk.secret

    async def slow(name: str) -> bytes:
        asked.append(name)
        await gate.wait()
        return await secret(name)

    monkeypatch.setattr(disk, "secret", slow)
    assert isinstance(engine.clock, ManualClock)
    engine.clock.move(PERIOD - engine.clock.wall() % PERIOD - 1)
    early_number = engine.ids.number
    engine.clock.move(2)
    for _ in range(3):
        assert engine._ticker is not None
        engine._ticker.cancel()
        engine._tick()
        await turns()
    gate.set()
    await quiet(engine)
    assert len(asked) == 1 and engine.ids.number == early_number + 1
    engine.clock.move(-2 * PERIOD)  # so that it is the key that decides
    assert engine.ids.read(early).arm


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


async def test_a_server_that_drains_waits_for_workers_that_somebody_waits_for(
    engine: Engine,
) -> None:
    await engine.register_application(app("app", "m"))
    await deploy(engine, "m:1", "n:1")
    for name in ("m", "n"):
        fakes_of(engine, name).become(State.STARTING)
    waiting = submit(engine)
    draining = asyncio.create_task(engine.drain(5))
    await turns()
    assert not waiting.done()
    fakes_of(engine, "m").become(State.LIVE)
    assert (await waiting).output == b'"1"'
    await draining


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
    assert engine.ready
    fakes_of(engine, "m").become(State.STARTING)  # a worker died: the others serve on
    assert engine.ready and "m:1" in repr(engine.model("m", "1"))
    model = engine._inventory.make_model(engine.model("n", "1").record)
    engine.models[model.id] = model  # as after a restart
    assert not engine.ready
    fakes_of(engine, "n").become(State.FAILED)
    assert engine.ready
    fakes_of(engine, "n").become(State.STARTING)
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
