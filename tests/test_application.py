"""The query path with fake replicas, in manual time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import SLO, Ask, House, Receiver, replicas, row

from clipper.application import GONE
from clipper.batching.job import EXPIRED
from clipper.batching.outcomes import FULL, REFUSED
from clipper.config import Limits
from clipper.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotFound,
    Overloaded,
    Unavailable,
)
from clipper.model import STOPPED
from clipper.query import NO_MODEL
from clipper.records import PolicySettings
from clipper.rendering import render_string
from clipper.selection.policy import Subject
from clipper.selection.static import Static
from clipper.values import FailureKind, Output, Prediction, RowError
from clipper.workers.replica_set import State


@pytest.fixture
async def house(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> House:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    return House(clock, fake_loop)


@pytest.fixture
async def ask(house: House) -> Ask:
    return Ask(house)


def arm_of(house: House, query_id: str) -> int:
    return house.ids.read(query_id).arm


# -- one query -------------------------------------------------------------------------


async def test_a_query_is_answered_by_the_model(ask: Ask) -> None:
    receiver = ask.one(7)
    assert not receiver.told
    ask.answer()
    assert receiver.output == b"7"
    assert receiver.query is not None and receiver.query.job is None
    prediction = ask.application.prediction(receiver.query)
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


# -- without a model -------------------------------------------------------------------


async def test_without_a_model_the_answer_says_so(house: House) -> None:
    application = house.application()
    for receiver in (Receiver(), Receiver()):
        query = application.submit(row(1), receiver)
        assert receiver.output == NO_MODEL
        with pytest.raises(Unavailable, match="No connected models found for query"):
            application.prediction(query)
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


# -- versions --------------------------------------------------------------------------


async def test_a_query_may_name_a_version(house: House) -> None:
    old, new = house.model(version="1"), house.model(version="2")
    application = house.application(new, old)
    receiver = Receiver()
    query = application.submit(row(1), receiver, version="1")
    house.loop.turn()
    assert replicas(old).replica.seen and not replicas(new).replica.seen
    assert arm_of(house, query.issue_id().decode()) == old.record.generation
    with pytest.raises(InvalidInput, match="Requested version: 3 does not exist"):
        application.submit(row(1), receiver, version="3")
    assert application.models == [new] and application.reachable == {old, new}
    assert "m:2" in repr(application)


async def test_naming_a_version_needs_a_single_model(house: House) -> None:
    application = house.application(house.model("a"), house.model("b"))
    with pytest.raises(InvalidInput, match="has 2"):
        application.submit(row(1), Receiver(), version="1")
    with pytest.raises(InvalidInput, match="none linked"):
        house.application().submit(row(1), Receiver(), version="1")


async def test_a_switch_of_versions_disturbs_no_query_under_way(house: House) -> None:
    ask = Ask(house)
    before = ask.one(1)
    ask.turn()
    new = house.model(version="2")
    ask.application.update(ask.application.record, [new], {"2": new, "1": ask.model})
    after = ask.one(1)
    house.loop.turn()
    replicas(new).replica.answer(lambda x: b'"new"')
    ask.answer()
    assert (before.output, after.output) == (b"1", b'"new"')
    assert ask.one(1).output == b'"new"'
    assert ask.one(1, version="1").output == b"1"


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


# -- batches ---------------------------------------------------------------------------


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


# -- what the client sees --------------------------------------------------------------


def answer_of(ask: Ask, output: Output) -> Prediction:
    receiver = ask.one(hash(output.cause) if isinstance(output, RowError) else 1)
    ask.answer(lambda x: output)
    assert receiver.query is not None
    return ask.application.prediction(receiver.query)


@pytest.mark.parametrize(
    ("fields", "output", "expected"),
    [
        ({}, b"6.6", 6.6),
        ({}, "6.6", 6.6),
        ({}, ' {"a": [1, null]}\n', {"a": [1, None]}),
        ({}, b'"6.6"', "6.6"),
        ({"parse_output": False}, "6.6", "6.6"),
        ({"parse_output": False}, "[1]", "[1]"),
        ({"parse_output": False}, b"[1]", [1]),
    ],
)
async def test_a_string_that_is_json_is_given_as_that_json(
    house: House, fields: dict[str, Any], output: Output, expected: Any
) -> None:
    assert answer_of(Ask(house, **fields), output).output == expected


async def test_a_function_over_json_means_its_strings_as_strings(house: House) -> None:
    application = house.application(input_type="json")
    assert application.rendering.text("6.6") == b'"6.6"'
    assert application.rendering.text(b"6.6") == b"6.6"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("-1.0", b"-1.0"),
        (" 0 ", b"0"),
        ("null", b"null"),
        ('{"label": null}', b'{"label": null}'),
        ('"quoted"', b'"quoted"'),
        ("123456789012345678901234567890", b"123456789012345678901234567890"),
        ("unknown", b'"unknown"'),
        ("", b'""'),
        ("NaN", b'"NaN"'),
        ("Infinity", b'"Infinity"'),
        ("1e999", b'"1e999"'),
        ("[1,]", b'"[1,]"'),
        ("\u00a01", '"\u00a01"'.encode()),
        ("[" * 100_000, b'"' + b"[" * 100_000 + b'"'),
    ],
)
def test_a_default_is_its_json_or_a_string(text: str, parsed: bytes) -> None:
    assert render_string(text, parse=True) == parsed
    assert msgspec.json.decode(render_string(text, parse=False)) == text


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (RowError("model_failed", "it raised"), ModelFailed),
        (RowError("model_crashed", "it died"), ModelFailed),
        (RowError("model_hung", "it hung"), ModelFailed),
        (RowError("invalid_output", "NaN"), ModelFailed),
        (RowError("overloaded", "too much"), Overloaded),
        (RowError("unavailable", "stopped"), Unavailable),
        (RowError("deadline_exceeded", "late"), DeadlineExceeded),
        (RowError("no_model", "none"), Unavailable),
    ],
)
async def test_a_failure_becomes_the_default_or_an_error(
    house: House, output: RowError, error: type[Exception]
) -> None:
    with pytest.raises(error, match=output.cause):
        answer_of(Ask(house), output)
    prediction = answer_of(Ask(house, default_output="-1.0"), output)
    assert prediction.output == -1.0
    assert prediction.default and prediction.default_explanation == output.cause


async def test_overload_can_be_an_error_in_spite_of_a_default(house: House) -> None:
    ask = Ask(house, default_output="-1.0", on_overload="reject")
    with pytest.raises(Overloaded):
        answer_of(ask, FULL)
    assert answer_of(ask, EXPIRED).default


# -- policy ----------------------------------------------------------------------------


class ByContext(Static):
    """Whose context says so has the second model."""

    name = "by_context"
    contextual = True

    def features(self, context: Any) -> Any:
        if not isinstance(context, bool):
            raise InvalidInput("policy by_context needs a boolean at $.context")
        return context

    def probabilities(self, state: Any, arms: Any, context: Any) -> list[float]:
        return [float(not context), float(context)]


async def test_a_policy_may_look_at_the_context(house: House) -> None:
    first, second = house.model("a"), house.model("b")
    application = house.application(first, second)
    application.learner.policy = ByContext()
    application.update(application.record, [first, second], {})
    for context, model in ((False, first), (True, second)):
        query = application.submit(row(1), Receiver(), Subject(None, context))
        arm = house.ids.read(query.issue_id().decode()).arm
        assert arm == model.record.generation
    with pytest.raises(InvalidInput, match=r"a boolean at \$\.context"):
        application.submit(row(1), Receiver(), Subject(None, "yes"))
    application.update(application.record, [], {})
    nobody = Receiver()
    application.submit(row(1), nobody)
    assert nobody.output == NO_MODEL


async def test_the_policy_may_name_the_model_that_answers(house: House) -> None:
    first, second = house.model("a"), house.model("b")
    policy = PolicySettings("static", {"model": "b"})
    application = house.application(first, second, policy=policy)
    application.update(application.record, [first, second], {})
    application.submit(row(1), Receiver())
    house.loop.turn()
    assert replicas(second).replica.seen and not replicas(first).replica.seen
