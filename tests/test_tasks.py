"""Work goes on to its end, and is told of if it fails."""

from __future__ import annotations

import asyncio

import pytest

from clipper.errors import DiskFull
from clipper.tasks import Tasks, to_its_end


async def test_a_task_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(error: Exception) -> None:
        raise error

    tasks = Tasks()
    tasks.spawn(fail(DiskFull("no room")))
    tasks.spawn(fail(ValueError("a fault")))
    assert "running=2" in repr(tasks)
    await tasks.join()
    assert "a background task failed: no room" in caplog.text
    assert "ValueError: a fault" in caplog.text
    assert not tasks.running


async def test_one_that_is_cancelled_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks()
    tasks.spawn(asyncio.sleep(1000)).cancel()
    await tasks.join()
    assert not caplog.records and not tasks.running


async def test_what_tasks_begin_is_waited_for_too() -> None:
    tasks, seen = Tasks(), []

    async def begin(left: int) -> None:
        seen.append(left)
        if left:
            tasks.spawn(begin(left - 1))

    tasks.spawn(begin(3))
    await tasks.join()
    assert seen == [3, 2, 1, 0]


async def test_work_goes_on_to_its_end_and_tells_it() -> None:
    gate, ended = asyncio.Event(), []

    async def work() -> int:
        await gate.wait()
        ended.append(1)
        return 7

    caller = asyncio.create_task(to_its_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [1] and await to_its_end(work()) == 7


async def test_work_that_fails_says_so_to_who_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise DiskFull("no room")

    with pytest.raises(DiskFull):
        await to_its_end(fail())
    caller = asyncio.create_task(to_its_end(fail()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not caplog.records


async def test_settling_has_a_bound() -> None:
    tasks, go_on = Tasks(), asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    tasks.spawn(wait())
    await tasks.settle(0.01)
    assert tasks.running == 1  # and it goes on
    go_on.set()
    await tasks.settle(10.0)
    assert not tasks.running
