"""kill -9 of the server at random moments during deploys and registrations.

What was acknowledged is there after the restart, what was deleted with acknowledgement is
not, the directory always opens, and no worker outlives its server.
"""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from pathlib import Path

import pytest
from served import ServeProcess

from clipper.client import AsyncClipper
from clipper.errors import ClipperError

# How many versions stay deployed: each is a process to bring back after every kill.
KEPT = 3


class Ledger:
    """What the server acknowledged. Operations that were cut off are in doubt: both
    outcomes are right."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.acknowledged = 0

    def added(self, name: str) -> None:
        self.there.add(name)
        self.acknowledged += 1

    def removing(self, name: str) -> None:
        self.there.discard(name)

    def removed(self, name: str) -> None:
        self.gone.add(name)
        self.acknowledged += 1


def increment(rows: object) -> list[float]:
    return [float(row[0]) + 1 for row in rows]  # type: ignore[attr-defined]


async def change_applications(
    client: AsyncClipper, ledger: Ledger, rng: random.Random
) -> None:
    """Register and delete until the server is gone."""
    while True:
        name = f"a{rng.randrange(10**9)}"
        await client.register_application(name, "inc", "doubles", "-1", 5_000_000)
        ledger.added(name)
        applications = sorted(name for name in ledger.there if ":" not in name)
        # the number wanders, and stays far below what a server allows
        if len(applications) > KEPT and rng.random() < 0.9 + len(applications) / 1000:
            victim = rng.choice(applications)
            ledger.removing(victim)
            await client.unregister_application(victim)
            ledger.removed(victim)


async def change_models(client: AsyncClipper, ledger: Ledger, rng: random.Random) -> None:
    """Deploy and undeploy until the server is gone."""
    while True:
        version = f"v{rng.randrange(10**9)}"
        await client.deploy_predict_function("inc", version, increment, "doubles")
        ledger.added(f"inc:{version}")
        models = sorted(name for name in ledger.there if ":" in name)
        if len(models) > KEPT:
            victim = rng.choice(models)
            ledger.removing(victim)
            await client.undeploy("inc", victim.partition(":")[2])
            ledger.removed(victim)


async def check(client: AsyncClipper, ledger: Ledger) -> None:
    """Everything acknowledged is there, and a current version answers."""
    found = {*await client.get_all_apps(), *await client.get_all_models()}
    assert ledger.there <= found, ledger.there - found
    assert not ledger.gone & found, ledger.gone & found
    applications = sorted(name for name in ledger.there if ":" not in name)
    models = await client.get_all_models(verbose=True)
    if applications and any(model["is_current_version"] for model in models):
        prediction = await client.predict(applications[0], [41.0])
        assert (prediction.output, prediction.default) == (42.0, False)


async def loop(server: ServeProcess, kills: int, rng: random.Random) -> Ledger:
    ledger = Ledger()
    for _ in range(kills):
        server.start()
        async with await server.client() as client:
            await check(client, ledger)
            changes = [
                asyncio.ensure_future(change_applications(client, ledger, rng)),
                asyncio.ensure_future(change_models(client, ledger, rng)),
            ]
            done, _ = await asyncio.wait(changes, timeout=rng.uniform(0.0, 1.0))
            assert not done, done
            server.kill()
            # what was answered before the kill counts; the rest ends in an error
            await asyncio.wait(changes, timeout=60)
            for change in changes:
                assert isinstance(change.exception(), ClipperError)
        await server.no_workers()
    server.start()
    async with await server.client() as client:
        await check(client, ledger)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0, server.log.read_text()
    return ledger


async def kill_often(tmp_path: Path, kills: int, seed: int) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    try:
        ledger = await loop(server, kills, random.Random(seed))
    finally:
        server.kill()
    assert ledger.acknowledged > kills


@pytest.mark.fault("S1")
async def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    await kill_often(tmp_path, 4, seed=1)


@pytest.mark.fault("S1")
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    await kill_often(tmp_path, 200, seed=random.randrange(2**32))
