"""Ends that cross: stop, scale, recycling and deaths, each in the middle of another."""

from __future__ import annotations

import asyncio

import pytest
from polling import eventually, turns

from clipper.inputs import InputType
from clipper.workers import recycling
from clipper.workers.replica_set import Restarts, State
from clipper.workers.spec import ReplicaState

from .conftest import MakeStage, make_batch

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recycling, "LOOK", 0.002)


@pytest.mark.parametrize("dead", [0, 1])
async def test_a_smaller_scale_keeps_what_answers(make_stage: MakeStage, dead: int) -> None:
    stage = make_stage(restarts=Restarts(0.01, 0.05, 1, 5.0, 60.0))
    await stage.set.start(2)
    stage.puppet(dead).die()
    await eventually(lambda: "keep ending" in stage.set.reason)
    await stage.set.scale(1)
    assert stage.serving == [1 - dead]
    assert (stage.set.state, stage.set.wanted) == (State.LIVE, 1)


async def test_a_smaller_scale_takes_the_latest(make_stage: MakeStage) -> None:
    stage = make_stage()
    await stage.set.start(4)
    stage.puppet(1).die()
    await eventually(lambda: stage.serving == [0, 4, 2, 3])
    await stage.set.scale(2)
    assert stage.serving == [0, 4]


@pytest.mark.usefixtures("quick")
async def test_a_stop_waits_for_the_last_batch_of_what_was_recycled(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(recycle_after=10)
    await stage.set.start(1)
    old = stage.puppet(0)
    old.patient = True
    batch, finished = make_batch(InputType.STRINGS, ["a"])
    old.submit(batch)
    old.served = 10
    await eventually(lambda: old.state is ReplicaState.DRAINING)
    stopping = asyncio.create_task(stage.set.stop(5))
    await turns()
    assert not finished.done()
    old.answer([b"1"])
    assert await finished == [b"1"]
    await stopping
    assert stage.alive == 0


@pytest.mark.usefixtures("quick")
async def test_a_stop_that_is_cancelled_early_leaves_no_worker(
    make_stage: MakeStage,
) -> None:
    """While it waits for what was about to start."""
    stage = make_stage(recycle_after=10)
    await stage.set.start(2)
    stage.troupe.gate = asyncio.Event()
    stage.puppet(0).served = 10
    await eventually(lambda: len(stage.troupe.all) == 3)
    stopping = asyncio.create_task(stage.set.stop(5))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await eventually(lambda: stage.alive == 0)


async def test_two_ends_of_a_starting_worker_are_one_cancellation(
    make_stage: MakeStage,
) -> None:
    """The second would cut short what the first sets off."""
    stage = make_stage()
    await stage.set.start(1)
    stage.troupe.gate = asyncio.Event()
    stage.puppet(0).die()
    await eventually(lambda: len(stage.troupe.all) == 2)
    stage.puppet(1).slow_to_go = True
    scaling = asyncio.create_task(stage.set.scale(0))
    await eventually(lambda: stage.puppet(1).cancelled)
    stopping = asyncio.create_task(stage.set.stop(0))
    await asyncio.gather(scaling, stopping)
    assert stage.puppet(1).cancelled == 1
    assert stage.alive == 0


async def test_a_stop_does_not_cut_short_the_end_of_a_failed_start(
    make_stage: MakeStage,
) -> None:
    stage = make_stage()
    stage.troupe.gate = asyncio.Event()
    starting = asyncio.create_task(stage.set.start(2))
    await eventually(lambda: len(stage.troupe.all) == 2)
    stage.puppet(1).slow_to_go = True
    starting.cancel()
    await eventually(lambda: stage.puppet(1).cancelled)
    await stage.set.stop(0)
    assert stage.puppet(1).cancelled == 1 and stage.alive == 0
    with pytest.raises(asyncio.CancelledError):
        await starting


@pytest.mark.usefixtures("quick")
async def test_a_worker_that_was_recycled_is_no_restart(make_stage: MakeStage) -> None:
    stage = make_stage(recycle_after=10, spares=1)
    await stage.set.start(1)
    await eventually(lambda: stage.spares == 1)
    stage.puppet(0).die()
    await eventually(lambda: stage.serving == [1] and stage.spares == 1)
    assert stage.set.statistics().restarts == 1
    for number in (1, 2):  # the second of them is in the place of the one that died
        stage.puppet(number).served = 10
        await eventually(lambda n=number: stage.serving == [n + 1] and stage.spares == 1)
    statistics = stage.set.statistics()
    assert (statistics.deaths, statistics.restarts) == (1, 1)
    assert statistics.recycled["batches"] == 2
