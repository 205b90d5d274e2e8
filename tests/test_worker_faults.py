"""What models and machines do to workers, seen by those who ask: the rows of the fault
table that begin with W, through the whole engine with real worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from polling import eventually
from test_engine_workers import SETTINGS, ask, deploy, register, submit

from clipper.engine import Engine
from clipper.model import Model
from clipper.query import Query
from clipper.records import BatchingSettings
from clipper.store.memory import MemoryStore
from clipper.values import RowError
from clipper.workers.replica_set import State

SLO = 10_000_000  # microseconds: long enough to try rows again
ROWS = 32
BAD = -1.0
TOGETHER = BatchingSettings("fixed", 64)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """It leaves no process and no task behind, not even a zombie."""
    before = children(), len(asyncio.all_tasks())
    engine = Engine(SETTINGS, MemoryStore())
    await engine.start()
    yield engine
    await engine.drain(0.1)
    await engine.close()
    await eventually(lambda: children() <= before[0])
    assert len(asyncio.all_tasks()) <= before[1]


def replicas_of(model: Model) -> list[int]:
    return [replica.pid or 0 for replica in model.replicas.replicas]


async def ask_with_a_bad_row(engine: Engine, at: int) -> tuple[list[Query], Query]:
    """So many rows in one batch; the right ones, and the bad one."""
    values = [BAD if i == at else float(i) for i in range(ROWS)]
    async with asyncio.timeout(30):
        queries = await asyncio.gather(*(submit(engine, "app", [v]) for v in values))
    return [q for i, q in enumerate(queries) if i != at], queries[at]


def check_right(queries: list[Query], at: int) -> None:
    values = [float(i) for i in range(ROWS) if i != at]
    assert [query.output for query in queries] == [repr(v).encode() for v in values]


# -- one bad row in a batch of 32 --------------------------------------------------------


def raises(rows: Any) -> Any:
    if any(row[0] == -1 for row in rows):
        raise ValueError("bad row")
    return [row[0] for row in rows]


def segfaults(rows: Any) -> Any:
    import ctypes

    if any(row[0] == -1 for row in rows):
        ctypes.string_at(0)
    return [row[0] for row in rows]


def exits(rows: Any) -> Any:
    import os

    if any(row[0] == -1 for row in rows):
        os._exit(0)
    return [row[0] for row in rows]


def sleeps(rows: Any) -> Any:
    import time

    if any(row[0] == -1 for row in rows):
        time.sleep(1e6)
    return [row[0] for row in rows]


def holds_the_interpreter(rows: Any) -> Any:
    import itertools

    if any(row[0] == -1 for row in rows):
        sum(itertools.repeat(0))
    return [row[0] for row in rows]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("function", "code", "deaths"),
    [
        pytest.param(raises, "model_failed", 0, marks=pytest.mark.fault("W6")),
        pytest.param(segfaults, "model_crashed", 2, marks=pytest.mark.fault("W3")),
        pytest.param(exits, "model_crashed", 2, marks=pytest.mark.fault("W3")),
        pytest.param(sleeps, "model_hung", 2, marks=pytest.mark.fault("W2")),
        pytest.param(holds_the_interpreter, "model_hung", 2, marks=pytest.mark.fault("W2")),
    ],
)
async def test_one_bad_row_costs_one_error_and_two_workers(
    engine: Engine, function: Any, code: str, deaths: int, replicas: int
) -> None:
    """And two bad queries in a row take no model from the others."""
    await deploy(
        engine, "m", function, num_replicas=replicas, batching=TOGETHER, example=[1.0]
    )
    await register(engine, "app", "m", slo_micros=SLO)
    set_ = engine.models[next(iter(engine.models))].replicas
    for turn, at in enumerate((20, 0)):
        right, bad = await ask_with_a_bad_row(engine, at)
        check_right(right, at)
        assert isinstance(bad.output, RowError) and bad.output.code == code
        await eventually(lambda: set_.live == replicas)
        assert set_.statistics().deaths == deaths * (turn + 1)
        assert set_.state is State.LIVE
    if code == "model_hung":
        assert f"in {function.__name__}" in set_.log_tail()  # the stack is kept
        assert "which ended: a batch ran for" in set_.log_tail()


@pytest.mark.fault("W2")
async def test_without_an_example_what_was_seen_tells_a_hang(engine: Engine) -> None:
    """Nor has the worker that follows to learn it anew."""
    await deploy(engine, "m", sleeps, batching=TOGETHER)
    await register(engine, "app", "m", slo_micros=SLO)
    assert (await ask(engine, "app", [1.5])).output == 1.5
    right, bad = await ask_with_a_bad_row(engine, 0)
    check_right(right, 0)
    assert isinstance(bad.output, RowError) and bad.output.code == "model_hung"


@pytest.mark.fault("W3")
async def test_a_version_whose_every_row_kills_is_taken_out(engine: Engine) -> None:
    def kills(rows: Any) -> Any:
        os._exit(1)

    await deploy(engine, "m", kills)
    await register(engine, "app", "m", slo_micros=SLO)
    set_ = engine.models[next(iter(engine.models))].replicas
    for value in range(3):
        if set_.state is not State.FAILED:
            await submit(engine, "app", [float(value)])
    await eventually(lambda: set_.state is State.FAILED)
    assert set_.statistics().deaths <= 4
    assert "keep ending" in set_.reason


# -- outputs that are none ---------------------------------------------------------------


def odd(kind: str) -> Any:
    """Wrong for a batch with a bad row, right else."""

    def predict(rows: Any) -> Any:
        right = [row[0] for row in rows]
        if not any(row[0] == -1 for row in rows):
            return right
        return {
            "none": None,
            "number": 7,
            "generator": (x for x in [1.0]),
            "fewer": right[:-1],
            "more": [*right, 0.0],
            "empty": [],
            "dictionary": {"a": 1},
        }[kind]

    return predict


def odd_row(kind: str) -> Any:
    """Wrong for the bad row alone."""

    def predict(rows: Any) -> Any:
        wrong = {
            "nan": float("nan"),
            "object": object(),
            "too large": "x" if kind != "too large" else "x" * (300 << 20),
        }[kind]
        return [wrong if row[0] == -1 else row[0] for row in rows]

    return predict


@pytest.mark.fault("W5")
@pytest.mark.parametrize(
    "kind", ["none", "number", "generator", "fewer", "more", "empty", "dictionary"]
)
async def test_a_batch_of_wrong_outputs_is_tried_row_by_row(
    engine: Engine, kind: str
) -> None:
    await deploy(engine, "m", odd(kind), batching=TOGETHER)
    await register(engine, "app", "m", slo_micros=SLO)
    right, bad = await ask_with_a_bad_row(engine, 11)
    check_right(right, 11)
    # a generator of one output for one row is what was asked for
    if kind != "generator":
        assert isinstance(bad.output, RowError) and bad.output.code == "model_failed"
    assert engine.models[next(iter(engine.models))].replicas.statistics().deaths == 0


@pytest.mark.fault("W5")
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("nan", "invalid_output"),
        ("object", "invalid_output"),
        ("too large", "model_failed"),
    ],
)
async def test_an_output_that_cannot_be_sent_is_one_error(
    engine: Engine, kind: str, code: str
) -> None:
    await deploy(engine, "m", odd_row(kind), batching=TOGETHER)
    await register(engine, "app", "m", slo_micros=SLO)
    right, bad = await ask_with_a_bad_row(engine, 11)
    check_right(right, 11)
    assert isinstance(bad.output, RowError) and bad.output.code == code
    assert engine.models[next(iter(engine.models))].replicas.statistics().deaths == 0


# -- memory ------------------------------------------------------------------------------


def grows(rows: Any) -> Any:
    if any(row[0] == -1 for row in rows):
        return [len(bytearray(4 << 30))] * len(rows)
    return [row[0] for row in rows]


@pytest.mark.fault("W4")
async def test_a_row_that_needs_too_much_memory(engine: Engine) -> None:
    await deploy(engine, "m", grows, batching=TOGETHER, memory_limit=1 << 30)
    await register(engine, "app", "m", slo_micros=SLO)
    right, bad = await ask_with_a_bad_row(engine, 5)
    check_right(right, 5)
    assert isinstance(bad.output, RowError) and bad.output.code == "model_failed"


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def group(tmp_path: Path) -> Any:
    """A group of processes that may have 150 MB together."""
    path = GROUPS / f"clipper-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError:
        pytest.skip("needs a writable memory control group (version 1)")
    try:
        (path / "memory.limit_in_bytes").write_text(str(150 << 20))
        yield path
    finally:
        path.rmdir()


@pytest.mark.fault("W4")
async def test_a_worker_that_the_system_kills_for_want_of_memory(
    engine: Engine, group: Path
) -> None:
    def hungry(rows: Any) -> Any:
        import os

        with open(os.environ["GROUP"] + "/tasks", "w") as file:
            file.write(str(os.getpid()))
        if any(row[0] == -1 for row in rows):
            return [sum(bytearray(b"x") * (1 << 30))] * len(rows)
        return [row[0] for row in rows]

    await deploy(engine, "m", hungry, environment={"GROUP": str(group)}, batching=TOGETHER)
    await register(engine, "app", "m", slo_micros=SLO)
    set_ = engine.models[next(iter(engine.models))].replicas
    for _ in range(2):
        right, bad = await ask_with_a_bad_row(engine, 5)
        check_right(right, 5)
        assert isinstance(bad.output, RowError) and bad.output.code == "model_crashed"
    await eventually(lambda: set_.live == 1)
    assert set_.statistics().deaths == 4
    await engine.drain(0.1)  # the group can go when it is empty


# -- kills, stops and slowness -----------------------------------------------------------


def slow_echo(rows: Any) -> Any:
    import time

    time.sleep(0.01)
    return [row[0] for row in rows]


@pytest.mark.fault("W1")
@pytest.mark.parametrize(("replicas", "spares"), [(2, 0), (1, 1)])
async def test_kills_cost_no_query(engine: Engine, replicas: int, spares: int) -> None:
    await deploy(engine, "m", slow_echo, num_replicas=replicas, spares=spares)
    await register(engine, "app", "m", slo_micros=SLO, cache=False)
    model = engine.models[next(iter(engine.models))]
    set_, loop = model.replicas, asyncio.get_running_loop()
    sent: list[asyncio.Future[Query]] = []
    done = False

    async def keep_asking() -> None:
        while not done:
            sent.append(submit(engine, "app", [float(len(sent))]))
            await asyncio.sleep(0.005)

    asking = asyncio.create_task(keep_asking())
    for _ in range(8):
        await eventually(
            lambda: set_.live == replicas and set_.statistics().spares == spares
        )
        await eventually(lambda: any(replica.in_flight for replica in set_.ready))
        victim = next(replica for replica in set_.ready if replica.in_flight)
        began = loop.time()
        os.kill(victim.pid or 0, signal.SIGKILL)
        await eventually(lambda v=victim: v not in set_.ready)  # type: ignore[misc]
        if spares:
            # in the turn in which the death was seen
            assert set_.live == replicas and loop.time() - began < 1.0
    done = True
    await asking
    async with asyncio.timeout(30):
        queries = await asyncio.gather(*sent)
    assert [q.output for q in queries] == [
        repr(float(n)).encode() for n in range(len(sent))
    ]
    assert set_.statistics().deaths == 8 and set_.state is not State.FAILED


@pytest.mark.fault("W12")
async def test_a_stopped_worker_is_taken_for_hung(engine: Engine) -> None:
    await deploy(engine, "m", slow_echo, example=[1.0])
    await register(engine, "app", "m", slo_micros=SLO)
    model = engine.models[next(iter(engine.models))]
    (stopped,) = replicas_of(model)
    os.kill(stopped, signal.SIGSTOP)
    assert (await ask(engine, "app", [2.0])).output == 2.0
    await eventually(lambda: model.replicas.live)
    assert replicas_of(model) != [stopped]


@pytest.mark.fault("W7")
async def test_what_is_too_late_is_nobody_elses_answer(engine: Engine) -> None:
    def lazy(rows: Any) -> Any:
        import time

        if any(row[0] == -1 for row in rows):
            time.sleep(0.3)
        return [row[0] for row in rows]

    await deploy(engine, "m", lazy)
    await register(engine, "app", "m", slo_micros=100_000, default_output="-9")
    loop = asyncio.get_running_loop()
    began = loop.time()
    late = await ask(engine, "app", [BAD])
    assert late.default and 0.1 <= loop.time() - began < 0.3
    await eventually(lambda: not engine.model("m", "1").dispatcher.in_flight)
    for value in range(20):  # that it is slow may have made it seem overloaded
        told = await ask(engine, "app", [float(value)])
        assert told.output == (-9 if told.default else value)
    assert engine.model("m", "1").replicas.statistics().deaths == 0


# -- what workers print and leave behind -------------------------------------------------


def floods(rows: Any) -> Any:
    """From the second call on a thread prints as fast as it can, text of every kind."""
    import os
    import threading

    def flood() -> None:
        piece = (b"no end of line \x00\xff\xe2\x82" * 4000)[:65536]
        while True:
            os.write(1, piece)

    if rows[0][0] == -1:
        threading.Thread(target=flood, daemon=True).start()
    return [row[0] for row in rows]


@pytest.mark.fault("W9")
async def test_a_flood_of_output_stops_nobody(engine: Engine) -> None:
    await deploy(engine, "m", floods)
    await register(engine, "app", "m", slo_micros=SLO)
    model = engine.model("m", "1")
    assert (await ask(engine, "app", [BAD])).output == -1.0
    (replica,) = model.replicas.ready
    log = replica._process.log  # type: ignore[attr-defined]
    for value in range(200):
        assert (await ask(engine, "app", [float(value)])).output == value
    await eventually(lambda: log.dropped > 10 << 20)
    assert len(model.replicas.log_tail()) <= 70_000
    assert model.replicas.statistics().deaths == 0


def has_children(rows: Any) -> Any:
    import signal
    import subprocess
    import sys

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(999)"
    )
    pids = []
    for away in (False, True):
        child = subprocess.Popen(
            [sys.executable, "-c", code], start_new_session=away, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        pids.append(child.pid)
    return [pids]


@pytest.mark.fault("W10")
async def test_nothing_is_left_of_a_version_that_is_undeployed(engine: Engine) -> None:
    await deploy(engine, "m", has_children)
    await register(engine, "app", "m", slo_micros=SLO)
    pids = [*(await ask(engine, "app", [1.0])).output, *replicas_of(engine.model("m", "1"))]
    assert len(pids) == 3 and all(is_running(pid) for pid in pids)
    await engine.delete_model("m", "1")
    await eventually(lambda: not any(map(is_running, pids)), seconds=10.0)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- leaks -------------------------------------------------------------------------------


@pytest.mark.fault("W14")
@pytest.mark.parametrize("limits", [{"recycle_after": 60}, {"recycle_memory": 120 << 20}])
async def test_a_leak_costs_no_query(engine: Engine, limits: dict[str, int]) -> None:
    def leaks(rows: Any) -> Any:
        import sys

        kept = sys.modules.setdefault("kept", [])  # type: ignore[arg-type]
        kept.append(bytearray(b"x") * (1 << 20))  # type: ignore[attr-defined]
        return [row[0] for row in rows]

    await deploy(engine, "m", leaks, **limits)
    await register(engine, "app", "m", slo_micros=SLO, cache=False)
    set_ = engine.model("m", "1").replicas
    asked = 0
    async with asyncio.timeout(60):
        while sum(set_.statistics().recycled.values()) < 2:
            assert (await ask(engine, "app", [float(asked)])).output == asked
            asked += 1
            await asyncio.sleep(0.002)
    assert (set_.statistics().deaths, set_.live) == (0, 1)
    assert asked >= 60 if "recycle_after" in limits else asked >= 20


# -- versions that cannot live -----------------------------------------------------------


@pytest.mark.fault("W11")
async def test_one_that_dies_every_few_batches_ends_failed_and_no_other(
    engine: Engine,
) -> None:
    def dies_in_the_end(rows: Any) -> Any:
        import sys

        sys.modules["n"] = sys.modules.get("n", 0) + 1  # type: ignore[assignment,operator]
        if sys.modules["n"] == 15:  # type: ignore[comparison-overlap]
            os._exit(1)
        return [row[0] for row in rows]

    await asyncio.gather(
        deploy(engine, "m", dies_in_the_end), deploy(engine, "n", slow_echo)
    )
    await register(engine, "app", "m", slo_micros=SLO, default_output="-9", cache=False)
    await register(engine, "other", "n", slo_micros=SLO, cache=False)
    set_ = engine.model("m", "1").replicas
    value = 0
    async with asyncio.timeout(60):
        while set_.state is not State.FAILED:
            value += 1
            await submit(engine, "app", [float(value)])
            assert (await ask(engine, "other", [float(value)])).output == value
    told = set_.statistics()
    assert told.deaths <= 4 and "exited with status 1" in set_.reason
    assert (await ask(engine, "app", [0.5])).default
    assert engine.model("n", "1").replicas.statistics().deaths == 0
    assert engine.ready  # the others are served
