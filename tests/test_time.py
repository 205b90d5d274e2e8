"""The wall clock jumps, the server stands still, the machine is too busy: what was asked is
answered, and afterwards all is as before."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from learner_client import Connection, connected
from learner_fold import Auditor
from learner_ledger import Ledger, Said, make_model
from polling import eventually
from served import ServeProcess

from clipper.client import AsyncClipper
from clipper.errors import ClipperError
from clipper.store.sqlite import SQLiteStore

APP = "exp3"

FAKETIME = next(
    (path for path in Path("/usr/lib").glob("**/faketime/libfaketime.so.1")), None
)

SETTINGS = "[learning]\nsnapshot_entries = 5\n"


async def prepare(client: AsyncClipper) -> None:
    await client.deploy_predict_function("good", 1, make_model("good"), "doubles")
    await client.register_application(
        APP, None, "doubles", "-1", 5_000_000, models=["good"], policy="exp3"
    )


async def ask(connection: Connection) -> Said:
    """A query, answered by the model, and what is to be said of it."""
    await connection.ask(APP)
    asked = connection.ledger.take_open()
    assert not asked.default
    return connection.ledger.say(asked)


# -- the wall clock ----------------------------------------------------------------------

JUMPS = ("+1h", "-1h", "+1y", "-1y", "+12h", "+0")


@pytest.mark.fault("T1")
@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime")
async def test_jumps_of_the_wall_clock_change_nothing(tmp_path: Path) -> None:
    offset, config = tmp_path / "offset", tmp_path / "clipper.toml"
    config.write_text(SETTINGS)
    offset.write_text("+0")
    faked = (
        "env",
        f"LD_PRELOAD={FAKETIME}",
        f"FAKETIME_TIMESTAMP_FILE={offset}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "DONT_FAKE_MONOTONIC=1",
    )
    server = ServeProcess(tmp_path, uuid.uuid4().hex, "--config", str(config), before=faked)
    ledger = Ledger(random.Random(3))
    try:
        server.start()
        async with (
            await server.client() as client,
            connected(client, ledger) as connection,
        ):
            await prepare(client)
            workers = server.workers()
            for jump in JUMPS:
                early = [await ask(connection) for _ in range(3)]
                offset.write_text("-5")
                for said in early:
                    assert await connection.give(said)
                offset.write_text(jump)
                for _ in range(30):
                    assert await connection.give(await ask(connection))
                await connection.settle(10)
                offset.write_text("+0")
            assert connection.answers == {(200, None)}
            assert await client.get_state(APP)
            assert server.workers() == workers
    finally:
        server.kill()
    assert len(ledger.acknowledged) == len(JUMPS) * 33
    await Auditor(ledger).check(SQLiteStore(server.data))


# -- the server stands still -------------------------------------------------------------


def answer_slowly(rows: Any) -> list[int]:
    import time

    time.sleep(0.02)
    return [7 for _ in rows]


class Load:
    """Clients that ask one after the other; how each answer was, and when it came."""

    def __init__(self, client: AsyncClipper) -> None:
        self._client = client
        self.answers: list[tuple[float, bool]] = []  # when, and whether by the model
        self.errors: list[ClipperError] = []
        self._on = True

    async def run(self, number: int) -> None:
        while self._on:
            try:
                answer = await self._client.predict("app", [float(number)])
            except ClipperError as error:
                self.errors.append(error)
                await asyncio.sleep(0.05)
            else:
                assert answer.output == (7 if not answer.default else -1)
                self.answers.append((time.monotonic(), not answer.default))

    def end(self) -> None:
        self._on = False

    async def good_again(self, since: float, count: int) -> float:
        """Seconds from `since` until the first of so many answers in a row by the model."""

        def good() -> bool:
            last = self.answers[-count:]
            return len(last) == count and last[0][0] > since and all(g for _, g in last)

        await eventually(good, 30.0)
        row = since
        for when, good in self.answers:
            if when > since:
                row = when if not good else row
        return row - since


@asynccontextmanager
async def under_load(server: ServeProcess) -> AsyncIterator[tuple[AsyncClipper, Load]]:
    server.start()
    try:
        async with await server.client() as client:
            await client.deploy_predict_function(
                "slow", 1, answer_slowly, "doubles", num_replicas=2
            )
            await client.register_application(
                "app", "slow", "doubles", "-1", 300_000, cache=False
            )
            load = Load(client)
            tasks = [asyncio.create_task(load.run(n)) for n in range(6)]
            await load.good_again(time.monotonic(), 50)
            yield client, load
            load.end()
            await asyncio.gather(*tasks)
    finally:
        server.kill()


@pytest.mark.fault("T2")
async def test_a_server_that_stood_still_goes_on(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    async with under_load(server) as (_, load):
        workers = server.workers()
        os.kill(server.process.pid, signal.SIGSTOP)
        await asyncio.sleep(5.0)
        os.kill(server.process.pid, signal.SIGCONT)
        assert await load.good_again(time.monotonic(), 50) < 1.0
        assert server.workers() == workers  # nobody was taken for hung
        assert server.process.poll() is None
    assert not load.errors


@pytest.mark.fault("T3")
@pytest.mark.skipif(shutil.which("stress-ng") is None, reason="needs stress-ng")
async def test_a_machine_that_is_too_busy_is_got_over(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    async with under_load(server) as (client, load):
        workers = server.workers()
        many = str(2 * (os.cpu_count() or 1))
        command = ["stress-ng", "--quiet", "--cpu", many, "--timeout", "3s"]
        with subprocess.Popen(command) as stress:  # noqa: ASYNC220
            while stress.poll() is None:
                before = len(load.answers)
                assert await client.status()
                await asyncio.sleep(0.1)
                assert stress.poll() is not None or len(load.answers) >= before
        assert await load.good_again(time.monotonic(), 50) < 5.0
        assert server.workers() == workers
    assert not load.errors
