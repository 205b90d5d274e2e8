"""What a model can do to its worker: die, hang, break the protocol, leave children."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polling import block_until, eventually

from clipper.inputs import InputType
from clipper.values import BatchFailure, FailureKind
from clipper.workers import process
from clipper.workers.spec import Patience, ReplicaState

from .conftest import StartWorker, Worker, is_running

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=[True, False], ids=["pidfd", "polling"])
def pidfd(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """With the kernel's help and without."""
    monkeypatch.setattr(process, "USE_PIDFD", request.param and process.USE_PIDFD)
    yield


def sleep_or_echo(xs: Any) -> Any:
    import time

    if xs[0] == "sleep":
        print("asleep")  # noqa: T201
        time.sleep(1000)
    return xs


async def fall_asleep(worker: Worker) -> tuple[Any, Any]:
    """Two batches in flight, the first running for ever."""
    first, second = worker.send("sleep"), worker.send("quick")
    await eventually(lambda: "asleep" in worker.replica.output())
    return first, second


async def check_died(worker: Worker, first: Any, second: Any) -> BatchFailure:
    """The first batch is blamed, the second is not, and the process is gone."""
    async with asyncio.timeout(60):
        failure, returned = await first, await second
        await worker.replica.wait_gone()
    assert isinstance(failure, BatchFailure)
    assert isinstance(returned, BatchFailure)
    assert returned.kind is FailureKind.RETURNED
    assert worker.replica.state is ReplicaState.FAILED
    assert not worker.replica.room
    assert not is_running(worker.replica.pid or 0)
    return failure


@pytest.mark.fault("W1")
@pytest.mark.usefixtures("pidfd")
async def test_kill_in_the_middle_of_a_batch(start_worker: StartWorker) -> None:
    ends: list[Any] = []
    worker = await start_worker(sleep_or_echo, InputType.STRINGS, on_end=ends.append)
    first, second = await fall_asleep(worker)
    os.kill(worker.replica.pid or 0, signal.SIGKILL)
    failure = await check_died(worker, first, second)
    assert failure.kind is FailureKind.CRASHED
    assert "asleep" in failure.detail
    await worker.replica.wait_gone()  # which adds nothing the second time
    assert worker.replica.reason == (
        "the model's worker process died "
        "(killed by SIGKILL, by somebody or by the system for want of memory)"
    )
    assert ends == [worker.replica]


async def test_death_while_idle(start_worker: StartWorker) -> None:
    ends: list[Any] = []
    worker = await start_worker(sleep_or_echo, InputType.STRINGS, on_end=ends.append)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    os.kill(worker.replica.pid or 0, signal.SIGKILL)
    await eventually(lambda: ends)
    assert loop.time() - begin < 0.5
    assert not worker.replica.room


def die(xs: Any) -> Any:
    import ctypes
    import os

    os.write(2, b"dying\n")
    match xs[0]:
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "close":
            os.closerange(3, 100)
    return xs


@pytest.mark.fault("W3")
@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        ("exit", "exited with status 3", "dying"),
        ("segfault", "killed by SIGSEGV", "Segmentation fault"),
        ("abort", "killed by SIGABRT", "Aborted"),
        ("close", "exited with status 1", "dying"),
    ],
)
async def test_ways_to_die(
    start_worker: StartWorker, how: str, status: str, told: str
) -> None:
    worker = await start_worker(die, InputType.STRINGS)
    failure = await check_died(worker, worker.send(how), worker.send("other"))
    assert failure.kind is FailureKind.CRASHED
    assert failure.cause == "the model's worker process died"
    assert told in failure.detail
    assert status in worker.replica.reason


def misuse_the_socket(xs: Any) -> Any:
    """Write to the descriptor that only the protocol should use."""
    import os
    import stat

    from clipper.workers import wire

    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
    sockets = []
    for fd in fds:
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                sockets.append(fd)
        except OSError:
            pass  # the one that listed the directory
    answer = b"".join(wire.encode(wire.Answer(0, 1), [wire.encode_outputs([b"666"])]))
    message = {
        "junk": b"\x00" * 100,
        "text": b"hello",
        "twice": answer + answer,
        "old": answer,
        "rows": b"".join(wire.encode(wire.Answer(1, 1), [wire.encode_outputs([])])),
        "outputs": b"".join(wire.encode(wire.Answer(1, 1), [b"\xdd\xff\xff\xff\xff"])),
        "hello": b"".join(wire.encode(wire.Hello(1, "", {}))),
        "failure": b"".join(wire.encode(wire.Failed(1, "crashed", "", ""))),
        "truncated": answer[:-3],
        "huge": b"cl\xf1" + b"\x04" + b"\xff" * 12,
        "another": b"".join(wire.encode(wire.Answer(77, 1), [wire.encode_outputs([b"1"])])),
    }.get(str(xs[0]), b"")
    for fd in sockets:
        os.write(fd, message)
    return xs


@pytest.mark.fault("W8")
@pytest.mark.parametrize(
    "word",
    [
        "junk",
        "text",
        "old",
        "another",
        "rows",
        "outputs",
        "hello",
        "failure",
        "truncated",
        "huge",
    ],
)
async def test_a_worker_that_breaks_the_protocol_is_killed(
    start_worker: StartWorker, word: str
) -> None:
    worker = await start_worker(misuse_the_socket, InputType.STRINGS)
    assert await worker.call("fine") == [b'"fine"']  # batch 0
    failure = await check_died(worker, worker.send(word), worker.send("other"))
    assert failure.kind is FailureKind.CRASHED
    assert "with something else than an answer" in failure.cause


