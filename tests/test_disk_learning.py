"""The disk fails or is full while a server learns: predictions go on, feedback is refused
with a clear answer, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import pytest
from learner_client import Connection, connected
from learner_fold import Auditor
from learner_ledger import Ledger, make_model
from served import ServeProcess

from clipper.client import AsyncClipper
from clipper.errors import DiskFull
from clipper.store.sqlite import SQLiteStore

APP = "exp3"
MOST = 2000  # pieces of feedback until the fault must have been met


async def deploy(client: AsyncClipper, version: int) -> None:
    await client.deploy_predict_function("good", version, make_model("good"), "doubles")


async def prepare(client: AsyncClipper) -> None:
    await deploy(client, 1)
    await client.register_application(
        APP, None, "doubles", "-1", 5_000_000, models=["good"], policy="exp3"
    )


async def ask_and_tell(connection: Connection) -> bool:
    """A query, answered by the model, and feedback on it. Whether that was taken."""
    await connection.ask(APP)
    ledger = connection.ledger
    asked = ledger.take_open()
    assert not asked.default
    return await connection.give(ledger.say(asked))


async def until_refused(connection: Connection, status: int, code: str) -> None:
    """Give feedback until the disk refuses it, and see that predictions go on."""
    for _ in range(MOST):
        if not await ask_and_tell(connection):
            break
    for _ in range(20):
        await ask_and_tell(connection)
    assert connection.answers == {(200, None), (status, code)}


async def audit(ledger: Ledger, data: Path) -> None:
    assert len(ledger.acknowledged) > 20
    await Auditor(ledger).check(SQLiteStore(data))


@pytest.mark.fault("D2")
async def test_a_failed_write_refuses_feedback_until_the_next_start(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    ledger = Ledger(random.Random(1))
    ledger.excused.add("store_error")
    try:
        server.start()
        async with await server.client() as client:
            await prepare(client)
            async with connected(client, ledger) as connection:
                for _ in range(20):
                    assert await ask_and_tell(connection)
                size = (server.data / "clipper.db-wal").stat().st_size
                _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
                limits = (size + 10_000, most)
                resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
                await until_refused(connection, 503, "store_error")
        server.kill()
        server.start()
        async with (
            await server.client() as client,
            connected(client, ledger) as connection,
        ):
            await connection.settle(100)
    finally:
        server.kill()
    await audit(ledger, server.data)


@pytest.mark.fault("D1")
async def test_a_full_disk_refuses_changes_until_there_is_room(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("a file system of one's own is not allowed here")
    (tmp_path / "data").mkdir()
    mount = f'mount -t tmpfs -o size=1m none {tmp_path}/data && exec "$@"'
    before = ("unshare", "-rm", "sh", "-c", mount, "sh")
    server = ServeProcess(tmp_path, uuid.uuid4().hex, before=before)
    ledger = Ledger(random.Random(2))
    ledger.excused.add("disk_full")
    try:
        server.start()
        data = Path(f"/proc/{server.process.pid}/root{server.data}")
        async with await server.client(data) as client:
            await prepare(client)
            async with connected(client, ledger) as connection:
                for _ in range(20):
                    assert await ask_and_tell(connection)
                fill(data / "filler")
                await until_refused(connection, 507, "disk_full")
                for change in (deploy(client, 2), client.set_policy(APP, "ucb1")):
                    with pytest.raises(DiskFull):
                        await change
                for _ in range(20):
                    await ask_and_tell(connection)
                (data / "filler").unlink()
                await deploy(client, 3)
                await connection.settle(100)
                assert await ask_and_tell(connection)
        os.kill(server.process.pid, signal.SIGSTOP)  # as the kill will leave it
        shutil.copytree(data, tmp_path / "copy")
    finally:
        server.kill()
    await audit(ledger, tmp_path / "copy")


def may_mount() -> bool:
    """Whether a process may have mounts of its own: Linux, mostly."""
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode


def fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space"), path.open("wb", 0) as filler:
        while True:
            filler.write(bytes(4096))
