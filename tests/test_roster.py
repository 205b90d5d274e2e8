"""Who answers: versions by name, and the policy's choice of candidates."""

from __future__ import annotations

from typing import Any

import pytest
from house import Ask, House, Receiver, replicas, row

from clipper.errors import InvalidInput
from clipper.query import NO_MODEL
from clipper.records import PolicySettings
from clipper.selection.policy import Subject
from clipper.selection.static import Static


def arm_of(house: House, query_id: str) -> int:
    return house.ids.read(query_id).arm


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
