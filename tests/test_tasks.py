"""Background tasks are kept to their end, and told of if they fail."""

from __future__ import annotations

import asyncio

import pytest

from clipper.errors import DiskFull
from clipper.tasks import Tasks


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
