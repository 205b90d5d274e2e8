"""What a label or a reward tells of the arms."""

from __future__ import annotations

import pytest
from house import Receiver, replicas, row
from school import Make

from clipper.errors import InvalidInput
from clipper.values import FailureKind


async def test_a_label_becomes_the_loss_of_who_answered(school: Make) -> None:
    class_ = school()
    assert class_.give(class_.ask(b"3"), label=3).accepted
    assert class_.give(class_.ask(b"3"), label=4).accepted
    assert sorted(mean for mean in class_.means if mean is not None) == [0.0, 1.0]
    first, second = await class_.entries()
    assert first.loss == 0.0 and second.loss == 1.0
    assert first.chosen != second.chosen  # ucb1 tries both
    assert first.arms == tuple(class_.application.arms)
    assert first.propensity == pytest.approx(0.5)  # two unvisited arms


async def test_a_reward_is_one_less_the_loss(school: Make) -> None:
    class_ = school()
    assert class_.give(class_.ask(b"3"), reward=0.75).accepted
    (entry,) = await class_.entries()
    assert entry.loss == 0.25 and entry.reward == 0.75
    assert entry.losses == {entry.chosen[0]: 0.25}


async def test_under_an_ensemble_a_label_judges_every_member(school: Make) -> None:
    class_ = school("hedge")
    assert class_.give(class_.ask(b"3", b"4"), label=4).accepted
    assert class_.means == [1.0, 0.0]
    (entry,) = await class_.entries()
    assert len(entry.losses) == 2 and entry.loss in (0.0, 1.0)


async def test_under_an_ensemble_a_reward_judges_who_agreed(school: Make) -> None:
    class_ = school("hedge", models=3)
    assert class_.give(class_.ask(b"3", b"3", b"4"), reward=1.0).accepted
    assert class_.means == [0.0, 0.0, 1.0]
    assert class_.give(class_.ask(b"3", b"3", b"4"), reward=0.0).accepted
    assert class_.means == [0.5, 0.5, 1.0]


async def test_a_reward_is_also_for_who_agreed_too_late(school: Make) -> None:
    class_ = school("hedge", models=4)
    receiver = Receiver()
    query = class_.application.submit(row(1), receiver)
    class_.loop.turn()
    for model in class_.models[:2]:
        replicas(model).replica.answer(lambda _: b"3")
    class_.loop.advance(0.2)
    assert receiver.output == b"3"
    query_id = query.issue_id().decode()
    replicas(class_.models[2]).replica.answer(lambda _: b"3.0")
    replicas(class_.models[3]).replica.answer(lambda _: b"4")
    assert class_.give(query_id, reward=1.0).accepted
    assert class_.means == [0.0, 0.0, 0.0, 1.0]


async def test_a_late_member_is_judged_too(school: Make) -> None:
    class_ = school("hedge", models=3)
    receiver = Receiver()
    query = class_.application.submit(row(1), receiver)
    class_.loop.turn()
    replicas(class_.models[0]).replica.answer(lambda _: b"3")
    class_.loop.advance(0.2)
    query_id = query.issue_id().decode()
    replicas(class_.models[1]).replica.answer(lambda _: b"4")
    assert class_.give(query_id, label=4).accepted
    assert class_.means == [1.0, 0.0, None]


async def test_a_default_answer_is_judged_as_what_the_arm_led_to(school: Make) -> None:
    class_ = school()
    receiver = Receiver()
    for label, loss in ((-1, 0.0), (3, 1.0)):
        query = class_.application.submit(row(1), receiver)
        class_.loop.turn()
        for model in class_.models:
            replica = replicas(model).replica
            while replica.batches:
                replica.fail(FailureKind.RAISED)
        class_.loop.turn()
        assert class_.give(query.issue_id().decode(), label=label).accepted
        assert (await class_.entries())[-1].loss == loss
        receiver = Receiver()


async def test_a_static_application_keeps_the_score(school: Make) -> None:
    class_ = school("static")
    assert class_.give(class_.ask(b"3"), label=4).accepted
    assert class_.means == [1.0, None]


async def test_a_string_that_is_shown_as_json_is_compared_as_json(school: Make) -> None:
    class_ = school("static")
    query_id = class_.ask("6.6")
    assert class_.give(query_id, label=6.6).accepted
    assert class_.means == [0.0, None]


async def test_an_output_that_cannot_be_judged_is_told(school: Make) -> None:
    class_ = school(loss="absolute(10)")
    told = class_.give(class_.ask(b'{"a":1}'), label=3)
    assert isinstance(told.error, InvalidInput)
    assert await class_.entries() == []


async def test_a_member_whose_output_cannot_be_judged_was_wrong(school: Make) -> None:
    class_ = school("hedge", loss="absolute(10)")
    assert class_.give(class_.ask(b"3", b'{"a":1}'), label=3).accepted
    assert class_.means == [0.0, 1.0]
