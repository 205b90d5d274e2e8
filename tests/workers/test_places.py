"""Spares, recycling and who is to blame, of replicas whose life the test has in hand."""

from __future__ import annotations

import asyncio
import logging

import pytest
from polling import eventually

from clipper.inputs import InputType
from clipper.values import BatchFailure, FailureKind, Verdict
from clipper.workers import recycling
from clipper.workers.recycling import GROWTH, Due, RecyclingRule
from clipper.workers.replica_set import Restarts, State
from clipper.workers.spec import ReplicaState

from .conftest import MakeStage, make_batch
from .puppets import Puppet

pytestmark = pytest.mark.usefixtures("no_leaks")


async def looked_at(puppet: Puppet) -> None:
    """Until it was thought of replacing it, some times over."""
    enough = puppet.looked_at + 5
    await eventually(lambda: puppet.looked_at >= enough)


# -- spares ------------------------------------------------------------------------------


async def test_a_spare_follows_in_the_same_turn(make_stage: MakeStage) -> None:
    stage = make_stage(spares=1)
    await stage.set.start(2)
    assert stage.serving == [0, 1]
    await eventually(lambda: stage.spares == 1)
    stage.puppet(0).die()
    assert stage.serving == [2, 1]  # not a turn later
    assert (stage.set.live, stage.spares) == (2, 0)
    assert 1 not in stage.told  # nobody was ever told of less
    await eventually(lambda: stage.spares == 1)  # one behind it
    assert stage.serving == [2, 1] and stage.alive == 3


async def test_more_deaths_than_spares(make_stage: MakeStage) -> None:
    stage = make_stage(spares=1)
    await stage.set.start(2)
    await eventually(lambda: stage.spares == 1)
    stage.puppet(0).die()
    stage.puppet(1).die()
    assert stage.serving == [2]
    await eventually(lambda: (stage.set.live, stage.spares) == (2, 1))
    assert stage.alive == 3


async def test_a_spare_that_dies_is_followed_by_another(make_stage: MakeStage) -> None:
    stage = make_stage(spares=2)
    await stage.set.start(1)
    await eventually(lambda: stage.spares == 2)
    stage.puppet(1).die()
    assert stage.serving == [0] and stage.spares == 1
    await eventually(lambda: stage.spares == 2)
    assert stage.set.statistics().spares_wanted == 2


async def test_restored_spares_come_with_the_replicas(make_stage: MakeStage) -> None:
    stage = make_stage(spares=1)
    stage.set.restore(2)
    await eventually(lambda: (stage.set.live, stage.spares) == (2, 1))
    assert len(stage.troupe.all) == 3


async def test_spares_go_with_the_last_replica_and_come_back(make_stage: MakeStage) -> None:
    stage = make_stage(spares=1)
    await stage.set.start(2)
    await eventually(lambda: stage.spares == 1)
    await stage.set.scale(1)
    assert stage.spares == 1 and stage.alive == 2
    await stage.set.scale(0)
    assert stage.set.statistics().spares_wanted == 0 and stage.alive == 0
    await stage.set.scale(3)
    await eventually(lambda: (stage.set.live, stage.spares) == (3, 1))
    await stage.set.stop(0)
    assert stage.alive == 0


async def test_spares_serve_on_through_a_crash_loop(make_stage: MakeStage) -> None:
    stage = make_stage(spares=2, restarts=Restarts(0.01, 0.05, 1, 5.0, 60.0))
    await stage.set.start(1)
    await eventually(lambda: stage.spares == 2)
    for number, left in ((0, [1]), (1, [2]), (2, [])):
        stage.puppet(number).die()
        assert stage.serving == left
        await eventually(lambda: "keep ending" in stage.set.reason)
    await eventually(lambda: stage.set.state is State.FAILED)
    assert len(stage.troupe.all) == 3  # none was started


async def test_the_try_of_a_failed_version_may_be_a_spare(make_stage: MakeStage) -> None:
    stage = make_stage(spares=1)
    stage.troupe.refuses = "the file is missing"
    stage.set.restore(1)
    await eventually(lambda: stage.set.state is State.FAILED)
    assert "the file is missing" in stage.set.reason
    stage.troupe.refuses = ""
    await eventually(lambda: (stage.set.live, stage.spares) == (1, 1))