@pytest.mark.fault("W8")
async def test_a_worker_that_answers_twice_is_killed(start_worker: StartWorker) -> None:
    worker = await start_worker(misuse_the_socket, InputType.STRINGS)
    # Its own answer comes first and is taken; there is nothing to know it by.
    assert await worker.call("twice") == [b"666"]
    await eventually(lambda: worker.replica.state is ReplicaState.FAILED)


QUICK = Patience(hang_floor=0.4, hang_ceiling=0.5)


def hang(xs: Any) -> Any:
    import re
    import time

    match xs[0]:
        case "sleep":
            time.sleep(1000)
        case "loop":
            while True:
                pass
        case "native":
            re.match(r"(a|a)*b", "a" * 60)  # holds the interpreter for ages
    return xs


@pytest.mark.fault("W2")
@pytest.mark.usefixtures("pidfd")
@pytest.mark.parametrize("how", ["sleep", "loop", "native"])
async def test_a_hang_is_ended_with_its_stack(start_worker: StartWorker, how: str) -> None:
    worker = await start_worker(hang, InputType.STRINGS, patience=QUICK)
    assert await worker.call("fine") == [b'"fine"']
    loop = asyncio.get_running_loop()
    begin = loop.time()
    failure = await check_died(worker, worker.send(how), worker.send("other"))
    assert loop.time() - begin > 0.4
    assert failure.kind is FailureKind.HUNG
    assert "in hang" in failure.detail  # the stack names the function
    assert worker.replica.reason.startswith("a batch ran for ")


@pytest.mark.fault("W12")
async def test_a_stopped_process_counts_as_hung(start_worker: StartWorker) -> None:
    worker = await start_worker(hang, InputType.STRINGS, patience=QUICK)
    os.kill(worker.replica.pid or 0, signal.SIGSTOP)
    failure = await check_died(worker, worker.send("a"), worker.send("b"))
    assert failure.kind is FailureKind.HUNG


@pytest.mark.fault("W2")
async def test_a_hang_after_the_example_is_seen_as_soon(start_worker: StartWorker) -> None:
    """The example and larger batches may take longer; what comes then may not."""
    slow_to_load = Patience(load=300.0, hang_floor=0.4, hang_ceiling=0.5)
    worker = await start_worker(
        hang, InputType.STRINGS, patience=slow_to_load, example="fine"
    )
    async with asyncio.timeout(60):
        failure = await worker.send("sleep")
    assert isinstance(failure, BatchFailure) and failure.kind is FailureKind.HUNG


async def test_a_stall_of_our_own_kills_nobody(start_worker: StartWorker) -> None:
    import time

    worker = await start_worker(hang, InputType.STRINGS, patience=QUICK)
    finished = worker.send("fine")
    await asyncio.sleep(0)  # the frame is out
    time.sleep(0.6)  # noqa: ASYNC251 (longer than the longest a batch may take)
    assert await finished == [b'"fine"']
    assert await worker.call("again") == [b'"again"']


async def test_a_stopped_process_can_be_stopped(start_worker: StartWorker) -> None:
    worker = await start_worker(hang, InputType.STRINGS)
    os.kill(worker.replica.pid or 0, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await worker.replica.stop(0)


def have_children(xs: Any) -> Any:
    """Processes in our group, in one of their own, forked, and deaf to SIGTERM."""
    import multiprocessing
    import os
    import subprocess
    import sys
    import time

    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
    )
    command = [sys.executable, "-c", code]
    same = subprocess.Popen(command)
    away = subprocess.Popen(command, start_new_session=True)
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(99,))
    forked.start()
    if not (pid := os.fork()):
        return ["a second answer"]
    return [[same.pid, away.pid, forked.pid, pid]]


@pytest.mark.fault("W10")
@pytest.mark.usefixtures("pidfd")
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_grandchildren_go_with_the_worker(
    start_worker: StartWorker, end: str
) -> None:
    import json

    worker = await start_worker(have_children, InputType.STRINGS)
    answer = await worker.call("go")
    assert isinstance(answer, list) and isinstance(answer[0], bytes)
    same, away, forked, twin = json.loads(answer[0])
    await eventually(lambda: not is_running(twin))  # it cannot answer and gives up
    assert worker.replica.state is ReplicaState.READY
    if end == "stop":
        await worker.replica.stop(1)
        await eventually(lambda: not is_running(away))
    else:
        os.kill(worker.replica.pid or 0, signal.SIGKILL)
        await eventually(lambda: worker.replica.state is ReplicaState.FAILED)
        await worker.replica.wait_gone()
        os.kill(away, signal.SIGKILL)  # nobody else can find it any more
    await eventually(lambda: not is_running(same) and not is_running(forked))


PARENT = Path(__file__).with_name("parent.py")


@pytest.mark.fault("W13")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("busy", ["idle", "busy"])
@pytest.mark.parametrize("kernel", ["1", "0"], ids=["signal", "watch"])
def test_a_killed_server_leaves_no_workers(loop: str, busy: str, kernel: str) -> None:
    import subprocess

    with subprocess.Popen(
        [sys.executable, str(PARENT), loop, busy, kernel], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        worker, grandchild = map(int, server.stdout.readline().split())
        assert is_running(worker)
        assert is_running(grandchild)
        server.kill()
    block_until(lambda: not any(map(is_running, (worker, grandchild))), 10.0)


async def test_an_owner_whose_callback_raises_costs_no_batch(
    start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(replica: Any) -> None:
        raise ValueError("not my day")

    worker = await start_worker(sleep_or_echo, InputType.STRINGS, on_end=fail)
    first, second = await fall_asleep(worker)
    os.kill(worker.replica.pid or 0, signal.SIGKILL)
    await check_died(worker, first, second)
    assert "not my day" in caplog.text
