"""A replica with a real worker: what goes in, what comes out, and in which order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import numpy as np
import pytest
from polling import eventually

from clipper.clock import SystemClock
from clipper.inputs import InputType
from clipper.values import UNIFORM, Batch, BatchFailure, FailureKind, RowError
from clipper.workers import wire
from clipper.workers.packaging import pack
from clipper.workers.process import WorkerProcess
from clipper.workers.replica import MAX_IN_FLIGHT, Replica
from clipper.workers.spec import Patience, ReplicaFailed, ReplicaState, WorkerSpec

from .conftest import StartWorker, is_running, make_batch

pytestmark = pytest.mark.usefixtures("no_leaks")


def total(xs: Any) -> Any:
    return [float(np.sum(x)) for x in xs]


def describe(xs: Any) -> Any:
    """What the function sees."""
    if isinstance(xs, np.ndarray):
        return [[xs.dtype.str, list(x.shape), x.tolist()] for x in xs]
    return [
        [x.dtype.str, list(x.shape), x.tolist()] if hasattr(x, "dtype") else repr(x)
        for x in xs
    ]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (InputType.DOUBLES, [[1.5, 2.0], [3.0, 4.0]], b'["<f8",[2],[1.5,2.0]]'),
        (InputType.FLOATS, [[0.5]], b'["<f4",[1],[0.5]]'),
        (InputType.INTS, [[1, -2], [3, 4]], b'["<i4",[2],[1,-2]]'),
        (InputType.DOUBLES, [[1.0], [2.0, 3.0]], b'["<f8",[1],[1.0]]'),
        (InputType.DOUBLES, [[], [2.0]], b'["<f8",[0],[]]'),
        (InputType.INTS, [[[1, 2], [3, 4]]], b'["<i4",[2,2],[[1,2],[3,4]]]'),
        (InputType.INTS, [[[1], [2]], [3, 4]], b'["<i4",[2,1],[[1],[2]]]'),
        (InputType.STRINGS, ["añ", ""], "\"'añ'\"".encode()),
        (InputType.BYTES, [b"\x00\xff", b""], rb'''"b'\\x00\\xff'"'''),
        (InputType.JSON, [{"a": [1, None]}, 2], b"\"{'a': [1, None]}\""),
    ],
)
async def test_function_sees_its_input(
    start_worker: StartWorker, kind: InputType, values: list[Any], expected: bytes
) -> None:
    worker = await start_worker(describe, kind, example=values[0])
    results = await worker.call(*values)
    assert isinstance(results, list)
    assert len(results) == len(values)
    assert results[0] == expected


async def test_inputs_are_writable(start_worker: StartWorker) -> None:
    def double(xs: Any) -> Any:
        xs *= 2
        return xs

    worker = await start_worker(double)
    assert await worker.call([1.0, 2.0]) == [b"[2.0,4.0]"]
    assert await worker.call([1.0], [5.0]) == [b"[2.0]", b"[10.0]"]


async def test_batches_are_answered_in_order_and_in_twos(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(total)
    for i in range(50):
        first, second = worker.send([float(i)]), worker.send([0.5], [float(-i)])
        assert worker.replica.in_flight == MAX_IN_FLIGHT
        assert not worker.replica.room
        with pytest.raises(RuntimeError, match="no room"):
            worker.send([1.0])
        assert await second == [b"0.5", str(float(-i)).encode()]
        assert first.result() == [str(float(i)).encode()]
    statistics = worker.replica.statistics()
    assert (statistics.batches, statistics.rows, statistics.in_flight) == (100, 150, 0)


async def test_seconds_leave_out_the_wait_behind_another_batch(
    start_worker: StartWorker,
) -> None:
    def slow(xs: Any) -> Any:
        import time

        time.sleep(0.05)
        return xs.sum(axis=1)

    worker = await start_worker(slow)
    batches = [make_batch(InputType.DOUBLES, [[1.0]]) for _ in range(2)]
    clock = SystemClock()
    begin = clock.now()
    for batch, _ in batches:
        worker.replica.submit(batch)
    await asyncio.gather(*(finished for _, finished in batches))
    assert all(batch.seconds > 0.045 for batch, _ in batches)
    assert sum(batch.seconds for batch, _ in batches) <= clock.now() - begin


async def test_large_batches_and_outputs(start_worker: StartWorker) -> None:
    worker = await start_worker(lambda xs: xs, InputType.BYTES)
    rows = [os.urandom(1 << 20) for _ in range(3)]
    results = await worker.call(*rows)
    assert isinstance(results, list)
    assert [len(result) for result in results] == [4 * ((1 << 20) // 3 + 1) + 2] * 3
    many = await worker.call(*[b"abc"] * 20_000)
    assert many == [b'"YWJj"'] * 20_000


@pytest.mark.fault("W9")
async def test_a_model_may_print_close_and_flood_its_streams(
    start_worker: StartWorker,
) -> None:
    def noisy(xs: Any) -> Any:
        import os
        import sys

        print("hello\x00 from the model")  # noqa: T201
        os.write(1, b"\xff\xfe" * 500_000)
        os.write(2, b"last words\n")
        if not sys.stdout.closed and xs[0][0] == 2:
            sys.stdout.close()
        return [1]

    worker = await start_worker(noisy)
    assert "hello" not in worker.replica.output()
    assert await worker.call([1.0]) == [b"1"]
    assert await worker.call([2.0]) == [b"1"]
    assert worker.replica.output().endswith("last words\n")
    failure = await worker.call([3.0])  # its own fault: it prints to a closed file
    assert isinstance(failure, BatchFailure)
    assert "closed file" in failure.detail


async def test_stdin_is_empty_and_interrupts_are_ignored(
    start_worker: StartWorker,
) -> None:
    def read(xs: Any) -> Any:
        import signal
        import sys

        signal.raise_signal(signal.SIGINT)
        return [sys.stdin.read()]

    worker = await start_worker(read)
    assert await worker.call([1.0]) == [b'""']


async def test_row_errors_do_not_cost_the_neighbours(start_worker: StartWorker) -> None:
    worker = await start_worker(lambda xs: [x[0] / x[1] for x in xs])
    with np.errstate(all="ignore"):
        results = await worker.call([1.0, 2.0], [0.0, 0.0], [1.0, 4.0])
    assert isinstance(results, list)
    assert results[0] == b"0.5"
    assert results[2] == b"0.25"
    assert isinstance(results[1], RowError)
    assert results[1].code == "invalid_output"


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda xs: [1, 2, 3], "the model returned 3 outputs for 2 inputs"),
        (lambda xs: [1], "the model returned 1 output for 2 inputs"),
        (lambda xs: None, "returned nothing"),
        (lambda xs: (x for x in iter(int, 1)), "more than 2 outputs"),
    ],
)
async def test_wrong_counts(
    start_worker: StartWorker, function: Any, sentence: str
) -> None:
    worker = await start_worker(function)
    failure = await worker.call([1.0], [2.0])
    assert isinstance(failure, BatchFailure)
    assert failure.kind is FailureKind.WRONG_COUNT
    assert sentence in failure.cause


class Awkward(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail_as_told(xs: Any) -> Any:
    import sys

    def recurse() -> Any:
        return recurse()

    match xs[0]:
        case "value":
            raise ValueError("the inside of the model")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "recursion":
            recurse()
        case "memory":
            return [bytearray(1 << 60)]
        case "awkward":
            raise Awkward
        case "generator":
            return (1 / 0 for _ in xs)
    return xs


async def test_exceptions_fail_the_batch_and_nothing_else(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(fail_as_told, InputType.STRINGS)
    pid = worker.replica.pid
    for word, told in {
        "value": "ValueError: the inside of the model",
        "exit": "SystemExit: 3",
        "interrupt": "KeyboardInterrupt",
        "recursion": "RecursionError",
        "memory": "MemoryError",
        "awkward": "Awkward",
        "generator": "ZeroDivisionError",
    }.items():
        failure = await worker.call(word)
        assert isinstance(failure, BatchFailure), word
        assert failure.kind is FailureKind.RAISED
        assert failure.cause == "the model raised an exception"
        assert told in failure.detail
        assert "session.py" not in failure.detail or word == "generator"
        assert await worker.call("fine") == [b'"fine"']
    assert worker.replica.pid == pid


async def test_stop_waits_for_what_is_in_flight(start_worker: StartWorker) -> None:
    def slow(xs: Any) -> Any:
        import time

        time.sleep(0.1)
        return xs.sum(axis=1)

    worker = await start_worker(slow)
    first, second = worker.send([1.0]), worker.send([2.0])
    stopping = asyncio.gather(worker.replica.stop(5), worker.replica.stop(5))
    await asyncio.sleep(0)
    assert worker.replica.state is ReplicaState.DRAINING
    assert not worker.replica.room
    await stopping
    assert first.result() == [b"1.0"]
    assert second.result() == [b"2.0"]
    assert worker.replica.state is ReplicaState.STOPPED
    assert not is_running(worker.replica.pid or 0)
    await worker.replica.stop(5)


async def test_stop_is_bounded(start_worker: StartWorker) -> None:
    def sleep(xs: Any) -> Any:
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("asleep")  # noqa: T201
        time.sleep(1000)

    worker = await start_worker(sleep)
    first, second = worker.send([1.0]), worker.send([2.0])
    await eventually(lambda: "asleep" in worker.replica.output())
    async with asyncio.timeout(60):
        await worker.replica.stop(0.05)
    for finished, kind in ((first, FailureKind.CRASHED), (second, FailureKind.RETURNED)):
        failure = finished.result()
        assert isinstance(failure, BatchFailure)
        assert failure.kind is kind
    assert worker.replica.state is ReplicaState.STOPPED


async def test_an_idle_replica_sets_no_timer(start_worker: StartWorker) -> None:
    worker = await start_worker(total)
    await worker.call([1.0])
    timer = worker.replica._timer
    assert timer is not None
    worker.replica._check_hang()
    timer.cancel()
    assert worker.replica._timer is None


async def test_the_example_runs_before_it_is_ready(start_worker: StartWorker) -> None:
    def picky(xs: Any) -> Any:
        if xs[0].sum() > 10:
            raise ValueError("too much")
        print("example", xs.tolist())  # noqa: T201
        return [1]

    worker = await start_worker(picky, example=[1.0, 2.0])
    assert "example [[1.0, 2.0]]" in worker.replica.output()
    assert worker.replica.statistics().batches == 0
    with pytest.raises(ReplicaFailed, match="on the example, the model raised") as caught:
        await start_worker(picky, example=[100.0])
    assert "ValueError: too much" in caught.value.detail
    with pytest.raises(ReplicaFailed, match=r"on the example, .* NaN"):
        await start_worker(lambda xs: xs * float("nan"), example=[100.0])
    with pytest.raises(
        ReplicaFailed, match=r"worker process died \(exited with status 7\)"
    ):
        await start_worker(lambda xs: __import__("os")._exit(7), example=[1.0])


async def test_start_tells_what_is_wrong(start_worker: StartWorker) -> None:
    with pytest.raises(ReplicaFailed, match="not a packaged function"):
        await start_worker(b"junk")
    with pytest.raises(ReplicaFailed, match="could not be loaded: "):
        await start_worker(b"\x80\x05junk")


async def test_a_worker_may_speak_before_the_loop_has_come_round(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that starts many workers is late to see that one is connected."""
    connect, told, spoken = WorkerProcess.connect, Replica.told, asyncio.Event()

    def tell(self: Replica, message: wire.Message) -> None:
        spoken.set()
        told(self, message)

    async def connect_late(self: WorkerProcess, protocol: Any) -> asyncio.Transport:
        transport = await connect(self, protocol)
        await spoken.wait()
        return transport

    monkeypatch.setattr(Replica, "told", tell)
    monkeypatch.setattr(WorkerProcess, "connect", connect_late)
    worker = await start_worker(total)
    assert await worker.call([1.0, 2.0]) == [b"3.0"]


