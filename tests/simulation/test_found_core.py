"""What whole servers have found, each in the fewest steps that show it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from engine_room import Disk, deploy, disk, engine, fakes_of, workers
from fakes import ManualClock

from clipper.engine import Engine
from clipper.errors import DiskFull
from clipper.inputs import InputType
from clipper.workers import wire
from clipper.workers.replica import Replica
from clipper.workers.spec import ReplicaFailed, ReplicaState, WorkerSpec

__all__ = ["disk", "engine", "workers"]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
async def test_replicas_are_as_many_as_the_disk_says_when_it_refuses_a_change(
    engine: Engine, disk: Disk, before: int, after: int
) -> None:
    await deploy(engine, "m", num_replicas=before)
    disk.fault = DiskFull("the disk is full")
    with pytest.raises(DiskFull):
        await engine.scale("m", None, after)
    assert fakes_of(engine, "m").wanted == before
    disk.fault = None
    await engine.scale("m", None, after)
    assert fakes_of(engine, "m").wanted == after


class Hasty:
    """A worker process that says two things at once where one was asked for."""

    def __init__(self, environment: Mapping[str, str], memory_limit: int | None) -> None:
        self.pid, self.returncode = 1, -9
        self.exited = asyncio.Event()
        self.exited.set()

    async def connect(self, protocol: Any) -> Hasty:
        self.protocol = protocol
        protocol.connection_made(self)
        asyncio.get_running_loop().call_soon(self.say, wire.Hello(1, "3.11", {}))
        return self

    def say(self, *messages: wire.Message) -> None:
        frames = [b"".join(wire.encode(message)) for message in messages]
        self.protocol.data_received(b"".join(frames))

    def write(self, data: bytes) -> None:
        """The function came."""
        loaded = wire.Loaded(0.1)
        asyncio.get_running_loop().call_soon(self.say, loaded, loaded)

    def abort(self) -> None:
        pass

    kill = abort

    def output(self) -> str:
        return ""

    async def stop(self, grace: float) -> None:
        pass


async def test_a_worker_that_fails_as_soon_as_it_is_loaded_did_not_start() -> None:
    async def load() -> bytes:
        return b"function"

    process: Any = Hasty
    spec = WorkerSpec("m", "1", InputType.DOUBLES)
    replica = Replica(spec, ManualClock(), make_process=process)
    with pytest.raises(ReplicaFailed, match="something else than an answer"):
        await replica.start(load)
    assert replica.state is ReplicaState.FAILED
