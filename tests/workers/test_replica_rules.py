"""The rules of a replica, one by one: its worker is a marionette, its time stands still."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clipper.values import BatchFailure, FailureKind
from clipper.workers import replica as module
from clipper.workers import wire
from clipper.workers.replica import STACK_SECONDS, STALL_SECONDS, Replica
from clipper.workers.spec import Patience, ReplicaState, ReplicaStatistics

from .marionette import HELLO, Booth, turns

DIED = "the model's worker process died"
BROKE = "the model's worker answered with something else than an answer"
HUNG = "the model took too long and its worker was stopped"
STOPPED = "the worker was stopped before it could answer"
RETURNED = "the worker ended before it began with the batch"


def crashed(cause: str, detail: str = "") -> BatchFailure:
    return BatchFailure(FailureKind.CRASHED, cause, detail)


def returned() -> BatchFailure:
    return BatchFailure(FailureKind.RETURNED, RETURNED)


# -- what others ask ---------------------------------------------------------------------


async def test_before_there_is_a_process_it_has_nothing_to_tell() -> None:
    replica = Booth().replica
    state = ReplicaState.STARTING
    assert replica.statistics() == ReplicaStatistics(
        state, None, 0, 0, 0, 0.0, "", None, False
    )
    assert (replica.output(), replica.memory(), replica.pid) == ("", None, None)
    assert (replica.detail, replica.hello, replica.room) == ("", None, False)
    assert repr(replica) == "<Replica m:2 starting pid=None in_flight=0>"
    await replica.wait_gone()
    await replica.stop(0)
    assert replica.state is ReplicaState.STOPPED


async def test_statistics_count_each_answered_batch() -> None:
    booth = Booth()
    process = await booth.open()
    process.printed = "words"
    replica = booth.replica
    assert (replica.output(), replica.memory(), replica.pid) == ("words", 12345, 7)
    for rows, seconds in ((2, 0.5), (1, 0.25), (3, 2.0)):
        finished = booth.send(rows)
        assert replica.in_flight == 1
        booth.clock.move(seconds)
        process.answer(*[b"1"] * rows)
        assert await finished == [b"1"] * rows
    booth.send()
    assert replica.statistics() == ReplicaStatistics(
        ReplicaState.READY, 7, 3, 6, 1, 2.75, "", (2, 0.5), False
    )


async def test_it_takes_two_batches_while_it_is_ready() -> None:
    booth = Booth()
    await booth.open()
    for _ in range(2):
        assert booth.replica.room
        booth.send()
    assert not booth.replica.room
    told = "<Replica m:2 ready pid=7 in_flight=2> has no room"
    with pytest.raises(RuntimeError, match=told):
        booth.send()


# -- hanging -----------------------------------------------------------------------------


def limits(replica: Replica, *rows: int) -> list[float]:
    return [replica._hang.limit(number) for number in rows]


async def test_the_hang_limit_comes_from_the_example_or_the_first_batch() -> None:
    known = Patience(hang_floor=1.0, hang_ceiling=32.0, first=(2, 0.5))
    unknown = Patience(hang_floor=1.0, hang_ceiling=32.0)
    assert limits(Booth().replica, 1) == [30.0]
    assert limits(Booth(patience=unknown).replica, 1) == [32.0]
    assert limits(Booth(patience=known).replica, 1, 2, 4, 40) == [5.0, 5.0, 10.0, 32.0]
    booth = Booth(patience=known, example=[1.0])
    assert limits(booth.replica, 1) == [32.0]
    await booth.open(0.25)
    assert limits(booth.replica, 1, 2) == [2.5, 5.0]
    assert booth.replica.statistics().first is None
    booth = Booth(patience=unknown)
    process = await booth.open()
    booth.send(2)
    booth.clock.move(0.25)
    process.answer(b"1", b"1")
    assert limits(booth.replica, 2, 4) == [2.5, 5.0]


async def test_a_batch_after_the_example_is_still_the_first_of_its_worker() -> None:
    booth = Booth(example=[1.0])
    process = await booth.open(0.5)
    booth.send(2)
    booth.clock.move(0.125)
    process.answer(b"1", b"1")
    assert booth.replica.statistics().first == (2, 0.125)
    assert limits(booth.replica, 2) == [5.0]  # the example's word still holds


QUICK = Patience(load=64.0, hang_floor=1.0, hang_ceiling=32.0)  # and 5 s a row of `ready`


async def ready() -> Booth:
    booth = Booth(patience=QUICK, example=[1.0])
    await booth.open(0.5)
    booth.hands.fire()  # the example's: nothing runs, so it is not armed again
    assert booth.replica._timer is None
    assert booth.hands.due == []
    return booth


async def test_the_timer_is_that_of_the_batch_that_may_last_the_shortest() -> None:
    booth = await ready()
    booth.send(4)
    assert booth.hands.due == [20.0]
    booth.clock.move(2.0)
    booth.send(1)
    assert booth.hands.due == [5.0]  # one timer alone
    booth = await ready()
    booth.send(1)
    (timer,) = booth.hands.armed
    booth.send(1)
    assert booth.hands.armed == [timer]
    booth = await ready()
    booth.send(2)
    (timer,) = booth.hands.armed
    booth.clock.move(6.0)
    booth.send(1)
    assert booth.hands.armed == [timer]


async def test_a_batch_that_came_later_gets_the_rest_of_its_time() -> None:
    booth = await ready()
    first = booth.send()
    booth.clock.move(1.0)
    booth.process.answer(b"1")
    assert await first == [b"1"]
    booth.clock.move(2.0)
    booth.send()
    booth.hands.fire()
    assert booth.replica.state is ReplicaState.READY
    assert booth.hands.due == [8.0]  # 10 s since it was sent 2 s ago


async def test_a_batch_hangs_once_its_limit_is_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    booth = await ready()
    process, replica = booth.process, booth.replica
    first, second = booth.send(), booth.send()
    booth.hands.fire()
    told = "a batch ran for 5.0 s, longer than 5.0 s"
    assert (replica.state, replica.reason) == (ReplicaState.FAILED, told)
    assert told in caplog.text
    assert process.did == ["stacks"]
    assert booth.hands.due == [pytest.approx(STACK_SECONDS)]
    process.answer(b"1")  # too late
    assert not first.done() and not booth.ends
    process.printed = "stacks"
    booth.hands.fire()
    assert first.result() == BatchFailure(FailureKind.HUNG, HUNG, "stacks")
    assert second.result() == returned()
    assert (replica.reason, replica.detail) == (told, "stacks")
    assert process.did == ["stacks", "abort", "kill"]
    assert booth.ends == [replica]
    process.end(-9)
    await replica.wait_gone()
    assert replica.reason == f"{told} (killed by SIGKILL)"
    assert not replica.statistics().killed


async def test_a_hung_worker_that_goes_by_itself_has_hung() -> None:
    booth = await ready()
    first = booth.send()
    booth.hands.fire()
    booth.process.lose()
    assert first.result() == BatchFailure(FailureKind.HUNG, HUNG)
    assert booth.hands.due == []


async def test_a_late_timer_gives_the_batch_its_time_again() -> None:
    booth = await ready()
    finished = booth.send()
    booth.hands.fire(late=STALL_SECONDS + 0.125)
    assert booth.replica.state is ReplicaState.READY
    assert booth.hands.due == [5.0]
    booth.hands.fire(late=STALL_SECONDS)
    assert booth.replica.reason == "a batch ran for 10.6 s, longer than 5.0 s"
    assert not finished.done()


async def test_the_example_may_run_as_long_as_the_function_may_load() -> None:
    booth = Booth(patience=QUICK, example=[1.0])
    task = await booth.begin(HELLO, wire.Loaded(0.25))
    assert booth.hands.due == [64.0]
    booth.clock.move(40.0)
    booth.replica._check_hang()  # too early
    assert booth.hands.due[-1] == 24.0
    booth.hands.armed[0].cancel()
    booth.hands.fire()
    assert booth.replica.reason == "a batch ran for 64.0 s, longer than 64.0 s"
    booth.process.returncode = -9
    booth.hands.fire()
    with pytest.raises(module.ReplicaFailed) as caught:
        await task
    assert caught.value.cause == f"on the example, {HUNG} (killed by SIGKILL)"


# -- ending ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told", "killed"),
    [
        (
            -9,
            "killed by SIGKILL, by somebody or by the system for want of memory",
            True,
        ),
        (-15, "killed by SIGTERM", True),
        (-11, "killed by SIGSEGV", False),
        (9, "exited with status 9", False),
    ],
)
async def test_a_death_is_told_once_its_status_is_known(
    code: int, told: str, killed: bool
) -> None:
    booth = Booth()
    process = await booth.open()
    first, second = booth.send(), booth.send()
    process.printed = "last words"
    process.lose()
    replica = booth.replica
    assert (replica.state, replica.reason) == (ReplicaState.FAILED, DIED)
    assert first.result() == crashed(DIED, "last words")
    assert second.result() == returned()
    assert booth.hands.due == []
    assert process.did == ["abort", "kill"]
    gone = asyncio.create_task(replica.wait_gone())
    await turns()
    assert not gone.done()
    process.returncode = code
    process.exited.set()
    await gone
    await replica.wait_gone()
    assert replica.reason == f"{DIED} ({told})"
    statistics = replica.statistics()
    assert (statistics.killed, statistics.reason) == (killed, replica.reason)
    replica.kill()
    assert booth.ends == [replica]


async def test_who_breaks_the_protocol_is_killed_by_us(
    caplog: pytest.LogCaptureFixture,
) -> None:
    booth = Booth()
    process = await booth.open()
    finished = booth.send()
    process.printed = "words"
    process.say(HELLO)
    assert finished.result() == crashed(BROKE, "Hello came unasked\nwords")
    replica = booth.replica
    assert (replica.state, replica.reason) == (ReplicaState.FAILED, BROKE)
    assert replica.detail == "Hello came unasked\nwords"
    assert "broke the protocol: Hello came unasked" in caplog.text
    process.end(-9)
    await replica.wait_gone()
    assert replica.reason == f"{BROKE} (killed by SIGKILL)"
    assert not replica.statistics().killed


async def test_only_the_last_of_a_long_output_goes_with_a_failure() -> None:
    booth = Booth()
    process = await booth.open()
    process.printed = "x" * 10 + "y" * 15_999 + "z"
    process.lose()
    assert booth.replica.detail == "y" * 15_999 + "z"


async def test_a_stop_ends_as_soon_as_the_last_batch_is_answered() -> None:
    booth = Booth()
    process = await booth.open()
    first, second = booth.send(), booth.send()
    stops = [asyncio.create_task(booth.replica.stop(0.9)) for _ in range(2)]
    await turns()
    assert booth.replica.state is ReplicaState.DRAINING
    process.say(HELLO)  # to which nobody listens any more
    process.answer(b"1")
    await turns()
    assert process.did == []
    process.answer(b"2")
    await turns()
    assert process.did[0] == ("stop", 0.5)
    assert all(stop.done() for stop in stops)
    assert (await first, await second) == ([b"1"], [b"2"])
    replica = booth.replica
    assert (replica.state, replica.reason) == (ReplicaState.STOPPED, STOPPED)
    process.end(0)
    await replica.wait_gone()
    assert (replica.reason, booth.ends) == (STOPPED, [replica])


async def test_a_stop_waits_no_longer_than_it_was_told() -> None:
    booth = Booth()
    process = await booth.open()
    first, second = booth.send(), booth.send()
    await booth.replica.stop(0.01)
    assert first.result() == crashed(STOPPED)
    assert second.result() == returned()
    assert process.did == [("stop", 0.5), "abort", "kill"]


async def test_a_stop_waits_for_nothing_where_there_is_nothing_to_wait_for() -> None:
    for batches, seconds in ((0, 60.0), (1, 0.0)):
        booth = Booth()
        process = await booth.open()
        process.gate = asyncio.Event()
        for _ in range(batches):
            booth.send()
        stop = asyncio.create_task(booth.replica.stop(seconds))
        await asyncio.sleep(0)
        assert process.did == [("stop", 0.5)]
        process.gate.set()
        await stop


async def test_a_worker_that_dies_as_it_stops_was_stopped() -> None:
    booth = Booth()
    process = await booth.open()
    finished = booth.send()
    stop = asyncio.create_task(booth.replica.stop(5))
    await turns()
    process.end(1)
    await turns()
    assert stop.done()
    assert booth.replica.state is ReplicaState.STOPPED
    assert finished.result() == crashed(STOPPED)


async def test_an_owner_that_raises_costs_no_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(replica: Any) -> None:
        raise ValueError("not my day")

    booth = Booth(on_end=fail)
    await booth.open()
    finished = booth.send()
    booth.replica.kill()
    assert finished.result() == crashed(STOPPED)
    assert "not my day" in caplog.text


async def test_what_is_over_does_not_come_back() -> None:
    booth = Booth()
    await booth.open()
    booth.replica.kill()
    with pytest.raises(RuntimeError, match=r"cannot go from .*STOPPED to .*READY"):
        booth.replica._move(ReplicaState.READY)
