"""The rows of large batches, asked slice by slice."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from house import SLO, Ask, House, Receiver, replicas, row

from clipper import rows
from clipper.batching.job import EXPIRED
from clipper.frontend.answers import batch_answer
from clipper.records import PolicySettings


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SLICE", 6)


async def test_queries_go_between_slices(ask: Ask) -> None:
    receiver = ask.many(*range(20))
    cache = ask.house.cache
    for asked in (6, 12, 18, 20, 20):
        assert len(cache.in_flight) == asked
        await asyncio.sleep(0)
    ask.answer()
    assert receiver.outputs == [b"%d" % i for i in range(20)]


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_a_batch_that_is_settled_asks_no_more(ask: Ask, end: str) -> None:
    receiver = ask.many(*range(20))
    getattr(ask.batch, end)()
    await asyncio.sleep(0)
    assert len(ask.house.cache.in_flight) == 6
    assert receiver.outputs == (None if end == "cancel" else [EXPIRED] * 20)


async def test_members_share_a_slice_and_each_row_has_a_panel(house: House) -> None:
    models = [house.model(name) for name in ("a", "b", "c")]
    policy = PolicySettings("majority", {})
    application = house.application(*models, default_output="-1", policy=policy)
    application.update(application.record, models, {})
    receiver = Receiver()
    batch = application.submit_batch([row(i) for i in range(7)], receiver)
    assert len(house.cache.in_flight) == 3 * 2
    for model in models[:2]:  # a majority
        house.loop.turn()
        replicas(model).replica.answer(lambda x: b"%d" % x[0])
        house.loop.turn()
    house.loop.advance(SLO)  # before the rest was asked for
    assert receiver.outputs == [b"0", b"1", *[EXPIRED] * 5]
    answers = msgspec.json.decode(batch_answer(batch))["batch_predictions"]
    assert [each["default"] for each in answers] == [False] * 2 + [True] * 5