async def test_a_cancelled_start_leaves_nothing() -> None:
    spec = WorkerSpec("model", "1", InputType.DOUBLES)
    blob = pack(total).blob

    async def load() -> bytes:
        return blob

    for steps in (0, 1, 2, 5):
        replica = Replica(spec, SystemClock())
        starting = asyncio.create_task(replica.start(load))
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert replica.state in (ReplicaState.STOPPED, ReplicaState.STARTING)


async def test_a_callback_that_raises_hurts_nobody(
    start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await start_worker(total)

    def done(batch: Batch, result: Any) -> None:
        raise ValueError("not my day")

    worker.replica.submit(Batch(1, [np.ones(3).tobytes()], UNIFORM, done))
    await eventually(lambda: worker.replica.in_flight == 0)
    assert "not my day" in caplog.text
    assert worker.replica.state is ReplicaState.READY
    assert await worker.call([1.0]) == [b"1.0"]


async def test_worker_environment(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(xs: Any) -> Any:
        import os

        return [os.environ.get(x) for x in xs]

    monkeypatch.setenv("CLIPPER_TOKEN", "secret")
    monkeypatch.setenv("MY_API_KEY", "secret")
    monkeypatch.setenv("GREETING", "hello")
    worker = await start_worker(
        look, InputType.STRINGS, environment={"HF_TOKEN": "mine", "OMP_NUM_THREADS": "2"}
    )
    names = ["CLIPPER_TOKEN", "MY_API_KEY", "GREETING", "HF_TOKEN", "OMP_NUM_THREADS"]
    names.append("OPENBLAS_NUM_THREADS")
    results = await worker.call(*names)
    assert results == [b"null", b"null", b'"hello"', b'"mine"', "2", "1"]


@pytest.mark.fault("W4")
@pytest.mark.skipif(sys.platform != "linux", reason="address space limits")
async def test_memory_limit_is_a_memory_error(start_worker: StartWorker) -> None:
    def grow(xs: Any) -> Any:
        return [len(bytearray(int(x[0]))) for x in xs]

    worker = await start_worker(grow, memory_limit=1 << 30)
    failure = await worker.call([float(2 << 30)])
    assert isinstance(failure, BatchFailure)
    assert "MemoryError" in failure.detail
    assert await worker.call([10.0]) == [b"10"]


async def test_without_an_example_the_first_batch_is_one(start_worker: StartWorker) -> None:
    """Also for the workers that come later."""

    def naps(xs: Any) -> Any:
        import time

        time.sleep(0.02)
        return xs

    patience = Patience(hang_floor=0.01, hang_ceiling=500.0)
    first = await start_worker(naps, InputType.STRINGS, patience=patience)
    assert first.replica._hang.limit(2) == 500.0
    await first.call("a", "b")
    told = first.replica.statistics().first
    assert told is not None and told[0] == 2 and told[1] >= 0.02
    assert first.replica._hang.limit(2) == pytest.approx(10 * told[1])
    later = Patience(hang_floor=0.01, hang_ceiling=500.0, first=told)
    second = await start_worker(naps, InputType.STRINGS, patience=later)
    assert second.replica._hang.limit(2) == pytest.approx(10 * told[1])
    third = await start_worker(naps, InputType.STRINGS, patience=later, example="x")
    assert third.replica.statistics().first is None
    assert third.replica._hang.limit(1) != second.replica._hang.limit(1)


async def test_it_tells_whether_it_was_killed_by_others(start_worker: StartWorker) -> None:
    def ends(xs: Any) -> Any:
        import os

        os._exit(1)

    for number in (signal.SIGKILL, signal.SIGTERM, None):
        worker = await start_worker(ends, InputType.STRINGS)
        if number is None:
            await worker.call("x")
        else:
            os.kill(worker.replica.pid or 0, number)
        await worker.replica.wait_gone()
        await eventually(lambda w=worker: w.replica.state is ReplicaState.FAILED)
        await worker.replica.wait_gone()
        assert worker.replica.statistics().killed == (number is not None)


async def test_memory_counts_children(start_worker: StartWorker) -> None:
    def spawns(xs: Any) -> Any:
        import subprocess
        import sys

        code = "x = bytearray(b'x') * (64 << 20); print(1, flush=True); input()"
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        return xs

    worker = await start_worker(spawns, InputType.STRINGS)
    before = worker.replica.memory()
    assert before is not None and before > 10 << 20
    await worker.call("x")
    after = worker.replica.memory()
    assert after is not None and after - before > 64 << 20
