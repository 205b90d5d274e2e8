"""An engine over fake replicas, a store that can be held up, and who asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest
from fakes import FakeReplicaSet, ManualClock

from clipper.config import Limits, Settings
from clipper.engine import Engine
from clipper.errors import ClipperError
from clipper.inputs import encode_python
from clipper.query import Query
from clipper.records import ApplicationRecord, ModelRecord
from clipper.store.base import Change
from clipper.store.memory import MemoryStore
from clipper.values import Prediction

LIMITS = Limits(applications=3, models=6, replicas=4, deploys=2)


class Workers(FakeReplicaSet):
    """Answers at once with the version's name, if it starts."""

    fault: ClipperError | None = None
    gate: asyncio.Event | None = None
    stopped: ClassVar[list[Workers]]

    async def start(self, replicas: int, progress: Any = None) -> None:
        if progress is not None:
            progress("ready", {"replicas": replicas, "of": replicas})
        assert await self.load_blob() == b"function"
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        await super().start(replicas)

    def __init__(
        self, spec: Any, load_blob: Callable[[], Awaitable[bytes]], **more: Any
    ) -> None:
        super().__init__(spec, load_blob, **more)
        self.load_blob = load_blob

    async def stop(self, drain_seconds: float) -> None:
        await super().stop(drain_seconds)
        self.stopped.append(self)

    @property
    def ready(self) -> Any:
        """Asked for before every batch, which is answered on the next turn."""
        asyncio.get_running_loop().call_soon(self.answer)
        return super().ready

    def answer(self) -> None:
        while self.replica.batches and self.answering:
            self.replica.answer(lambda row: f'"{self.spec.version}"'.encode())

    answering = True


class Disk(MemoryStore):
    """A store whose commits can be held up or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.fault: ClipperError | None = None
        self.commits = 0

    async def commit(self, *changes: Change) -> None:
        self.commits += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        await super().commit(*changes)

    @property
    def blobs(self) -> set[str]:
        return set(self._blobs)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[Workers]:
    class Fresh(Workers):
        stopped: ClassVar[list[Workers]] = []

    monkeypatch.setattr("clipper.model.ReplicaSet", Fresh)
    return Fresh


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def engine(disk: Disk, workers: type[Workers]) -> AsyncIterator[Engine]:
    engine = Engine(Settings(limits=LIMITS, drain_seconds=0.2), disk, ManualClock())
    await engine.start()
    yield engine
    disk.gate = disk.fault = None
    await engine.drain(0.2)
    await engine.close()
    assert not engine._tasks.running and not engine.deploys


def app(name: str = "app", *models: str, **fields: Any) -> ApplicationRecord:
    fields = {"input_type": "doubles", "slo_micros": 3_600_000_000, **fields}
    return ApplicationRecord(name, 0, models=list(models), **fields)


def spec(name: str = "m", version: str = "1", **fields: Any) -> ModelRecord:
    fields = {"input_type": "doubles", "generation": 0, **fields}
    return ModelRecord(name=name, version=version, **fields)


async def deploy(engine: Engine, *names: str, **fields: Any) -> None:
    for name in names:
        model, _, version = name.partition(":")
        await engine.deploy(spec(model, version or "1", **fields), b"function")


def submit(engine: Engine, name: str = "app", value: Any = 1.0, **more: Any) -> Any:
    """A query, as a future of itself settled."""
    future: asyncio.Future[Query] = asyncio.get_running_loop().create_future()

    class Receiver:
        def query_settled(self, query: Query) -> None:
            future.set_result(query)

    application = engine.application(name)
    row = encode_python(application.input_type, [value])
    application.submit(row, Receiver(), **more)
    return future


async def ask(
    engine: Engine, name: str = "app", value: Any = 1.0, **more: Any
) -> Prediction:
    async with asyncio.timeout(10):
        query = await submit(engine, name, value, **more)
    return query.prediction()


async def answer(engine: Engine, name: str = "app", **more: Any) -> Any:
    return (await ask(engine, name, **more)).output


def fakes_of(engine: Engine, name: str, version: str = "1") -> Workers:
    found: Any = engine.model(name, version).replicas
    return found


async def quiet(engine: Engine) -> None:
    """Until no background task runs."""
    async with asyncio.timeout(10):
        await engine._tasks.join()