# -- who is to blame ---------------------------------------------------------------------


async def test_poison_takes_no_version_out(make_stage: MakeStage) -> None:
    stage = make_stage()
    await stage.set.start(1)
    for n in range(10):
        await eventually(lambda: stage.set.live == 1)
        first = stage.set.replicas[0]
        assert isinstance(first, Puppet)
        first.served = 5
        stage.set.judge([first], Verdict.OPEN)
        first.die()
        await eventually(lambda: stage.set.live == 1)
        second = stage.set.replicas[0]
        assert isinstance(second, Puppet)
        second.die(FailureKind.HUNG if n % 2 else FailureKind.CRASHED)
        stage.set.judge([second], Verdict.OPEN)
        stage.set.judge([first, second], Verdict.POISON)
    await eventually(lambda: stage.set.live == 1)
    assert stage.set.state is State.LIVE
    assert stage.set.statistics().deaths == 20


async def test_a_verdict_that_comes_late_takes_it_out(make_stage: MakeStage) -> None:
    stage = make_stage(restarts=Restarts(0.01, 0.05, 2, 5.0, 60.0))
    await stage.set.start(1)
    ended = []
    for _ in range(2):
        await eventually(lambda: stage.set.live == 1)
        ended.append(stage.set.replicas[0])
        stage.set.judge(ended[-1:], Verdict.OPEN)
        stage.puppet(len(stage.troupe.all) - 1).die()
    await eventually(lambda: stage.set.live == 1)
    stage.set.judge(ended[:1], Verdict.OWN)
    assert stage.set.reason == ""
    stage.set.judge(ended[1:], Verdict.OWN)
    assert "keep ending, the last one because crashed" in stage.set.reason
    assert stage.set.state is State.LIVE  # it answers still
    stage.puppet(len(stage.troupe.all) - 1).die()
    await eventually(lambda: stage.set.state is State.FAILED)


# -- recycling ---------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recycling, "LOOK", 0.002)


@pytest.mark.fault("W14")
@pytest.mark.usefixtures("quick")
async def test_the_new_one_is_there_before_the_old_one_goes(make_stage: MakeStage) -> None:
    stage = make_stage(recycle_after=100)
    await stage.set.start(2)
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, stage.alive)
        return stage.set.statistics().recycled == {"batches": 2, "memory": 0}

    for number in (0, 1):
        stage.puppet(number).served = 100
    await eventually(done)
    assert stage.serving == [2, 3]
    assert min(stage.told) == 2 and most <= 3
    await eventually(lambda: stage.alive == 2)
    statistics = stage.set.statistics()
    assert (statistics.deaths, statistics.restarts) == (0, 0)
    stage.puppet(2).served = 99
    await looked_at(stage.puppet(2))
    assert stage.serving == [2, 3]


@pytest.mark.usefixtures("quick")
async def test_a_spare_serves_as_the_new_one(make_stage: MakeStage) -> None:
    stage = make_stage(recycle_after=10, spares=1)
    await stage.set.start(1)
    await eventually(lambda: stage.spares == 1)
    stage.puppet(0).served = 10
    await eventually(lambda: stage.serving == [1])
    await eventually(lambda: stage.spares == 1)
    assert len(stage.troupe.all) == 3 and stage.set.statistics().deaths == 0
    assert min(stage.told) == 1


@pytest.mark.usefixtures("quick")
async def test_what_is_in_flight_is_finished(make_stage: MakeStage) -> None:
    stage = make_stage(recycle_after=10)
    await stage.set.start(1)
    old = stage.puppet(0)
    old.patient = True
    batch, finished = make_batch(InputType.STRINGS, ["a"])
    old.submit(batch)
    old.served = 10
    await eventually(lambda: stage.serving == [1])
    await eventually(lambda: old.state is ReplicaState.DRAINING)
    assert not finished.done()
    old.answer([b"1"])
    assert await finished == [b"1"]
    await eventually(lambda: stage.alive == 1)


