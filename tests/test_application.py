"""The query path with fake replicas, in manual time."""

from __future__ import annotations

import asyncio

import pytest
from house import SLO, Ask, House, Receiver, replicas, row

from clipper.application import GONE
from clipper.batching.job import EXPIRED
from clipper.batching.outcomes import FULL
from clipper.errors import Unavailable
from clipper.model import STOPPED
from clipper.query import NO_MODEL
from clipper.workers.replica_set import State


def arm_of(house: House, query_id: str) -> int:
    return house.ids.read(query_id).arm


# -- one query -------------------------------------------------------------------------


async def test_a_query_is_answered_by_the_model(ask: Ask) -> None:
    receiver = ask.one(7)
    assert not receiver.told
    ask.answer()
    assert receiver.output == b"7"
    assert receiver.query is not None and receiver.query.job is None
    prediction = receiver.query.prediction()
    assert (prediction.output, prediction.default, prediction.missing) == (7, False, [])
    assert arm_of(ask.house, prediction.query_id) == ask.model.record.generation
    assert ask.stats.predictions == 1 and ask.stats.latency.count == 1
    ask.wait(1)
    assert ask.house.loop.armed == []


async def test_the_deadline_answers_and_the_late_output_fills_the_cache(ask: Ask) -> None:
    receiver = ask.one(7)
    ask.turn()
    ask.wait(SLO - 0.001)
    assert not receiver.told
    ask.wait(0.002)
    assert receiver.output == EXPIRED
    assert ask.stats.failures == {"deadline_exceeded": 1}
    ask.answer()
    assert receiver.output == EXPIRED
    assert ask.one(7).output == b"7"
    assert ask.house.cache.in_flight == {}


async def test_a_deadline_may_only_shorten_the_slo(ask: Ask) -> None:
    short, long, own = ask.one(1, deadline_ms=20), ask.one(2, deadline_ms=9000), ask.one(3)
    ask.turn()
    ask.wait(0.021)
    assert short.told and not long.told
    ask.wait(SLO)
    assert long.output == EXPIRED and own.output == EXPIRED


async def test_a_hit_is_answered_before_submit_returns(ask: Ask) -> None:
    ask.one(7)
    ask.answer()
    receiver = ask.one(7)
    assert receiver.output == b"7" and ask.query.settled
    assert ask.house.cache.hits == 1
    assert ask.one(7, cache=False).output is None


async def test_a_query_or_an_application_can_do_without_the_cache(house: House) -> None:
    ask = Ask(house, cache=False)
    first, second = ask.one(7), ask.one(7)
    ask.answer()
    assert first.output == second.output == b"7"
    assert len(ask.replica.seen[0]) == 2
    assert len(house.cache) == 0 and ask.one(7).output is None


# -- without a model -------------------------------------------------------------------


async def test_without_a_model_the_answer_says_so(house: House) -> None:
    application = house.application()
    for receiver in (Receiver(), Receiver()):
        query = application.submit(row(1), receiver)
        assert receiver.output == NO_MODEL
        with pytest.raises(Unavailable, match="No connected models found for query"):
            query.prediction()
        assert arm_of(house, query.issue_id().decode()) == 0


@pytest.mark.parametrize("way", ["many", "block"])
async def test_a_batch_without_a_model_is_answered_too(house: House, way: str) -> None:
    ask = Ask(house)
    replicas(ask.model).become(State.FAILED)
    receiver = getattr(ask, way)(1, 2)
    assert receiver.outputs == [NO_MODEL] * 2
    assert ask.stats.failures == {"no_model": 2}


@pytest.mark.parametrize("way", ["many", "block"])
@pytest.mark.parametrize("connected", [True, False])
async def test_a_batch_of_no_rows_is_answered_with_none(
    house: House, way: str, connected: bool
) -> None:
    ask = Ask(house)
    if not connected:
        replicas(ask.model).become(State.FAILED)
    assert getattr(ask, way)().outputs == []


async def test_a_model_without_a_function_does_not_answer(house: House) -> None:
    application = house.application(house.model(blob=None))
    receiver = Receiver()
    application.submit(row(1), receiver)
    assert receiver.output == NO_MODEL


async def test_when_all_replicas_failed_waiting_and_later_queries_are_told(
    ask: Ask,
) -> None:
    replicas(ask.model).replica.capacity = 0
    waiting = ask.one(1)
    ask.turn()
    replicas(ask.model).become(State.FAILED)
    assert waiting.output == NO_MODEL and ask.one(2).output == NO_MODEL
    replicas(ask.model).replica.capacity = 2
    replicas(ask.model).become(State.LIVE)
    again = ask.one(3)
    ask.answer()
    assert again.output == b"3"


async def test_while_replicas_restart_queries_wait(ask: Ask) -> None:
    replicas(ask.model).become(State.STARTING)
    receiver = ask.one(1)
    ask.turn()
    assert not receiver.told
    replicas(ask.model).become(State.LIVE)
    ask.answer()
    assert receiver.output == b"1"


# -- a version on its way out ----------------------------------------------------------


async def test_stopping_answers_what_was_accepted(ask: Ask) -> None:
    receiver = ask.one(1)
    ask.turn()
    stop = asyncio.create_task(ask.model.stop(10))
    await asyncio.sleep(0)
    assert ask.one(2).output == NO_MODEL
    ask.answer()
    await stop
    assert receiver.output == b"1"
    assert len(ask.house.cache) == 0, "nothing of a version that goes is kept"
    replicas(ask.model).become(State.LIVE)
    assert not ask.model.connected


async def test_what_a_stopped_version_could_not_answer_is_told(ask: Ask) -> None:
    receiver = ask.one(1)
    ask.turn()
    joined = ask.one(1)
    await ask.model.stop(0.0)
    assert receiver.output == joined.output == STOPPED
    assert ask.house.cache.in_flight == {} and ask.model.intake.queue.rows == 0


async def test_a_deleted_application_tells_who_waits(ask: Ask) -> None:
    single, batch, block = ask.one(1), ask.many(2, 3), ask.block(4)
    ask.turn()
    ask.application.close()
    assert single.output == GONE
    assert batch.outputs == [GONE, GONE] and block.outputs == [GONE]
    assert ask.house.loop.armed == []
    ask.answer()
    assert single.output == GONE


# -- overload --------------------------------------------------------------------------


async def test_a_full_queue_refuses_at_once(ask: Ask) -> None:
    replicas(ask.model).replica.capacity = 0
    for value in range(50):
        assert not ask.one(value).told
    assert ask.one(99).output == FULL
    assert ask.block(1, 2, 3).outputs == [FULL] * 3
    assert ask.many(101, 102).outputs == [FULL] * 2
    joined = ask.one(1)  # costs nothing
    assert not joined.told and ask.model.intake.queue.rows == 50
    assert len(ask.house.cache.in_flight) == 50


async def test_an_empty_queue_takes_a_request_of_any_size(ask: Ask) -> None:
    assert not ask.block(*range(80)).told


async def test_what_nobody_waits_for_does_not_fill_the_queue(ask: Ask) -> None:
    replicas(ask.model).replica.capacity = 0
    for value in range(50):
        ask.one(value)
    ask.turn()
    ask.wait(SLO * 2)
    fresh = ask.one(99)
    assert not fresh.told
    assert ask.model.intake.queue.rows == 1
    assert len(ask.house.cache.in_flight) == 1
