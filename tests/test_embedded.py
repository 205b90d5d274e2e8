"""A server in one's own asyncio program, with workers of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from clipper import Server
from clipper.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
)


def total(rows: Any) -> list[float]:
    return [float(sum(row)) for row in rows]


async def test_predictions() -> None:
    async with Server() as server:
        assert (server.port, server.admin_port, server.data_dir) == (0, 0, None)
        await server.deploy("sum", 1, total, "doubles")
        await server.register_application("sum", models=["sum"], input_type="doubles",
                                          slo_micros=5_000_000)  # fmt: skip
        prediction = await server.predict("sum", [1.0, 2.0], uid=0)
        assert (prediction.output, prediction.default) == (3.0, False)
        batch = await server.predict_batch("sum", [[1.0], [2.0, 3.0]])
        assert [row.output for row in batch] == [1.0, 5.0]
        assert await server.predict_batch("sum", []) == []
        explanation = server.explain("sum")
        assert explanation["attainment"]["recent"] == 1.0
        assert explanation["sentences"][0].startswith("All 3 rows in the last")
        with pytest.raises(NotFound):
            await server.predict("other", [1.0])
        for wrong in (0, -1, float("nan")):
            with pytest.raises(InvalidInput):
                await server.predict("sum", [1.0], deadline_ms=wrong)
        for context in (object(), {"a": 10**30}, ["\ud800"]):
            with pytest.raises(InvalidInput, match="at context"):
                await server.predict("sum", [1.0], context=context)
            with pytest.raises(InvalidInput, match="at context"):
                await server.predict_batch("sum", [[1.0]], context=context)
        with pytest.raises(InvalidInput, match="at uid"):
            await server.predict("sum", [1.0], uid="\ud800")
        assert (await server.predict("sum", [1.0], context=np.ones(2))).output == 1.0
        with pytest.raises(PayloadTooLarge, match="65535"):
            await server.predict_batch("sum", [[1.0]] * 65_536)
        with pytest.raises(DeadlineExceeded):
            await server.predict("sum", [4.0], deadline_ms=1e-6)
    await server.stop()  # once more does no harm


def answer_one(rows: Any) -> list[int]:
    return [1 for _ in rows]


def answer_two(rows: Any) -> list[int]:
    return [2 for _ in rows]


async def test_feedback() -> None:
    async with Server() as server:
        await server.deploy("one", 1, answer_one, "doubles")
        await server.deploy("two", 1, answer_two, "doubles")
        await server.register_application(
            "app",
            models=["one", "two"],
            input_type="doubles",
            slo_micros=5_000_000,
            policy={"name": "epsilon_greedy", "options": {"epsilon": 0.5}},
        )
        for number in range(8):
            prediction = await server.predict("app", [float(number)], uid="alice")
            label = np.int64(2)
            assert not await server.update("app", prediction.query_id, label=label)
        assert await server.update("app", prediction.query_id, label=2)
        with pytest.raises(Conflict):
            await server.update("app", prediction.query_id, label=3)
        with pytest.raises(InvalidInput):
            await server.update("app", prediction.query_id, reward=2)
        with pytest.raises(NotFound):
            await server.update("other", "x", reward=1)
        state = await server.state("app", "alice")
        assert sum(arm["pulls"] for arm in state["arms"]) == 8

        record = await server.set_policy("app", "hedge", eta=1.0)
        assert record.policy.options == {"eta": 1.0}
        with pytest.raises(InvalidInput, match="no option 'etta'"):
            await server.set_policy("app", "hedge", etta=1.0)
        piece = {"input": [1.0], "label": 2, "uid": 7, "feedback_id": "f"}
        outcomes = await server.update_many("app", [piece, piece, {"query_id": "x"}])
        assert outcomes[:2] == [False, True]
        assert isinstance(outcomes[2], InvalidInput)
        one, two = (await server.state("app"))["arms"]
        assert one["weight"] < 0.5 < two["weight"]
        assert (await server.state("app", 7))["known"] is True
        await server.forget_user("app", 7)
        assert (await server.state("app", "7"))["known"] is False
        assert server.explain("app")["choosing"]["policy"] == "hedge"


@pytest.mark.parametrize(
    "policy",
    [{"options": {}}, {"name": "hedge", "eta": 1}, {"name": "hedge", "options": 1}],
)
async def test_policies_that_make_no_sense(policy: dict[str, Any]) -> None:
    async with Server() as server:
        with pytest.raises(InvalidInput, match="policy must be a name"):
            await server.register_application("app", input_type="json", policy=policy)


async def test_many_pieces_go_to_the_log_by_and_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipper.embedded.MOST_AT_ONCE", 3)
    async with Server() as server:
        await server.register_application(
            "app", input_type="json", default_output="0", policy="ucb1"
        )
        ids = [(await server.predict("app", n)).query_id for n in range(10)]
        pieces = ({"query_id": each, "reward": 1} for each in ids)
        assert await server.update_many("app", pieces) == [False] * 10


async def test_a_cancelled_caller_takes_its_query_along() -> None:
    async with Server() as server:
        await server.register_application("a", input_type="json", slo_micros=60_000_000)
        await server.deploy("slow", 1, _sleep, "json", batching="none", retry=False)
        await server.engine.link("a", ["slow"])
        running = asyncio.ensure_future(server.predict("a", 0.3, cache=False))
        waiting = [
            asyncio.ensure_future(server.predict("a", 0.3 + i, cache=False))
            for i in range(1, 9)
        ]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(error, asyncio.CancelledError)
            for error in await asyncio.gather(*waiting, return_exceptions=True)
        )
        assert server.engine.applications["a"].stats.cancelled == 8
        assert (await running).output == 0.3


def _sleep(rows: Any) -> list[Any]:
    import time

    for seconds in rows:
        time.sleep(min(seconds, 0.3))
    return list(rows)
