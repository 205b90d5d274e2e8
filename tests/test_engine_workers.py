"""The engine with real worker processes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipper.config import Settings
from clipper.engine import Engine
from clipper.errors import DeployFailed, ModelFailed, Unavailable
from clipper.inputs import encode_python
from clipper.query import Query
from clipper.records import ApplicationRecord, BatchingSettings, ModelRecord
from clipper.store.memory import MemoryStore
from clipper.store.sqlite import SQLiteStore
from clipper.values import Prediction, RowError
from clipper.workers.packaging import pack

SETTINGS = Settings(drain_seconds=2.0)
PATIENT = 20_000_000  # microseconds: an SLO that no test waits for


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(SETTINGS, MemoryStore())
    await engine.start()
    yield engine
    await engine.drain(0.1)
    await engine.close()


async def deploy(
    engine: Engine, name: str, function: Any, version: str = "1", **fields: Any
) -> ModelRecord:
    fields = {"input_type": "doubles", "generation": 0, **fields}
    spec = ModelRecord(name=name, version=version, **fields)
    return await engine.deploy(spec, pack(function).blob)


async def register(engine: Engine, name: str, *models: str, **fields: Any) -> None:
    fields = {"input_type": "doubles", "slo_micros": PATIENT, **fields}
    await engine.register_application(
        ApplicationRecord(name, 0, models=list(models), **fields)
    )


def submit(engine: Engine, name: str, value: Any, **more: Any) -> asyncio.Future[Query]:
    future: asyncio.Future[Query] = asyncio.get_running_loop().create_future()

    class Receiver:
        def query_settled(self, query: Query) -> None:
            future.set_result(query)

    application = engine.application(name)
    row = encode_python(application.input_type, value)
    application.submit(row, Receiver(), **more)
    return future


async def ask(engine: Engine, name: str, value: Any, **more: Any) -> Prediction:
    async with asyncio.timeout(60):
        query = await submit(engine, name, value, **more)
    return query.prediction()


def total(rows: Any) -> Any:
    return [row.sum() for row in rows]


def pids(rows: Any) -> Any:
    return [os.getpid()] * len(rows)


async def test_from_deploy_to_undeploy(engine: Engine) -> None:
    await register(engine, "app", "sum")
    await deploy(engine, "sum", total, example=[1.0])
    assert (await ask(engine, "app", [1.0, 2.0])).output == 3.0
    assert (await ask(engine, "app", [[1.0], [2.0]])).output == 3.0
    await deploy(engine, "sum", lambda rows: [-row.sum() for row in rows], "2")
    assert (await ask(engine, "app", [1.0, 2.0])).output == -3.0
    assert await engine.rollback("sum") == "1"
    assert (await ask(engine, "app", [1.0, 2.0])).output == 3.0
    with pytest.raises(DeployFailed, match="ZeroDivisionError"):
        await deploy(engine, "sum", lambda rows: 1 / 0, "3", example=[1.0])
    assert (await ask(engine, "app", [4.0])).output == 4.0
    await engine.delete_model("sum", "1")
    await engine.delete_model("sum", "2")
    with pytest.raises(Unavailable, match="No connected models found for query"):
        await ask(engine, "app", [1.0, 2.0])


@pytest.mark.fault("L4")
async def test_a_thousand_equal_queries_make_one_evaluation(engine: Engine) -> None:
    def count(rows: Any) -> Any:
        global calls
        try:
            calls += len(rows)
        except NameError:
            calls = len(rows)
        return [calls] * len(rows)

    await deploy(engine, "count", count)
    await register(engine, "app", "count")
    queries = await asyncio.gather(*(submit(engine, "app", [7.0]) for _ in range(1000)))
    assert Counter(query.output for query in queries) == {b"1": 1000}
    assert (await ask(engine, "app", [8.0])).output == 2


async def test_many_different_queries_get_each_their_own_answer(engine: Engine) -> None:
    await deploy(engine, "sum", total, num_replicas=2)
    await register(engine, "app", "sum")
    values = [[float(i)] * (1 + i % 3) for i in range(2000)]
    queries = await asyncio.gather(*(submit(engine, "app", value) for value in values))
    for value, query in zip(values, queries, strict=True):
        assert query.prediction().output == sum(value)


def raises(rows: Any) -> Any:
    if any(row[0] < 0 for row in rows):
        raise ValueError("a secret of the model")
    return total(rows)


def too_few(rows: Any) -> Any:
    return [0.0] * (len(rows) - sum(row[0] < 0 for row in rows))


def dies(rows: Any) -> Any:
    if any(row[0] < 0 for row in rows):
        os._exit(3)
    return total(rows)


def not_finite(rows: Any) -> Any:
    return [np.nan if row[0] < 0 else row.sum() for row in rows]


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (raises, "the model raised an exception"),
        (too_few, "the model returned 0 outputs for 1 input"),
        (dies, "the model's worker process died"),
        (not_finite, "the model returned NaN or infinity, which JSON cannot express"),
    ],
)
async def test_a_model_that_fails_is_told_and_harms_no_other(
    engine: Engine, function: Any, cause: str
) -> None:
    await asyncio.gather(deploy(engine, "bad", function), deploy(engine, "good", pids))
    await register(engine, "with", "bad", default_output="-1")
    await register(engine, "without", "bad")
    await register(engine, "other", "good")
    before = (await ask(engine, "other", [1.0])).output

    # the same bad row for both, so that it is evaluated once
    waiting = submit(engine, "without", [-1.0])
    prediction = await ask(engine, "with", [-1.0])
    assert (prediction.output, prediction.default) == (-1, True)
    assert prediction.default_explanation == cause
    with pytest.raises(ModelFailed, match=cause):
        (await waiting).prediction()

    assert (await ask(engine, "other", [2.0])).output == before
    assert not (await ask(engine, "with", [5.0])).default


@pytest.mark.parametrize(
    ("function", "code"), [(raises, "model_failed"), (dies, "model_crashed")]
)
async def test_a_bad_row_does_not_fail_its_neighbours(
    engine: Engine, function: Any, code: str
) -> None:
    await deploy(engine, "bad", function, batching=BatchingSettings("fixed", 64))
    await register(engine, "app", "bad")
    values = [-1.0 if i == 20 else float(i) for i in range(50)]
    queries = await asyncio.gather(*(submit(engine, "app", [value]) for value in values))
    failed = {
        i: q.output.code for i, q in enumerate(queries) if isinstance(q.output, RowError)
    }
    assert failed == {20: code}
    assert queries[21].output == b"21.0"


async def test_a_model_that_hangs_costs_its_queries_no_more_than_their_deadline(
    engine: Engine,
) -> None:
    def hangs(rows: Any) -> Any:
        import time

        time.sleep(60)

    await asyncio.gather(deploy(engine, "bad", hangs), deploy(engine, "good", total))
    await register(engine, "with", "bad", default_output="-1", slo_micros=100_000)
    await register(engine, "other", "good")
    waiting = [submit(engine, "with", [float(i)]) for i in range(5)]
    assert (await ask(engine, "other", [2.0])).output == 2.0
    async with asyncio.timeout(30):
        predictions = [query.prediction() for query in await asyncio.gather(*waiting)]
    assert {p.default_explanation for p in predictions} == {
        "Failed to retrieve a prediction response within the specified latency SLO"
    }


@pytest.mark.fault("L4")
async def test_one_slow_model_does_not_slow_the_others_down(engine: Engine) -> None:
    def slow(rows: Any) -> Any:
        import time

        time.sleep(0.3)
        return [-1.0] * len(rows)

    await asyncio.gather(deploy(engine, "slow", slow), deploy(engine, "fast", total))
    await register(engine, "behind", "slow", cache=False)
    await register(engine, "other", "fast", cache=False)
    waiting = [submit(engine, "behind", [float(i)]) for i in range(100)]
    # while the first batch runs, each of which would have had to wait for it
    for number in range(20):
        assert (await ask(engine, "other", [float(number)])).output == number
    assert not all(query.done() for query in waiting)
    async with asyncio.timeout(60):
        outputs = {query.output for query in await asyncio.gather(*waiting)}
    assert outputs == {b"-1.0"}


async def test_rows_that_are_not_to_be_run_twice_are_not(
    engine: Engine, tmp_path: Path
) -> None:
    runs_file = tmp_path / "runs"
    path = str(runs_file)

    def once(rows: Any) -> Any:
        with open(path, "a") as runs:
            runs.write("x" * len(rows))
        os._exit(1)

    await deploy(engine, "m", once, retry=False)
    await register(engine, "app", "m", default_output="-1")
    assert (await ask(engine, "app", [1.0])).default
    assert runs_file.read_text() == "x"


async def test_a_burst_is_answered_across_a_change_of_versions(engine: Engine) -> None:
    await deploy(engine, "m", lambda rows: ["one"] * len(rows))
    await register(engine, "app", "m", cache=False)
    stop, seen = asyncio.Event(), Counter[Any]()

    async def burst() -> None:
        while not stop.is_set():
            seen[(await ask(engine, "app", [1.0])).output] += 1

    bursts = [asyncio.create_task(burst()) for _ in range(20)]
    await deploy(engine, "m", lambda rows: ["two"] * len(rows), "2")
    await engine.rollback("m")
    await engine.set_version("m", "2")
    await engine.delete_model("m", "1")
    await ask(engine, "app", [1.0])
    stop.set()
    await asyncio.gather(*bursts)
    assert set(seen) == {"one", "two"}


async def test_a_full_batch_goes_through_the_worker(engine: Engine) -> None:
    await deploy(
        engine, "sum", total, batching=BatchingSettings("fixed", 64), input_type="floats"
    )
    await register(engine, "app", "sum", input_type="floats")
    application = engine.application("app")
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    class Receiver:
        def batch_settled(self, batch: Any) -> None:
            future.set_result(batch.outputs)

    values = np.arange(3000, dtype="f4").reshape(1000, 3)
    application.submit_block(values.tobytes(), 1000, None, Receiver())
    async with asyncio.timeout(60):
        outputs = [float(output) for output in await future]
    assert outputs == values.sum(axis=1).tolist()
    assert engine.model("sum", "1").dispatcher.stats.batches >= 1000 / 64


async def test_a_server_that_comes_back_serves_again(tmp_path: Path) -> None:
    first = Engine(SETTINGS, SQLiteStore(tmp_path))
    await first.start()
    await deploy(first, "m", lambda rows: ["one"] * len(rows))
    await deploy(first, "m", lambda rows: ["two"] * len(rows), "2")
    await register(first, "app", "m")
    query_id = (await ask(first, "app", [1.0])).query_id
    await first.drain(1.0)
    await first.close()

    second = Engine(SETTINGS, SQLiteStore(tmp_path))
    await second.start()
    try:
        assert second.token == first.token
        assert (await ask(second, "app", [1.0])).output == "two"
        assert second.ids.read(query_id).arm == second.model("m", "2").record.generation
        assert await second.rollback("m") == "1"
        assert (await ask(second, "app", [1.0])).output == "one"
    finally:
        await second.drain(0.1)
        await second.close()
