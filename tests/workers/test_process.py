"""One worker process: how it starts, what it imports, how it ends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polling import eventually

from clipper.inputs import InputType
from clipper.workers import process
from clipper.workers.leash import HAVE_LEASH, Leash
from clipper.workers.process import WorkerProcess, _descendants, describe_exit

from .conftest import StartWorker, descriptors, is_running

pytestmark = pytest.mark.usefixtures("no_leaks")


class Listener(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


@pytest.fixture(params=[True, False], ids=["pidfd", "polling"])
def pidfd(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(process, "USE_PIDFD", request.param and process.USE_PIDFD)
    yield


@pytest.mark.usefixtures("pidfd")
async def test_says_hello_and_stops() -> None:
    worker, listener = WorkerProcess({}), Listener()
    transport = await worker.connect(listener)
    await eventually(lambda: listener.data)
    assert listener.data.startswith(b"cl\xf1\x01")
    assert "running" in repr(worker)
    await worker.stop(5)
    assert worker.returncode == -15
    await listener.lost.wait()
    transport.close()
    await worker.stop(5)
    worker.kill()


@pytest.mark.usefixtures("pidfd")
async def test_ends_when_the_socket_closes() -> None:
    worker = WorkerProcess({})
    transport = await worker.connect(Listener())
    transport.abort()
    if worker._pidfd < 0:
        worker._await_exit()
    async with asyncio.timeout(60):
        await worker.exited.wait()
    assert worker.returncode == -9  # it killed its own group


async def test_a_spawn_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="nowhere"):
        WorkerProcess({})
    assert descriptors() == before


async def test_spawning_blocks_the_loop_briefly() -> None:
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        worker = WorkerProcess({})
        took.append(time.perf_counter() - begin)
        transport = await worker.connect(Listener())
        worker.kill()
        await worker.exited.wait()
        transport.abort()
    assert min(took) < 0.1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "running"),
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "killed by SIGKILL"),
        (-77, "killed by signal 77"),
    ],
)
async def test_exit_status_in_words(code: int | None, words: str) -> None:
    assert describe_exit(code) == words


async def test_the_worker_imports_no_server(start_worker: StartWorker) -> None:
    def imported(xs: Any) -> Any:
        import sys

        return [x in sys.modules for x in xs]

    worker = await start_worker(imported, InputType.STRINGS)
    heavy = ["aiohttp", "uvloop", "httptools", "prometheus_client", "click", "asyncio"]
    heavy += ["clipper.client", "clipper.engine", "clipper.workers.process", "sqlite3"]
    assert await worker.call(*heavy) == [b"false"] * len(heavy)


async def test_settings_of_the_process(start_worker: StartWorker) -> None:
    def look(xs: Any) -> Any:
        import os
        import resource
        import threading

        mask = os.umask(0)
        os.umask(mask)
        with open("/proc/self/oom_score_adj") as file:
            adjusted = int(file.read())
        return [
            {
                "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
                "mask": mask,
                "oom": adjusted,
                "leader": os.getpid() == os.getpgrp() == os.getsid(0),
                "main": threading.current_thread() is threading.main_thread(),
                "cwd": os.getcwd(),
            }
        ]

    worker = await start_worker(look)
    answer = await worker.call([1.0])
    assert isinstance(answer, list)
    assert json.loads(answer[0]) == {  # type: ignore[arg-type]
        "core": 0,
        "mask": 0o077,
        "oom": 500,
        "leader": True,
        "main": True,
        "cwd": os.getcwd(),
    }


async def test_the_working_directory_shadows_nothing(
    start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(xs: Any) -> Any:
        import found_beside_the_server  # type: ignore[import-not-found]

        return [found_beside_the_server.ANSWER]

    for name in ("numpy", "msgspec", "clipper", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "found_beside_the_server.py").write_text("ANSWER = 42")
    monkeypatch.chdir(tmp_path)
    worker = await start_worker(use)
    assert await worker.call([1.0]) == [b"42"]


def test_a_worker_whose_parent_is_gone_leaves() -> None:
    """Started by nobody we know: it ends before it imports anything heavy."""
    done = subprocess.run(
        [sys.executable, "-m", "clipper.workers.child", "0", "1", "1", "0"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        timeout=60,
    )
    assert done.returncode == -9


async def test_an_idle_worker_uses_no_processor(start_worker: StartWorker) -> None:
    worker = await start_worker(lambda xs: xs)
    await worker.call([1.0])

    def ticks() -> int:
        with open(f"/proc/{worker.replica.pid}/schedstat") as file:
            return int(file.read().split()[2])

    for _ in range(5):  # what came before may take it a moment longer
        before = ticks()
        await asyncio.sleep(0.2)
        if ticks() - before <= 2:  # it was scheduled almost never
            return
    pytest.fail("it never rests")


@pytest.mark.skipif(not HAVE_LEASH, reason="Linux alone")
async def test_a_leash_ends_a_whole_group() -> None:
    code = "import subprocess as s; s.Popen(['sleep', '99']).wait()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, start_new_session=True) as leader:  # noqa: ASYNC220
        leash, released = Leash(leader.pid), Leash(leader.pid)
        released.release()
        released.pull()
        await eventually(lambda: _descendants(leader.pid))
        (below,) = _descendants(leader.pid)
        assert is_running(leader.pid) and is_running(below)
        leash.pull()
        leash.release()
        await eventually(lambda: not is_running(below))
        assert leader.wait() == -9


async def test_a_worker_without_descriptors_for_a_leash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(group: int) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(process, "Leash", refuse)
    worker = WorkerProcess({})
    transport = await worker.connect(Listener())
    await worker.stop(5)
    assert worker.returncode == -15
    transport.abort()


@pytest.mark.usefixtures("pidfd")
async def test_the_end_is_seen_where_children_are_ignored() -> None:
    """The system then takes exit statuses itself; a parent may leave us so."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        worker = WorkerProcess({})
        transport = await worker.connect(Listener())
        worker.kill()
        async with asyncio.timeout(10):
            await worker.exited.wait()
        assert worker.returncode is not None
        await worker.stop(5)
        transport.abort()
    finally:
        signal.signal(signal.SIGCHLD, before)
