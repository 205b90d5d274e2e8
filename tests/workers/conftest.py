"""Real workers for the tests of this package, on both event loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from polling import eventually

from clipper.clock import SystemClock
from clipper.inputs import InputType, encode_python
from clipper.layout import layout_of
from clipper.values import Batch, BatchResult
from clipper.workers.packaging import pack
from clipper.workers.replica import Replica
from clipper.workers.spec import Patience, WorkerSpec

from .stage import Stage


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": loops["asyncio"]} if MUTATED else loops


# Mutants are many: one loop is enough for each.
MUTATED = "MUTANT_UNDER_TEST" in os.environ


def is_running(pid: int) -> bool:
    """Whether a process exists and is not just a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def descriptors() -> int:
    """Open sockets, pipes and process descriptors of this process."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        count += target.startswith(("socket:", "pipe:")) or "pidfd" in target
    return count


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    """Whatever a test does, it leaves no process, descriptor or task behind."""
    await asyncio.sleep(0)
    before = (descriptors(), children(), len(asyncio.all_tasks()))
    yield
    await eventually(lambda: descriptors() <= before[0])
    await eventually(lambda: children() <= before[1])
    assert len(asyncio.all_tasks()) <= before[2]


def make_batch(
    kind: InputType, values: list[Any]
) -> tuple[Batch, asyncio.Future[BatchResult]]:
    """A batch of the values, and the future of its result; done twice is an error."""
    rows = [encode_python(kind, value) for value in values]
    finished: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
    payloads = [row.payload for row in rows]
    layout = layout_of(kind, payloads, [row.shape for row in rows])
    batch = Batch(
        len(rows), payloads, layout, lambda batch, result: finished.set_result(result)
    )
    return batch, finished


class Worker:
    """A replica that runs one function."""

    def __init__(self, replica: Replica, kind: InputType) -> None:
        self.replica = replica
        self.kind = kind

    def send(self, *values: Any) -> asyncio.Future[BatchResult]:
        batch, finished = make_batch(self.kind, list(values))
        self.replica.submit(batch)
        return finished

    async def call(self, *values: Any) -> BatchResult:
        async with asyncio.timeout(60):
            return await self.send(*values)


StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_worker(no_leaks: None) -> AsyncIterator[StartWorker]:
    """Starts a worker for a function and an input type; all are stopped at the end."""
    started: list[Replica] = []

    async def start(
        function: Any,
        kind: InputType = InputType.DOUBLES,
        *,
        example: Any = None,
        patience: Patience | None = None,
        environment: dict[str, str] | None = None,
        memory_limit: int | None = None,
        **callbacks: Any,
    ) -> Worker:
        spec = WorkerSpec(
            "model",
            "1",
            kind,
            None if example is None else encode_python(kind, example),
            environment or {},
            memory_limit,
        )
        replica = Replica(spec, SystemClock(), patience=patience, **callbacks)
        started.append(replica)
        blob = function if isinstance(function, bytes) else pack(function).blob

        async def load() -> bytes:
            return blob

        await replica.start(load)
        return Worker(replica, kind)

    yield start
    await asyncio.gather(*(replica.stop(0) for replica in started))


MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage(no_leaks: None) -> AsyncIterator[MakeStage]:
    """Makes sets of puppets; all are stopped at the end, and no puppet is left."""
    made: list[Stage] = []

    def make(**options: Any) -> Stage:
        made.append(Stage(**options))
        return made[-1]

    yield make
    await asyncio.gather(*(stage.set.stop(0) for stage in made))
    for stage in made:
        assert stage.alive == 0