@pytest.mark.usefixtures("quick")
async def test_a_new_one_that_does_not_start_leaves_the_old_one(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stage = make_stage(recycle_after=10)
    await stage.set.start(1)
    stage.troupe.refuses = "the file is missing"
    stage.puppet(0).served = 10
    await eventually(lambda: "was not replaced: the file is missing" in caplog.text)
    assert stage.serving == [0] and stage.alive == 1
    stage.troupe.refuses = ""
    await eventually(lambda: stage.serving not in ([0], []))
    assert min(stage.told) == 1 and stage.set.statistics().deaths == 0


@pytest.mark.usefixtures("quick")
async def test_the_old_one_dies_while_the_new_one_starts(make_stage: MakeStage) -> None:
    stage = make_stage(recycle_after=10)
    await stage.set.start(1)
    stage.troupe.gate = asyncio.Event()
    stage.puppet(0).served = 10
    await eventually(lambda: len(stage.troupe.all) == 2)
    stage.puppet(0).die()
    await eventually(lambda: len(stage.troupe.all) == 3)
    stage.troupe.gate.set()
    await eventually(lambda: stage.set.live == 1 and stage.alive == 1)
    assert stage.serving == [2] and not any(stage.set.statistics().recycled.values())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["stop", "scale"])
async def test_a_set_that_ends_while_the_new_one_starts(
    make_stage: MakeStage, how: str
) -> None:
    """Which may hang in its start."""
    stage = make_stage(recycle_after=10)
    await stage.set.start(1)
    stage.troupe.gate = asyncio.Event()
    stage.puppet(0).served = 10
    await eventually(lambda: len(stage.troupe.all) == 2)
    await (stage.set.stop(0) if how == "stop" else stage.set.scale(0))
    await eventually(lambda: stage.alive == 0)
    assert stage.serving == []


@pytest.mark.usefixtures("quick")
async def test_what_has_grown_is_replaced(make_stage: MakeStage) -> None:
    stage = make_stage(recycle_memory=1000)
    stage.troupe.bytes = 500
    await stage.set.start(1)
    stage.puppet(0).bytes = 999
    await looked_at(stage.puppet(0))
    assert stage.serving == [0]
    stage.puppet(0).bytes = 1000
    await eventually(lambda: stage.serving == [1])
    assert stage.set.statistics().recycled == {"batches": 0, "memory": 1}


@pytest.mark.parametrize(
    ("share", "batches", "memory", "fresh", "due"),
    [
        (1.0, 99, None, None, None),
        (1.0, 100, None, None, Due.BATCHES),
        (0.9, 90, None, None, Due.BATCHES),
        (0.01, 1, None, None, Due.BATCHES),
        (0.9, 89, 899, 100, None),
        (0.9, 0, 900, 100, Due.MEMORY),
        (1.0, 0, 1000, None, Due.MEMORY),
        (1.0, 0, 1200, 1000, None),  # it was as large from the start
        (1.0, 0, int(1000 * GROWTH), 1000, Due.MEMORY),
        (1.0, 100, 10**9, 0, Due.BATCHES),
    ],
)
def test_when_a_worker_is_due(
    share: float, batches: int, memory: int | None, fresh: int | None, due: Due | None
) -> None:
    assert RecyclingRule(100, 1000).due(share, batches, memory, fresh) == due
    assert not RecyclingRule().active and not RecyclingRule().due(1.0, 10**9, 10**15, 0)


async def test_the_outputs_of_the_latest_workers_are_kept(make_stage: MakeStage) -> None:
    stage = make_stage()
    await stage.set.start(1)
    for _ in range(8):
        await eventually(lambda: stage.set.live == 1)
        replica = stage.puppet(len(stage.troupe.all) - 1)
        replica.killed = True
        replica.die(FailureKind.HUNG)
    await eventually(lambda: stage.set.live == 1)
    text = stage.set.log_tail()
    assert "== worker 7, which ended: hung ==\noutput of 7" in text
    assert text.count("which ended") == 5
    assert text.endswith("== worker 8 ==\noutput of 8")


async def test_batches_of_a_puppet_come_back(make_stage: MakeStage) -> None:
    """The blamed one first, as of real ones."""
    stage = make_stage()
    await stage.set.start(1)
    (first, one), (second, two) = (make_batch(InputType.STRINGS, ["a"]) for _ in range(2))
    stage.puppet(0).submit(first)
    stage.puppet(0).submit(second)
    stage.puppet(0).die()
    results = await one, await two
    kinds = [r.kind for r in results if isinstance(r, BatchFailure)]
    assert kinds == [FailureKind.CRASHED, FailureKind.RETURNED]
