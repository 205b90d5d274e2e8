"""The feedback path with fake replicas and a log in memory, in manual time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fakes import FakeLoop, ManualClock
from house import Receiver, replicas, row
from school import Make, School, Told

from clipper.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    QueryIdExpired,
    ResendInput,
    Unavailable,
)
from clipper.learning import decisions as decisions_module
from clipper.pieces import Item
from clipper.query_id import LIFETIME
from clipper.records import PolicySettings
from clipper.selection.losses import make_loss
from clipper.selection.policy import Subject

# -- on a query --------------------------------------------------------------------------


async def test_the_propensity_is_the_logged_one(school: Make) -> None:
    class_ = school("exp3")
    early = class_.ask(b"3")
    for _ in range(20):
        class_.give(class_.ask(b"3"), label=4)
    class_.give(early, label=4)
    assert (await class_.entries())[-1].propensity == pytest.approx(0.5)
    assert (await class_.entries())[-1].policy == class_.learner.generation


async def test_each_row_of_a_batch_has_feedback_of_its_own(school: Make) -> None:
    class_ = school("hedge")
    receiver = Receiver()
    batch = class_.application.submit_batch([row(1), row(2)], receiver)
    class_.answer(b"3", b"4")
    shared = batch.issue_id().decode()
    assert class_.give(f"{shared}.0", label=3).accepted
    assert class_.give(f"{shared}.1", label=4).accepted
    assert class_.means == [0.5, 0.5]
    assert isinstance(class_.give(f"{shared}.2", label=4).error, NotFound)


# -- what is not taken -------------------------------------------------------------------


@pytest.mark.parametrize("query_id", ["", "nonsense", "A" * 64, "A" * 64 + ".1"])
async def test_a_forged_id_is_unknown(school: Make, query_id: str) -> None:
    assert isinstance(school().give(query_id, reward=1.0).error, NotFound)


async def test_an_id_of_another_application_is_unknown(
    school: Make, clock: ManualClock, fake_loop: FakeLoop
) -> None:
    class_ = school()
    other = class_.house.application(class_.models[0])
    other.update(other.record, class_.models, {})
    query = other.submit(row(1), Receiver())
    class_.answer(b"3")
    assert isinstance(class_.give(query.issue_id().decode(), reward=1.0).error, NotFound)


async def test_an_old_id_is_told_so(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"3")
    class_.house.clock.move(LIFETIME + 10)
    assert isinstance(class_.give(query_id, reward=1.0).error, QueryIdExpired)


async def test_a_label_that_makes_no_sense_is_refused(school: Make) -> None:
    class_ = school(loss="absolute(10)")
    told = class_.give(class_.ask(b"3"), label="three")
    assert isinstance(told.error, InvalidInput) and "$.label" in told.error.cause


async def test_feedback_for_somebody_else_is_refused(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"3", subject=Subject("alice"))
    assert isinstance(class_.give(query_id, label=3, uid="bob").error, InvalidInput)
    assert class_.give(query_id, label=3, uid="alice").accepted


async def test_of_an_error_that_nobody_foresaw_the_client_is_told(
    school: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class_ = school("hedge")
    query_id = class_.ask(b"3", b"4")

    def broken(*args: Any) -> None:
        raise KeyError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(class_.application, "loss", broken)
        patch.setattr(broken, "check_label", lambda label: None, raising=False)
        by_query = class_.give(query_id, label=3)
        by_input = class_.give(row=row(1), label=3)
        class_.answer(b"3", b"4")
    with monkeypatch.context() as patch:
        patch.setattr(class_.learner, "apply", broken)
        logged = class_.give(query_id, label=3)
    for told in (by_query, by_input, logged):
        assert told.times == 1 and told.error is not None
        assert told.error.code == "internal_error" and "mistake" not in told.error.cause
    assert caplog.text.count("KeyError: 'a mistake'") == 3
    assert class_.give(query_id, label=3).duplicate  # it was in the log by then


async def test_whoever_raises_when_told_is_told_once(
    school: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class_ = school("hedge", cache=True)
    class_.ask(b"3", b"4")
    times = []

    def told(duplicate: bool, error: Any) -> None:
        times.append(error)
        raise KeyError("a mistake")

    class_.application.loss = make_loss("log")  # for which the outputs make no sense
    class_.feedback.take(Item(row=row(1), label=3), told)
    assert len(times) == 1 and isinstance(times[0], InvalidInput)
    assert "a mistake" in caplog.text


# -- a version that the application has left ---------------------------------------------


async def test_a_version_that_is_deployed_still_keeps_its_name(school: Make) -> None:
    class_ = school("static")
    query_id = class_.ask(b"3")
    class_.application.update(class_.application.record, class_.models[1:], {})
    assert class_.give(query_id, label=3).accepted
    (entry,) = await class_.entries()
    assert entry.chosen == ("m0:1#1",) and entry.losses == {"m0:1#1": 0.0}


async def test_a_version_that_is_deployed_still_is_asked_again(school: Make) -> None:
    class_ = school("static")
    query_id = class_.ask(b"3")
    forget_decisions(class_)
    class_.application.update(class_.application.record, class_.models[1:], {})
    told = class_.give(query_id, label=3, row=row(1))
    await class_.loop.work()
    class_.answer(b"3", b"4")
    assert told.accepted
    assert (await class_.entries())[0].losses == {"m0:1#1": 0.0}


async def test_a_version_that_is_gone_cannot_be_asked(school: Make) -> None:
    class_ = school("static")
    ids = [class_.ask(b"3") for _ in range(2)]
    forget_decisions(class_)
    class_.application.update(class_.application.record, class_.models[1:], {})
    class_.deployed.pop(class_.models[0].id)
    told = class_.give(ids[0], label=3, row=row(1))
    await class_.loop.work()
    assert isinstance(told.error, Conflict)
    told = class_.give(ids[1], reward=1.0)
    await class_.loop.work()
    assert told.accepted and (await class_.entries())[0].chosen == ("deleted:#1",)


# -- a decision that is lost -------------------------------------------------------------


def forget_decisions(class_: School) -> None:
    memory: Any = class_.house.learning.decisions
    memory._newest.clear()
    memory._next, memory._next_nonces = [], []


async def test_a_reward_needs_no_more_than_the_id(school: Make) -> None:
    class_ = school("exp3")
    query_id = class_.ask(b"3", subject=Subject("alice"))
    token = class_.house.ids.read(query_id)
    forget_decisions(class_)
    told = class_.give(query_id, reward=0.0, uid="alice")
    await class_.loop.work()
    assert told.accepted
    (entry,) = await class_.entries()
    assert entry.propensity == pytest.approx(0.5) and entry.loss == 1.0
    assert entry.chosen[0].endswith(f"#{token.arm}")
    assert len(class_.learner.users) == 1


@pytest.mark.parametrize("policy", ["exp3", "hedge"])
async def test_a_label_needs_the_input(school: Make, policy: str) -> None:
    class_ = school(policy)
    query_id = class_.ask(b"3")
    forget_decisions(class_)
    told = class_.give(query_id, label=3)
    await class_.loop.work()
    assert isinstance(told.error, ResendInput)
    told = class_.give(query_id, label=3, row=row(1))
    await class_.loop.work()
    assert not told.times
    class_.answer(b"3", b"4")
    assert told.accepted
    (entry,) = await class_.entries()
    assert len(entry.losses) == (2 if policy == "hedge" else 1)


async def test_a_label_for_a_lost_ensemble_judges_members_and_no_answer(
    school: Make,
) -> None:
    class_ = school("hedge")
    query_id = class_.ask(b"3", b"4")
    forget_decisions(class_)
    told = class_.give(query_id, label=4, row=row(1))
    await class_.loop.work()  # the disk does not know it
    class_.answer(b"3", b"4")
    assert told.accepted
    assert class_.means == [1.0, 0.0]
    (entry,) = await class_.entries()
    assert entry.loss is None and entry.chosen == ()


async def test_a_decision_of_an_earlier_policy_is_looked_for_on_disk(
    school: Make,
) -> None:
    class_ = school("ucb1")
    query_id = class_.ask(b"3")
    class_.house.learning.decisions.flush()
    await class_.loop.work()
    forget_decisions(class_)
    record = msgspec.structs.replace(
        class_.application.record, policy=PolicySettings("static"), policy_generation=2
    )
    class_.house.learning.follow_policy(record)
    class_.loop.turn()
    told = class_.give(query_id, label=3)
    await class_.loop.work()
    assert told.accepted and class_.learner.policy.name == "static"


async def test_a_reward_for_a_lost_ensemble_is_taken_and_teaches_nothing(
    school: Make,
) -> None:
    class_ = school("hedge")
    query_id = class_.ask(b"3")
    forget_decisions(class_)
    told = class_.give(query_id, reward=1.0)
    await class_.loop.work()
    assert told.accepted and class_.means == [None, None]


async def test_what_the_log_has_needs_no_input_to_be_said_again(school: Make) -> None:
    class_ = school("hedge")
    query_id = class_.ask(b"3")
    class_.give(query_id, label=3)
    forget_decisions(class_)
    again, other = class_.give(query_id, label=3), class_.give(query_id, label=4)
    await class_.loop.work()
    assert again.accepted and again.duplicate is True
    assert isinstance(other.error, Conflict) and not isinstance(other.error, ResendInput)


async def test_a_contextual_policy_needs_the_context(school: Make) -> None:
    class_ = school("linucb", options={"features": 2})
    subject = Subject(None, [1.0, 2.0])
    query_id = class_.ask(b"3", subject=subject)
    forget_decisions(class_)
    told = class_.give(query_id, reward=1.0)
    await class_.loop.work()
    assert isinstance(told.error, ResendInput)
    told = class_.give(query_id, reward=1.0, context=[1.0, 2.0])
    await class_.loop.work()
    assert told.accepted
    assert (await class_.entries())[0].context == [1.0, 2.0]


async def test_features_that_fail_do_not_lose_feedback(
    school: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_ = school("linucb", options={"features": 2})
    query_id = class_.ask(b"3", subject=Subject(None, [1.0, 2.0]))
    forget_decisions(class_)

    def fail(context: Any) -> Any:
        raise KeyError("made by hand")

    monkeypatch.setattr(class_.learner.policy, "features", fail)
    told = class_.give(query_id, reward=1.0, context=[1.0, 2.0])
    await class_.loop.work()
    assert told.accepted
    assert (await class_.entries())[0].context is None


async def test_decisions_come_back_from_the_disk(school: Make) -> None:
    class_ = school("hedge")
    query_id = class_.ask(b"3", b"4", subject=Subject("alice"))
    class_.house.learning.decisions.flush()
    await class_.loop.work()
    memory: Any = class_.house.learning.decisions
    memory._newest.clear()
    told = class_.give(query_id, label=4)
    assert not told.times
    await class_.loop.work()
    assert told.accepted
    assert class_.means == [1.0, 0.0]
    assert len(class_.learner.users) == 1


async def test_an_output_too_large_to_keep_needs_the_input(
    school: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_ = school()
    text = msgspec.json.encode("x" * 5000)
    query_id = class_.ask(text)
    told = class_.give(query_id, label="y")
    await class_.loop.work()
    assert isinstance(told.error, ResendInput)
    told = class_.give(query_id, label="y", row=row(1))
    class_.answer(text)
    assert told.accepted
    assert (await class_.entries())[0].loss == 1.0


async def test_too_many_lookups_are_refused(
    school: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_ = school()
    ids = [class_.ask(b"3") for _ in range(3)]
    forget_decisions(class_)
    monkeypatch.setattr(decisions_module, "_ASKED", 1)
    class_.give(ids[0], reward=1.0)
    told = class_.give(ids[1], reward=1.0)
    assert told.error is not None and told.error.status == 503
    await class_.loop.work()


# -- on an input -------------------------------------------------------------------------


async def test_an_input_is_evaluated_by_every_model(school: Make) -> None:
    class_ = school("hedge")
    told = class_.give(row=row(1), label=4, uid="alice")
    assert not told.times
    class_.answer(b"3", b"4")
    assert told.accepted
    assert class_.means == [1.0, 0.0]
    (entry,) = await class_.entries()
    assert entry.chosen == () and entry.loss is None and entry.input is not None
    assert class_.learner.users.get("alice") is not None


async def test_an_input_may_be_in_the_cache(school: Make) -> None:
    class_ = school("hedge", cache=True)
    class_.ask(b"3", b"4")
    assert class_.give(row=row(1), label=4).accepted


async def test_queries_go_before_feedback(school: Make) -> None:
    class_ = school("hedge")
    class_.feedback.take(Item(row=row(7), label=4), Told())
    class_.application.submit(row(1), Receiver())
    class_.loop.turn()
    assert replicas(class_.models[0]).replica.seen[0] == [[1.0], [7.0]]


async def test_a_policy_of_single_choices_needs_a_query(school: Make) -> None:
    told = school("exp3").give(row=row(1), label=4)
    assert isinstance(told.error, InvalidInput) and "query_id" in told.error.cause


async def test_a_reward_needs_a_query(school: Make) -> None:
    assert isinstance(school("hedge").give(row=row(1), reward=1.0).error, InvalidInput)


async def test_without_a_model_that_answers_feedback_waits_for_better_times(
    school: Make,
) -> None:
    class_ = school("hedge")
    for model in class_.models:
        model.connected = False
    told = class_.give(row=row(1), label=4)
    assert isinstance(told.error, Unavailable)


# -- users -------------------------------------------------------------------------------


async def test_a_users_feedback_counts_for_the_user_at_once(school: Make) -> None:
    class_ = school("hedge", models=2)
    for _ in range(30):
        query_id = class_.ask(b"3", b"4", subject=Subject("alice"))
        class_.give(query_id, label=4)
        query_id = class_.ask(b"3", b"4", subject=Subject("bob"))
        class_.give(query_id, label=3)
    assert class_.ask(b"3", b"4", subject=Subject("alice"))
    chooser = class_.application.roster.chooser
    now = class_.house.clock.now()
    alice = chooser.choose(Subject("alice"), now).odds
    bob = chooser.choose(Subject("bob"), now).odds
    assert alice[1] > 0.8 and bob[0] > 0.8


async def test_a_cold_users_query_waits_for_half_its_budget(school: Make) -> None:
    class_ = school("hedge")
    class_.learner.users.count("alice")
    receiver = Receiver()
    class_.application.submit(row(1), receiver, Subject("alice"))
    class_.loop.turn()
    assert not replicas(class_.models[0]).replica.seen
    class_.loop.advance(0.051)
    assert replicas(class_.models[0]).replica.seen  # the disk took too long
    class_.answer(b"3")
    assert receiver.output == b"3"
    await class_.loop.work()


async def test_a_cold_user_is_loaded_for_its_query(school: Make) -> None:
    class_ = school("hedge")
    class_.learner.users.count("alice")
    receiver = Receiver()
    class_.application.submit(row(1), receiver, Subject("alice"))
    await class_.loop.work()
    class_.answer(b"3")
    assert receiver.output == b"3"
    assert class_.learner.users.get("alice") is not None
