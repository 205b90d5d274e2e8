"""Starts, restarts, scales and recycling in virtual time, to the hundredth of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from fakes import ManualClock
from simulation.loop import VirtualLoop

from clipper.errors import ClipperError, DeployFailed
from clipper.values import FailureKind, Verdict
from clipper.workers import recycling
from clipper.workers.replica_set import ReplicaSet, Restarts, State
from clipper.workers.spec import Patience
from clipper.workers.turns import Turns

from .puppets import Puppet
from .stage import Stage

SLACK = pytest.approx(0.0, abs=0.01)  # of timers that are a little late


class Scene:
    """A stage in virtual time. Nothing happens but in `does`, `after` and `do`."""

    def __init__(self, restarts: Restarts | None = None, **options: Any) -> None:
        self.clock = ManualClock(0.0)
        self.loop = VirtualLoop(self.clock, Random(1))
        with self.loop.running():
            self.stage = Stage(restarts or Restarts(), self.clock, **options)
        self.set: ReplicaSet = self.stage.set
        self.troupe = self.stage.troupe

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        with self.loop.running():
            task = self.loop.create_task(work)
        self.after(0.0)
        return task

    def does(self, work: Coroutine[Any, Any, Any], seconds: float = 0.0) -> Any:
        task = self.begin(work)
        self.after(seconds)
        return task.result()

    def after(self, seconds: float) -> None:
        """Let so many seconds go by."""
        with self.loop.running():
            self.loop.run(self.clock.now() + seconds)
        assert not self.loop.failures

    def restore(self, replicas: int) -> None:
        with self.loop.running():
            self.set.restore(replicas)
        self.after(0.0)

    def dies(self, number: int = -1, kind: FailureKind = FailureKind.CRASHED) -> None:
        with self.loop.running():
            self.troupe.all[number].die(kind)
        self.after(0.0)

    @property
    def latest(self) -> Puppet:
        return self.troupe.all[-1]

    @property
    def births(self) -> list[float]:
        return [puppet.began for puppet in self.troupe.all]

    def stop(self) -> None:
        self.does(self.set.stop(0), 1.0)
        assert self.stage.alive == 0
        with self.loop.running():
            assert not asyncio.all_tasks(self.loop)


def test_the_first_restart_is_at_once_and_later_ones_wait_longer() -> None:
    scene = Scene(Restarts(deaths=100))
    scene.restore(1)
    births = [0.0]
    for pause in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        before = scene.clock.now()
        scene.dies()
        if pause:
            assert (scene.set.live, scene.set.state) == (0, State.STARTING)
            assert scene.set.reason == "a worker ended: crashed"
        births.append(before + pause)
        scene.after(pause + 0.01)
        assert (scene.set.live, scene.set.reason) == (1, "")
    assert scene.births == [pytest.approx(at, abs=0.03) for at in births]
    statistics = scene.set.statistics()
    assert (statistics.deaths, statistics.restarts) == (10, 10)
    scene.stop()


@pytest.mark.parametrize(
    ("lived", "killed", "served", "pause"),
    [
        (9.0, False, 1000, 0.05),
        (11.0, False, 0, 0.0),
        (0.0, True, 10, 0.0),
        (0.0, True, 9, 0.05),
    ],
)
def test_what_ends_a_row_of_pauses(
    lived: float, killed: bool, served: int, pause: float
) -> None:
    scene = Scene(Restarts(deaths=100))
    scene.restore(1)
    scene.dies()
    scene.after(lived)
    before = scene.clock.now()
    scene.latest.killed, scene.latest.served = killed, served
    scene.dies()
    scene.after(1.0)
    assert scene.births[-1] - before - pause == SLACK
    scene.stop()


def test_a_crash_loop_tries_one_by_one_until_all_are_back() -> None:
    scene = Scene(spares=0)
    scene.does(scene.set.start(3))
    for number in (0, 1, 2):
        scene.dies(number)
    scene.after(1.0)
    assert scene.set.state is State.LIVE  # the first two were followed before the third
    assert scene.set.reason == (
        "workers keep ending, the last one because crashed; "
        "a new one is tried every 30 seconds"
    )
    scene.dies(3)
    scene.dies(4)
    tripped = scene.clock.now()
    scene.after(1.0)
    assert (scene.set.state, len(scene.births)) == (State.FAILED, 5)
    scene.troupe.refuses = "no memory"
    scene.after(30.0)
    assert scene.births[5:] == [pytest.approx(tripped + 30.0, abs=0.01)]
    assert "the last one because no memory" in scene.set.reason
    scene.troupe.refuses = ""
    scene.after(30.0)
    assert (scene.set.state, scene.set.live) == (State.LIVE, 1)
    scene.after(8.9)
    assert scene.set.live == 1
    scene.after(0.2)
    assert scene.set.live == 3
    scene.stop()


def test_a_version_that_takes_a_minute_to_fail_has_failed() -> None:
    """As one that the system kills while it loads, for want of memory."""
    scene = Scene()
    scene.troupe.seconds, scene.troupe.refuses = 60.0, "killed by SIGKILL"
    scene.restore(1)
    scene.after(181.0)
    assert scene.set.state is State.FAILED
    assert len(scene.births) == 3
    scene.after(3 * 90.0 - 2.0)
    assert len(scene.births) == 6 and scene.set.state is State.FAILED
    scene.stop()


def test_one_that_takes_a_minute_to_start_and_dies_at_once_has_failed() -> None:
    scene = Scene()
    scene.troupe.seconds = 60.0
    scene.restore(1)
    for _ in range(3):
        scene.after(60.2)
        assert scene.set.state is State.LIVE
        scene.dies()
    assert scene.set.state is State.FAILED
    scene.stop()


def test_a_start_that_fails_now_and_then_is_no_crash_loop() -> None:
    scene = Scene()
    scene.after(1000.0)  # a late hour on the clock
    scene.restore(1)
    for _ in range(10):
        scene.after(120.0)
        scene.latest.killed, scene.latest.served = True, 10
        scene.troupe.refusals[len(scene.births)] = "the disk was away"
        scene.dies()
        scene.after(1.0)
        assert (scene.set.state, scene.set.reason) == (State.LIVE, "")
    scene.stop()


def test_nothing_is_kept_of_verdicts_on_those_that_were_told_to_end() -> None:
    scene = Scene(recycle_after=10, spares=1)
    scene.restore(2)
    scene.latest.served = 0
    with scene.loop.running():
        scene.set.judge(scene.troupe.all, Verdict.OPEN)
    scene.troupe.all[0].served = 10  # recycled: a spare takes its place
    scene.after(1.0)
    scene.does(scene.set.scale(0))
    assert not scene.set._ward.crashes._verdicts
    scene.stop()


def test_an_example_earns_one_poison_row() -> None:
    scene = Scene(Restarts(deaths=1))
    scene.restore(1)
    for tripped in (False, True):
        victim = scene.latest
        with scene.loop.running():
            scene.set.judge([victim], Verdict.OPEN)
        scene.dies()
        with scene.loop.running():
            scene.set.judge([victim], Verdict.POISON)
        scene.after(0.2)
        assert scene.set._ward.crashes.tripped is tripped
    scene.stop()


def test_one_that_others_kill_over_and_over_goes_on() -> None:
    """Its rows are what may speak against it, not who killed it."""
    scene = Scene()
    scene.restore(1)
    for _ in range(50):
        scene.latest.killed, scene.latest.served = True, 10
        scene.dies()
        assert scene.set.state is State.LIVE
    assert scene.set.statistics().deaths == 50
    scene.stop()


def test_errors_of_every_kind_while_starting() -> None:
    scene = Scene()

    async def load() -> bytes:
        reasons.append(scene.set.reason)
        if errors:
            raise errors.pop()
        return b""

    errors: list[Exception] = [ClipperError("the blob is damaged"), ValueError("odd")]
    reasons: list[str] = []
    scene.set._ward.load_blob = load
    scene.restore(1)
    scene.after(0.1)
    assert reasons == [
        "",
        "a worker ended: it could not be started: odd",
        "a worker ended: the blob is damaged",
    ]
    assert (scene.set.state, scene.set.reason) == (State.LIVE, "")
    statistics = scene.set.statistics()
    assert (statistics.deaths, statistics.restarts) == (2, 1)
    scene.stop()


# -- deploys and scales ------------------------------------------------------------------


def test_a_start_tells_of_each_stage_once() -> None:
    scene = Scene()
    heard: list[tuple[str, dict[str, Any]]] = []
    statistics = scene.set.statistics()
    assert (statistics.state, statistics.wanted, statistics.live) == (State.STARTING, 0, 0)
    scene.does(scene.set.start(2, lambda *what: heard.append(what)))
    assert heard == [
        ("loading", {"seconds": 0.25}),
        ("example", {"seconds": 0.5}),
        ("ready", {"replicas": 1, "of": 2}),
        ("ready", {"replicas": 2, "of": 2}),
    ]
    assert repr(scene.set) == "<ReplicaSet model:1 live 2/2>"
    assert not scene.set._starts
    statistics = scene.set.statistics()
    assert (statistics.state, statistics.wanted, statistics.live) == (State.LIVE, 2, 2)
    assert [told.pid for told in statistics.replicas] == [0, 1]
    scene.stop()


def test_a_start_that_fails_ends_the_others_and_says_why() -> None:
    scene = Scene()
    scene.troupe.gate = asyncio.Event()
    starting = scene.begin(scene.set.start(3))
    assert len(scene.births) == 3
    with scene.loop.running():
        scene.troupe.refuses = "the file is missing"
        scene.troupe.gate.set()
    scene.after(0.0)
    with pytest.raises(DeployFailed) as caught:
        starting.result()
    assert caught.value.cause == "the file is missing"
    assert (scene.stage.alive, scene.set.state) == (0, State.STOPPED)
    assert not scene.set._places.leaving
    with pytest.raises(DeployFailed, match="the model version was stopped"):
        scene.does(scene.set.scale(1))
    assert len(scene.births) == 3
    scene.stop()


def test_a_start_that_fails_late_ends_those_that_were_ready_at_once() -> None:
    scene = Scene()
    scene.troupe.refusals[1] = "no second one"
    with pytest.raises(DeployFailed, match="no second one"):
        scene.does(scene.set.start(2))
    assert [puppet.drains for puppet in scene.troupe.all] == [[0], []]
    scene.stop()


def test_a_start_that_is_given_up_leaves_nothing() -> None:
    scene = Scene()
    scene.troupe.seconds = 5.0
    starting = scene.begin(scene.set.start(2))
    scene.after(1.0)
    with scene.loop.running():
        starting.cancel()
    scene.after(1.0)
    assert starting.cancelled() and scene.stage.alive == 0
    assert scene.set.state is State.STOPPED and not scene.set._starts


def test_a_stop_while_the_blob_is_read() -> None:
    scene = Scene()
    gate = asyncio.Event()

    async def load() -> bytes:
        await gate.wait()
        return b"blob"

    scene.set._ward.load_blob = load
    starting = scene.begin(scene.set.start(1))
    scene.does(scene.set.stop(0))
    with scene.loop.running():
        gate.set()
    scene.after(0.1)
    with pytest.raises(DeployFailed, match=r"^the model version was stopped$"):
        starting.result()
    assert scene.births == []


def test_a_deploy_reads_the_blob_once_for_all() -> None:
    scene = Scene()
    read: list[float] = []

    async def load() -> bytes:
        read.append(scene.clock.now())
        return b"blob"

    scene.set._ward.load_blob = load
    scene.does(scene.set.start(3))
    assert len(read) == 1
    assert [puppet.blob for puppet in scene.troupe.all] == [b"blob"] * 3
    scene.stop()


def test_scales_start_and_end_as_many_as_it_takes() -> None:
    scene = Scene()
    scene.does(scene.set.start(1))
    scene.does(scene.set.scale(1))
    assert len(scene.births) == 1 and scene.set.live == 1
    scene.does(scene.set.scale(3))
    assert (scene.set.live, len(scene.births)) == (3, 3)
    scene.does(scene.set.scale(2))
    assert [puppet.drains for puppet in scene.troupe.all] == [[], [], [10.0]]
    scene.does(scene.set.scale(1, 3.0))
    assert scene.troupe.all[1].drains == [3.0]
    assert (scene.set.live, scene.set.wanted, scene.stage.alive) == (1, 1, 1)
    scene.does(scene.set.stop(7.0))
    assert scene.troupe.all[0].drains == [7.0]
    scene.stop()


def test_a_larger_scale_ends_a_crash_loop() -> None:
    scene = Scene(Restarts(deaths=1))
    scene.does(scene.set.start(1))
    scene.dies()
    assert scene.set.state is State.FAILED
    scene.does(scene.set.scale(2))
    assert (scene.set.state, scene.set.live) == (State.LIVE, 1)
    scene.after(30.1)
    assert scene.set.live == 2
    scene.stop()


def test_what_the_first_batch_took_goes_to_the_workers_that_follow() -> None:
    scene = Scene()
    scene.restore(1)
    assert scene.latest.patience == Patience()
    scene.latest.first = (3, 0.5)
    for _ in range(2):  # the second has none of its own
        scene.dies()
        scene.after(0.1)
        assert scene.latest.patience == Patience(first=(3, 0.5))
    scene.stop()


def test_outputs_of_those_that_run_and_of_those_that_ended() -> None:
    scene = Scene(spares=1)
    scene.restore(1)
    scene.dies(0)
    scene.after(0.1)
    assert scene.set.log_tail() == (
        "== worker 0, which ended: crashed ==\noutput of 0\n"
        "== worker 1 ==\noutput of 1\n"
        "== spare worker 2 ==\noutput of 2"
    )
    scene.stop()


def test_a_crash_loop_is_told_of_once_by_the_verdict_that_makes_it() -> None:
    scene = Scene(Restarts(deaths=1))
    scene.restore(2)
    first, second = scene.troupe.all
    with scene.loop.running():
        scene.set.judge([first, second], Verdict.OPEN)
    scene.dies(0)
    scene.after(0.1)
    assert scene.set.reason == ""
    told = len(scene.stage.told)
    with scene.loop.running():
        scene.set.judge([first], Verdict.OWN)
    assert scene.set.reason.startswith("workers keep ending, the last one because crashed;")
    assert len(scene.stage.told) == told + 1
    with scene.loop.running():
        scene.set._ward.reason = "something else"
        scene.set.judge([second], Verdict.OWN)
    assert scene.set.reason == "something else"
    assert len(scene.stage.told) == told + 1
    scene.stop()


def test_poison_is_forgiven_for_what_all_workers_have_answered() -> None:
    scene = Scene(Restarts(deaths=1))
    scene.restore(2)
    with scene.loop.running():
        scene.set._ward.crashes._credit = 0
        scene.troupe.all[1].served = 1  # by one that lives
        scene.set.judge([scene.troupe.all[0]], Verdict.OPEN)
    scene.dies(0)
    with scene.loop.running():
        scene.set.judge([scene.troupe.all[0]], Verdict.POISON)
    assert not scene.set._ward.crashes.tripped
    scene.dies(1, FailureKind.HUNG)
    scene.stop()


def test_after_poison_the_next_start_is_at_once_however_often() -> None:
    scene = Scene()
    scene.restore(1)
    for _ in range(10):
        first, second = scene.latest, len(scene.troupe.all)
        first.served = 5
        with scene.loop.running():
            scene.set.judge([first], Verdict.OPEN)  # one of its rows, or it of itself
        scene.dies()
        with scene.loop.running():
            scene.set.judge([scene.troupe.all[second]], Verdict.OPEN)
            scene.set.judge([first, scene.troupe.all[second]], Verdict.POISON)
        scene.dies()
        assert scene.set.live == 1 and scene.clock.now() < 0.1
    assert scene.set.statistics().restarts == 20
    scene.stop()


def test_what_is_restored_starts_in_turn_and_later_ones_do_not_wait() -> None:
    scene = Scene(spares=1)
    scene.troupe.seconds = 0.2
    with scene.loop.running():
        scene.set.restore(2, Turns(1))
    scene.after(2.0)
    assert scene.births == [pytest.approx(at, abs=0.02) for at in (0.0, 0.2, 0.4)]
    scene.dies(0)
    scene.dies(1)
    scene.after(1.0)
    assert scene.births[3:] == [pytest.approx(2.0, abs=0.02)] * 2
    scene.stop()


def test_where_it_was_the_worker_of_itself_the_starts_wait_all_the_same() -> None:
    scene = Scene(Restarts(deaths=100))
    scene.restore(1)
    for _ in range(5):
        scene.after(1.0)
        with scene.loop.running():
            scene.set.judge([scene.latest], Verdict.OPEN)
            scene.set.judge([scene.latest], Verdict.OWN)
        scene.dies()
    assert scene.set.live == 0
    scene.stop()


# -- recycling ---------------------------------------------------------------------------


def test_replacing_takes_a_fifth_of_the_time_at_most() -> None:
    scene = Scene(recycle_after=10)
    scene.restore(3)
    scene.troupe.seconds = 2.0
    for puppet in scene.troupe.all:
        puppet.served = 10
    task = scene.set._recycler.task
    assert task is not None and task.get_name() == "recycle model:1"
    scene.does(scene.set.scale(3))  # which begins no second recycler
    scene.after(30.0)
    births = [0.0, 0.0, 0.0, 0.25, 10.5, 20.75]
    assert scene.births == [pytest.approx(at, abs=0.03) for at in births]
    assert min(scene.stage.told) >= 1
    assert scene.troupe.all[0].drains == [recycling.LAST_BATCHES]
    assert scene.set.statistics().recycled == {"batches": 3, "memory": 0}
    scene.stop()


def test_what_cannot_be_replaced_is_tried_again_after_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(recycle_after=10)
    scene.restore(1)
    scene.latest.served = 10
    scene.troupe.refuses = "the file is missing"
    scene.after(0.3)
    scene.set._ward.load_blob, load = _damaged, scene.set._ward.load_blob
    scene.after(30.5)
    assert scene.births == [pytest.approx(at, abs=0.02) for at in (0.0, 0.25, 30.5)]
    scene.set._ward.load_blob, scene.troupe.refuses = load, ""
    scene.after(31.0)
    assert scene.births[3:] == [pytest.approx(60.75, abs=0.03)]
    assert scene.stage.serving == [3] and scene.stage.alive == 1
    told = [r.getMessage() for r in caplog.records if r.name == recycling.__name__]
    assert told == [
        "model:1: a worker was not replaced: the file is missing",
        "model:1: a worker was not replaced",
    ]
    scene.stop()


async def _damaged() -> bytes:
    raise ValueError("odd")


def test_one_that_ends_while_the_next_one_starts(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(recycle_after=10)
    scene.restore(1)
    scene.latest.served = 10
    scene.troupe.seconds = 1.0
    scene.after(0.5)
    scene.dies(0)
    scene.after(3.0)
    assert scene.stage.serving == [2] and scene.stage.alive == 1
    why = "model:1: a worker was not replaced: the one that it was to follow has ended"
    assert why in caplog.text
    scene.stop()


def test_a_spare_that_was_exchanged_has_time_for_its_last_batches() -> None:
    scene = Scene(recycle_after=10, spares=1)
    scene.restore(1)
    scene.troupe.all[0].served = 10
    scene.after(1.0)
    assert scene.stage.serving == [1] and scene.stage.spares == 1
    assert scene.troupe.all[0].drains == [recycling.LAST_BATCHES]
    scene.stop()


def test_without_limits_nobody_looks() -> None:
    scene = Scene()
    scene.restore(1)
    assert scene.set._recycler.task is None
    scene.stop()


def test_what_is_replaced_in_no_time_makes_room_for_the_next_look() -> None:
    scene = Scene(recycle_after=10)
    scene.restore(2)
    for puppet in scene.troupe.all:
        puppet.served = 10
    scene.after(1.0)
    births = [0.0, 0.0, 0.25, 0.5]
    assert scene.births == [pytest.approx(at, abs=0.02) for at in births]
    scene.stop()


def test_only_those_are_replaced_that_are_due_and_answer() -> None:
    scene = Scene(recycle_memory=1000)
    scene.troupe.bytes = 900
    scene.restore(2)
    scene.after(1.0)
    scene.troupe.all[1].bytes = 1124  # less than a quarter more than it began with
    scene.after(10.0)
    assert len(scene.births) == 2
    scene.troupe.all[1].bytes = 1125
    scene.after(1.0)
    assert scene.stage.serving == [0, 2]
    scene.troupe.all[0].bytes = 5000
    scene.dies(0)  # what is not there is not due
    scene.after(1.0)
    assert scene.stage.serving == [3, 2]
    assert scene.set.statistics().recycled == {"batches": 0, "memory": 1}
    scene.stop()
