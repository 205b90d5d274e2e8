"""Queries that share outputs and evaluations, in manual time."""

from __future__ import annotations

from house import SLO, Ask, House, Receiver, replicas, row

from clipper.batching.job import EXPIRED
from clipper.batching.outcomes import REFUSED
from clipper.values import FailureKind, RowError

# -- outputs that grow old -------------------------------------------------------------


async def test_what_is_older_than_the_ttl_is_evaluated_again(house: House) -> None:
    ask = Ask(house, cache_ttl_seconds=2.0)
    ask.one(7)
    ask.wait(SLO)  # an output is as old as its evaluation, not as its query
    ask.answer()
    ask.wait(2.0)
    assert ask.one(7).output == b"7"
    ask.wait(0.001)
    stale = ask.one(7)
    assert not stale.told
    ask.answer(lambda x: b"8")
    assert stale.output == b"8" and ask.one(7).output == b"8"
    ask.wait(2.0)
    assert ask.one(7).output == b"8", "the fresh output has a time of its own"


async def test_the_ttl_is_the_readers(house: House) -> None:
    ask = Ask(house, cache_ttl_seconds=2.0)
    patient = house.application(ask.model)
    ask.one(7)
    ask.answer()
    ask.wait(3600)
    receiver = Receiver()
    patient.submit(row(7), receiver)
    assert receiver.output == b"7"
    assert not ask.one(7).told
    again = Receiver()
    patient.submit(row(7), again)
    assert again.output == b"7", "the old output serves until there is a new one"
    ask.answer(lambda x: b"8")
    last = Receiver()
    patient.submit(row(7), last)
    assert last.output == b"8"


async def test_stale_queries_share_one_evaluation(house: House) -> None:
    ask = Ask(house, cache_ttl_seconds=2.0)
    ask.many(7, 8)
    ask.answer()
    ask.wait(3)
    receivers = [ask.one(7), ask.many(7, 8, 7), ask.one(7)]
    ask.answer(lambda x: b"%d" % (x[0] + 10))
    assert receivers[0].output == receivers[2].output == b"17"
    assert receivers[1].outputs == [b"17", b"18", b"17"]
    assert ask.replica.seen[1:] == [[[7.0], [8.0]]]
    assert house.cache.in_flight == {}


async def test_a_stale_output_outlives_a_failed_evaluation(house: House) -> None:
    ask = Ask(house, cache_ttl_seconds=2.0)
    ask.one(7)
    ask.answer()
    ask.wait(3)
    failed = ask.one(7)
    ask.answer(lambda x: RowError("invalid_output", "NaN"))
    assert isinstance(failed.output, RowError)
    assert not ask.one(7).told
    receiver = Receiver()
    house.application(ask.model).submit(row(7), receiver)
    assert receiver.output == b"7"


# -- single flight ---------------------------------------------------------------------


async def test_a_thousand_equal_queries_make_one_evaluation(ask: Ask) -> None:
    receivers = [ask.one(7) for _ in range(1000)]
    ask.answer()
    assert {receiver.output for receiver in receivers} == {b"7"}
    assert ask.replica.seen == [[[7.0]]]
    assert ask.house.cache.joins == 999


async def test_errors_are_shared_but_not_kept(ask: Ask) -> None:
    receivers = [ask.one(7), ask.one(7)]
    ask.fail(FailureKind.RAISED)
    assert [r.output for r in receivers] == [RowError("model_failed", "it failed")] * 2
    again = ask.one(7)
    ask.answer()
    assert again.output == b"7"


async def test_a_joined_query_keeps_its_own_deadline(ask: Ask) -> None:
    first = ask.one(7)
    ask.wait(0.06)
    second = ask.one(7)
    ask.wait(0.05)
    assert first.output == EXPIRED and not second.told
    ask.answer()
    assert second.output == b"7"


async def test_a_hasty_query_promotes_the_job_it_joins(house: House) -> None:
    ask = Ask(house)
    hasty = house.application(ask.model, slo_micros=10_000)
    replicas(ask.model).replica.capacity = 0
    for value in range(3):
        ask.one(value)
    receiver = Receiver()
    hasty.submit(row(2), receiver)
    assert ask.model.intake.queue.head == house.clock.now() + 0.01
    replicas(ask.model).replica.capacity = 1
    ask.model.dispatcher.reopen()
    ask.turn()
    assert ask.replica.seen == [[[2.0], [0.0], [1.0]]]


async def test_the_first_query_gone_the_second_still_gets_the_shared_answer(
    ask: Ask,
) -> None:
    first, query = ask.one(7), ask.query
    second = ask.one(7)
    query.cancel()
    query.cancel()
    ask.answer()
    assert not first.told and second.output == b"7"
    assert ask.stats.cancelled == 1


async def test_queued_work_that_nobody_waits_for_is_dropped(ask: Ask) -> None:
    ask.one(7)
    ask.query.cancel()
    ask.turn()
    assert ask.replica.seen == []
    assert ask.model.dispatcher.stats.abandoned_rows == 1
    assert ask.house.cache.in_flight == {} and ask.model.intake.queue.rows == 0


async def test_running_work_that_nobody_waits_for_fills_the_cache(ask: Ask) -> None:
    ask.one(7)
    ask.turn()
    ask.query.cancel()
    ask.answer()
    assert ask.one(7).output == b"7"


async def test_a_query_that_joins_abandoned_work_brings_it_back(ask: Ask) -> None:
    ask.one(7)
    ask.query.cancel()
    receiver = ask.one(7)
    ask.answer()
    assert receiver.output == b"7"


async def test_a_cancelled_query_stays_silent_at_its_deadline(ask: Ask) -> None:
    receiver = ask.one(7)
    ask.turn()
    ask.query.cancel()
    ask.wait(1)
    assert not receiver.told and ask.stats.failures == {}


async def test_a_next_request_from_inside_an_answer_is_served(ask: Ask) -> None:
    """A connection goes on with its pipelined requests before the call returns."""
    inner = Receiver()
    outer = ask.one(1, receiver=Receiver(lambda: ask.one(1, receiver=inner)))
    ask.answer()
    assert (outer.output, inner.output) == (b"1", b"1")


async def test_a_next_request_from_inside_a_late_answer_has_its_own_time(ask: Ask) -> None:
    late = Receiver()
    ask.one(2, receiver=Receiver(lambda: ask.one(3, receiver=late)))
    ask.turn()
    ask.wait(SLO + 0.01)
    assert not late.told
    ask.wait(SLO)
    assert late.output == EXPIRED


async def test_while_a_batch_is_late_a_row_without_time_for_it_is_refused(ask: Ask) -> None:
    ask.one(1)
    ask.answer()
    ask.one(2)
    ask.turn()
    ask.wait(SLO + 0.01)
    waiting = ask.one(3)
    ask.turn()  # there is no replica for it: that one is late is seen now
    assert ask.one(4).output == REFUSED and not waiting.told
