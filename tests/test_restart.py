"""A start after `kill -9`: the first application is right again soon, however much the log
holds, and what was learned is bit by bit what an offline fold gives."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from fakes import ManualClock
from polling import eventually
from served import ServeProcess

from clipper import Server
from clipper.config import LearningSettings, make_settings
from clipper.learning import events
from clipper.learning.service import Learning
from clipper.records import State
from clipper.store.base import Entry
from clipper.store.sqlite import SQLiteStore

pytestmark = pytest.mark.fault("S1")

logger = logging.getLogger(__name__)

APPLICATIONS = 10
GROUP = 1_000  # entries of one append
POLICIES = ("exp3", "hedge", "thompson", "ucb1", "static")


def total(rows: Any) -> Any:
    import numpy as np

    return np.asarray([float(row.sum()) for row in rows])


async def prepare(data: Path) -> None:
    settings = make_settings({"data_dir": str(data)})
    async with Server(settings=settings) as server:
        for name in ("first", "second"):
            await server.deploy(name, 1, total, input_type="doubles")
        for n in range(APPLICATIONS):
            await server.register_application(
                f"app{n}", models=["first", "second"], input_type="doubles",
                policy=POLICIES[n % len(POLICIES)], slo_micros=2_000_000,
                default_output="-1",
            )  # fmt: skip


def learning_of(store: SQLiteStore) -> Learning:
    loop = asyncio.get_running_loop()
    return Learning(
        store,
        ManualClock(),
        LearningSettings(),
        call_soon=loop.call_soon,
        call_later=loop.call_later,
        spawn=asyncio.ensure_future,
    )


async def add(store: SQLiteStore, state: State, start: int, stop: int) -> None:
    """Feedback for all applications by turns."""
    numbers = [state.applications[f"app{n}"].number for n in range(APPLICATIONS)]
    arms = tuple(f"{r.key}#{r.generation}" for r in state.models.values())
    for begin in range(start, stop, GROUP):
        entries = []
        for n in range(begin, min(begin + GROUP, stop)):
            arm, loss = arms[n % 2], float(n * 2654435761 % 7 > 3)
            event = events.Feedback(
                arms=arms, losses={arm: loss}, chosen=(arm,), propensity=0.5, loss=loss
            )
            body = events.encode(event)
            entries.append(Entry(numbers[n % APPLICATIONS], f"{n:x}.0", None, 1.7e9, body))
        told = asyncio.get_running_loop().create_future()
        store.append(entries, [], lambda _, error, told=told: told.set_result(error))
        assert await told is None


async def fill(data: Path, entries: int, unsaved: int) -> dict[str, bytes]:
    """A log as a kill leaves it: so many entries, so many of them in no snapshot. What was
    learned, by application."""
    whole = data.with_name("whole")
    await prepare(whole)
    store = SQLiteStore(whole)
    state = await store.open()
    await add(store, state, 0, entries - unsaved)
    learning = learning_of(store)
    for record in state.applications.values():
        await learning.restore(record)
    await learning.snapshots.keep_all()
    await add(store, state, entries - unsaved, entries)
    await asyncio.to_thread(shutil.copytree, whole, data)
    await store.close()
    fold = SQLiteStore(whole)
    await fold.open()
    learned = learning_of(fold)
    for record in state.applications.values():
        await learned.restore(record)
    await fold.close()
    return {
        name: learned.learners[record.number].population.pack()
        for name, record in state.applications.items()
    }


async def until_right(server: ServeProcess) -> float:
    """Start, and the seconds until the first application answers by its model."""
    begun = time.monotonic()
    server.start()
    async with await server.client() as client:

        async def right() -> bool:
            return not (await client.predict("app0", [1.0, 2.0])).default

        await eventually(right)
        return time.monotonic() - begun


async def restart(tmp_path: Path, entries: int, unsaved: int, starts: int) -> float:
    """The shortest of some starts, each after a kill, in seconds."""
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    learned = await fill(server.data, entries, unsaved)
    seconds = []
    try:
        for _ in range(starts):
            seconds.append(await until_right(server))
            server.kill()
            await server.no_workers()
    finally:
        server.kill()
    logger.info(
        "%d entries: right after %s seconds", entries, [f"{s:.3f}" for s in seconds]
    )
    store = SQLiteStore(server.data)
    state = await store.open()
    learning = learning_of(store)
    for name, record in state.applications.items():
        assert len(await store.entries(record.number, 0, entries)) == entries / APPLICATIONS
        await learning.restore(record)
        assert learning.learners[record.number].population.pack() == learned[name]
    await store.verify()
    await store.close()
    return min(seconds)


async def test_everything_is_right_again_after_a_kill(tmp_path: Path) -> None:
    assert await restart(tmp_path, 20_000, 10_000, 1) < 30


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_million_entries_cost_a_start_no_second(tmp_path: Path) -> None:
    assert await restart(tmp_path, 1_000_000, 10_000, 5) < 1.0
