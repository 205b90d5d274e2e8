"""Feedback on its way into the log and to the learner, with a log in memory."""

from __future__ import annotations

from typing import Any

import pytest
from house import row
from school import Make, School, Told

from clipper.errors import Conflict, DiskFull, InvalidInput, NotFound, PayloadTooLarge
from clipper.pieces import Item
from clipper.selection.policy import Subject


async def test_the_same_again_is_a_duplicate(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"3")
    assert class_.give(query_id, label=3).duplicate is False
    again = class_.give(query_id, label=3)
    assert again.accepted and again.duplicate is True
    assert sum(t.count for t in class_.learner.population.totals.values()) == 1


async def test_something_else_on_the_same_query_is_a_conflict(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"3")
    class_.give(query_id, label=3)
    for other in ({"label": 4}, {"reward": 1.0}):
        assert isinstance(class_.give(query_id, **other).error, Conflict)


async def test_both_in_one_turn_count_once(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"3")
    first, second = Told(), Told()
    class_.feedback.take(Item(query_id, label=3), first)
    class_.feedback.take(Item(query_id, label=3), second)
    assert not first.times  # nothing is acknowledged before the log has it
    class_.loop.turn()
    assert (first.duplicate, second.duplicate) == (False, True)


async def test_a_label_too_large_for_the_log_is_refused(school: Make) -> None:
    class_ = school()
    told = class_.give(class_.ask(b"3"), label="x" * 70_000)
    assert isinstance(told.error, PayloadTooLarge)


async def test_a_full_disk_is_told_and_nothing_is_learned(
    school: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_ = school()
    query_id = class_.ask(b"3")

    def full(entries: Any, persons: Any, done: Any) -> None:
        done(None, DiskFull("the disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(class_.log, "append", full)
        assert isinstance(class_.give(query_id, label=3, uid=None).error, DiskFull)
    assert class_.learner.population.totals == {}
    assert class_.give(query_id, label=3).duplicate is False  # nothing was lost


@pytest.mark.parametrize("by", ["query", "input"])
async def test_a_label_that_json_cannot_say_is_refused(school: Make, by: str) -> None:
    class_ = school("hedge", cache=True)
    query_id = class_.ask(b"3", b"4")
    fields: dict[str, Any] = {"row": row(1)} if by == "input" else {"query_id": query_id}
    for label in (10**5000, {1: "a"}):
        told = class_.give(**fields, label=label)
        assert told.times == 1 and isinstance(told.error, InvalidInput)
    assert await class_.entries() == []


async def test_a_label_says_the_same_only_if_it_is_the_same_json(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"1")
    assert class_.give(query_id, label=1).accepted
    assert class_.give(query_id, label=1.0).duplicate
    assert isinstance(class_.give(query_id, label=True).error, Conflict)


async def test_of_a_deleted_application_nothing_comes_into_the_log(school: Make) -> None:
    class_ = school("hedge")
    query_id = class_.ask(b"3", b"4")
    told = class_.give(row=row(1), label=4, uid="alice")
    class_.feedback.close()
    class_.answer(b"3", b"4")
    assert isinstance(told.error, NotFound) and told.times == 1
    assert isinstance(class_.give(query_id, label=3).error, NotFound)
    assert await class_.entries() == [] and len(class_.learner.users) == 0


async def test_feedback_with_an_id_of_its_own_counts_once(school: Make) -> None:
    class_ = school("hedge", cache=True)
    class_.ask(b"3", b"4")
    first = class_.give(row=row(1), label=4, feedback_id="a")
    again = class_.give(row=row(1), label=4, feedback_id="a")
    other = class_.give(row=row(1), label=3, feedback_id="a")
    without = class_.give(row=row(1), label=4)
    assert (first.duplicate, again.duplicate, without.duplicate) == (False, True, False)
    assert isinstance(other.error, Conflict)
    assert class_.learner.population.totals[next(iter(class_.application.arms))].count == 2


async def test_feedback_creates_a_user_and_a_query_does_not(school: Make) -> None:
    class_ = school()
    query_id = class_.ask(b"3", subject=Subject("alice"))
    assert len(class_.learner.users) == 0
    class_.give(query_id, label=3)
    assert len(class_.learner.users) == 1


async def test_a_cold_user_is_read_before_it_learns(school: Make) -> None:
    class_ = school()
    give = lambda: class_.give(class_.ask(b"3", subject=Subject("alice")), label=3)  # noqa: E731
    give()
    class_.house.learning.journal.flush()
    await class_.house.learning.close()
    before = class_.learner.users.get("alice")
    assert before is not None and before.experience is not None
    packed = before.experience.pack()
    class_.learner.users.remove("alice")
    query_id = class_.ask(b"3")  # nobody's, so that alice is not loaded by asking
    kept, nonce = class_.house.learning.decisions._newest, class_.house.ids.nonce
    kept[nonce] = kept[nonce]._replace(uid="alice")
    assert class_.give(query_id, label=3).accepted
    after = class_.learner.users.get("alice")
    assert after is not None and after.experience is not None
    assert sum(t.count for t in after.experience.totals.values()) == 2
    assert packed != after.experience.pack()


async def forget(class_: School, uid: str) -> None:
    class_.house.clock.move(0.5)  # the middle of a second
    await class_.house.learning.forget(class_.learner, uid)


async def test_what_waited_when_a_user_was_forgotten_is_nobodys(school: Make) -> None:
    class_ = school("hedge")
    told = class_.give(row=row(1), label=4, uid="alice")
    await forget(class_, "alice")
    class_.answer(b"3", b"4")
    assert told.accepted and class_.means == [1.0, 0.0]  # everybody learns of it
    assert len(class_.learner.users) == 0
    assert await class_.uids() == [None]


async def test_an_earlier_query_does_not_bring_a_forgotten_user_back(school: Make) -> None:
    class_ = school("hedge")
    early = class_.ask(b"3", b"4", subject=Subject("alice"))
    bobs = class_.ask(b"3", b"4", subject=Subject("bob"))
    await forget(class_, "alice")
    assert class_.give(early, label=4, uid="alice").accepted
    assert class_.give(bobs, label=4).accepted
    assert await class_.uids() == [None, "bob"]
    assert class_.learner.users.get("alice") is None


async def test_a_forgotten_user_may_begin_again(school: Make) -> None:
    class_ = school("hedge", cache=True)
    await forget(class_, "alice")
    class_.house.clock.move(0.5)
    query_id = class_.ask(b"3", b"4", subject=Subject("alice"))
    assert class_.give(query_id, label=4).accepted
    assert class_.give(row=row(1), label=4, uid="alice").accepted
    assert await class_.uids() == ["alice", "alice"]
    assert class_.learner.users.get("alice") is not None
