"""What is registered and what stands for it: changed together, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from engine_room import Disk, Workers, answer, app, deploy, spec, submit
from polling import turns
from school import Told

from clipper.engine import Engine
from clipper.errors import DiskFull, InvalidInput, NotFound
from clipper.learning.events import Feedback, decode
from clipper.model import DEFAULT_OBJECTIVE, WAY_BACK
from clipper.pieces import Item
from clipper.records import PolicySettings
from clipper.selection import registry
from clipper.selection.policy import SingleChoice, generation_of


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


async def test_feedback_of_a_deleted_application_ends(engine: Engine) -> None:
    await engine.register_application(app("app", "m", "n", policy=PolicySettings("hedge")))
    await deploy(engine, "m:1", "n:1")
    query = await submit(engine)
    feedback, told = engine.feedback["app"], Told()
    await engine.delete_application("app")
    feedback.take(Item(query.issue_id().decode(), label=1), told)
    await turns()
    assert isinstance(told.error, NotFound) and told.times == 1


async def test_feedback_knows_every_version_that_is_deployed(engine: Engine) -> None:
    await engine.register_application(app("app", "m", "n"))
    await deploy(engine, "m:1", "n:1")
    query = await submit(engine)
    await deploy(engine, "m:2")
    application, told = engine.application("app"), Told()
    engine.feedback["app"].take(Item(query.issue_id().decode(), reward=1.0), told)
    await turns()
    assert told.accepted
    ((_, logged),) = await engine.store.entries(application.number, 0, 10)
    event = decode(logged.body)
    assert isinstance(event, Feedback) and event.chosen[0].startswith("m:1#")
    assert generation_of(event.chosen[0]) == engine.model("m", "1").record.generation


class Picky(SingleChoice):
    """It raises at an application of two models."""

    name = "picky"

    def candidates(self, models: Sequence[str]) -> Sequence[str]:
        if len(models) == 2:
            raise KeyError("a bug")
        return models

    def init(self) -> Any:
        return None

    def observe(self, state: Any, seen: Any) -> Any:
        return state

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        return [1.0] + [0.0] * (len(arms) - 1)


async def test_a_policy_that_names_no_candidates_stops_no_change(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_ADDED", {"picky": Picky})
    await deploy(engine, "a", "b", "c")
    await engine.register_application(app("app", "a", policy=PolicySettings("picky")))
    with pytest.raises(InvalidInput, match="picky does not work: KeyError"):
        await engine.link("app", ["b"])
    await engine.link("app", ["b", "c"])
    await engine.unlink("app", ["c"])
    assert "KeyError" in caplog.text and await answer(engine) == "1"
    await engine.register_application(app("other", "a"))
    assert len(engine.application("app").models) == 2
