"""Batches and blocks of rows through an application, in manual time."""

from __future__ import annotations

import pytest
from house import SLO, Ask, House

from clipper.batching.job import EXPIRED
from clipper.config import Limits
from clipper.errors import NotFound
from clipper.values import RowError


async def test_the_rows_of_a_batch_hit_join_and_start(ask: Ask) -> None:
    ask.one(1)
    ask.answer()
    ask.one(2)
    receiver = ask.many(1, 2, 3, 3)
    ask.answer()
    assert receiver.outputs == [b"1", b"2", b"3", b"3"]
    assert ask.replica.seen[1] == [[2.0], [3.0]]
    assert receiver.batch is not None and receiver.batch.jobs == []
    shared = receiver.batch.issue_id().decode()
    assert ask.house.ids.read(f"{shared}.3").row == 3
    with pytest.raises(NotFound):
        ask.house.ids.read(f"{shared}.4")
    assert ask.stats.predictions == 6


async def test_a_batch_of_hits_is_answered_at_once(ask: Ask) -> None:
    ask.many(1, 2)
    ask.answer()
    assert ask.many(2, 1, 2).outputs == [b"2", b"1", b"2"]
    assert ask.batch.settled and ask.replica.batches == []


async def test_without_a_cache_equal_rows_are_evaluated_each(ask: Ask) -> None:
    receiver = ask.many(3, 3, cache=False)
    ask.answer()
    assert receiver.outputs == [b"3", b"3"] and ask.replica.seen == [[[3.0], [3.0]]]


async def test_a_block_is_answered_in_order(ask: Ask) -> None:
    receiver = ask.block(*range(150))
    ask.turn()
    assert [len(rows) for rows in ask.replica.seen] == [100, 50]
    ask.answer()
    assert not receiver.told
    ask.answer()
    assert receiver.outputs == [b"%d" % i for i in range(150)]
    assert receiver.batch is not None and receiver.batch.blocks == []


@pytest.mark.parametrize("way", ["many", "block"])
async def test_at_its_deadline_a_batch_keeps_the_rows_that_are_in(
    house: House, way: str
) -> None:
    house.limits = Limits()
    ask = Ask(house)
    receiver = getattr(ask, way)(*range(150))
    ask.answer()
    ask.wait(SLO)
    assert receiver.outputs == [b"%d" % i for i in range(100)] + [EXPIRED] * 50
    assert ask.stats.predictions == 100
    assert ask.stats.failures == {"deadline_exceeded": 50}
    ask.answer()
    assert receiver.outputs[149] == EXPIRED


@pytest.mark.parametrize("way", ["many", "block"])
async def test_a_cancelled_batch_leaves_its_queued_rows(house: House, way: str) -> None:
    house.limits = Limits()
    ask = Ask(house)
    receiver = getattr(ask, way)(*range(300))
    ask.turn()
    ask.batch.cancel()
    ask.batch.cancel()
    assert ask.batch.jobs == [] and ask.batch.blocks == []
    ask.answer()
    ask.answer()
    ask.wait(1)
    assert not receiver.told
    assert ask.stats.cancelled == 300
    assert ask.model.intake.queue.rows == 0
    assert ask.model.dispatcher.stats.abandoned_rows == 100
    assert house.cache.in_flight == {}


async def test_a_row_that_fails_does_not_fail_the_others(ask: Ask) -> None:
    receiver = ask.many(1, 2)
    bad = RowError("invalid_output", "NaN")
    ask.answer(lambda x: bad if x[0] == 2 else b"1")
    assert receiver.outputs == [b"1", bad]
    again = ask.one(2)
    assert not again.told, "an error is not cached"
