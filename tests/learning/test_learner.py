from __future__ import annotations

from typing import Any

import pytest

from clipper.learning import events
from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.learning.learner import Learner
from clipper.records import PolicySettings
from clipper.selection.policy import Total

A, B = ARMS = ("a:1#1", "b:1#2")


def learner_of(policy: str = "ucb1", **options: Any) -> Learner:
    learner = Learner(3, 1, PolicySettings(policy, options), Bloom(), 10)
    learner.users.counted = True
    return learner


def judged(arm: str, loss: float) -> events.Feedback:
    return events.Feedback(ARMS, {arm: loss}, (arm,), 0.5, loss)


def change(generation: int, policy: str, **options: Any) -> events.PolicyChange:
    return events.PolicyChange(generation, PolicySettings(policy, options))


def total(learner: Learner, arm: str = A) -> float:
    return learner.score([arm])[0].count


def test_feedback_teaches_the_population_and_its_user() -> None:
    learner = learner_of()
    learner.apply(1, None, judged(A, 1.0))
    learner.apply(2, "ann", judged(A, 0.0))
    assert learner.score(ARMS) == [Total(2.0, 1.0), Total(0.0, 0.0)]
    ann = learner.users.get("ann")
    assert learner.score(ARMS, ann) == [Total(1.0, 0.0), Total(0.0, 0.0)]
    assert ann is not None and ann.dirty and learner.users.may_be_kept("ann")
    assert (learner.version, learner.unsaved) == (2, 2)


def test_an_entry_that_is_in_already_changes_nothing() -> None:
    learner = learner_of()
    for seq, event in ((4, judged(A, 1.0)), (5, events.Halt(A, "why", 1))):
        learner.apply(seq, "ann", event)
    before, users = learner.pack(), len(learner.users)
    for event in (judged(A, 0.0), change(2, "exp3"), events.Halt(B, "why", 1)):
        learner.apply(5, "bob", event)
    assert learner.pack() == before and len(learner.users) == users
    assert learner.unsaved == 2


@pytest.mark.parametrize("policy", ["static", "majority", "canary", "shadow"])
def test_without_a_state_for_each_user_there_is_none(policy: str) -> None:
    options = {"weights": {"a": 1.0}} if policy == "canary" else {}
    learner = learner_of(policy, **options)
    learner.apply(1, "ann", judged(A, 1.0))
    assert len(learner.users) == 0 and total(learner) == 1


def test_a_change_of_policy_begins_with_the_score() -> None:
    learner = learner_of()
    learner.apply(1, None, judged(A, 1.0))
    learner.apply(2, None, change(2, "epsilon_greedy"))
    assert learner.generation == 2 and learner.policy.name == "epsilon_greedy"
    assert learner.population.state == {"totals": {A: [1.0, 1.0]}}


def test_new_options_keep_the_state() -> None:
    learner = learner_of("exp3")
    learner.apply(1, None, judged(A, 1.0))
    state = learner.population.state
    learner.apply(2, None, change(2, "exp3", personal=False))
    assert learner.population.state == state


def test_there_and_back_is_a_fold_like_any_other() -> None:
    def entries() -> Any:
        yield 1, None, judged(A, 1.0)
        yield 2, "ann", judged(B, 0.0)
        yield 3, None, change(2, "exp3")
        yield 4, "ann", judged(B, 0.5)
        yield 5, "bob", judged(A, 0.5)
        yield 6, None, events.Halt(A, "why", 2)
        yield 7, None, change(3, "ucb1")
        yield 8, "ann", judged(A, 0.25)

    whole = learner_of()
    for entry in entries():
        whole.apply(*entry)
    assert whole.halted == {}
    for cut in range(8):
        first = learner_of()
        for entry in entries():
            if entry[0] <= cut:
                first.apply(*entry)
        again = learner_of("static")
        again.unpack(first.pack())
        for uid, user in first.users:
            assert user.experience is not None
            again.admit(uid, user.experience.pack())
        for entry in entries():
            again.apply(*entry)  # those that are in change nothing
        assert again.pack() == whole.pack()
        for uid in ("ann", "bob"):
            one, other = again.users.get(uid), whole.users.get(uid)
            assert one is not None and one.experience is not None
            assert other is not None and other.experience is not None
            assert one.experience.pack() == other.experience.pack()


def test_a_user_of_another_policy_chooses_by_the_score() -> None:
    learner = learner_of("epsilon_greedy", prior=0.0)
    learner.apply(1, "ann", judged(A, 1.0))
    learner.apply(2, None, change(2, "ucb1", prior=0.0))
    ann = learner.users.get("ann")
    assert ann is not None and ann.experience is not None
    fresh = learner.policy.begin({A: Total(1.0, 1.0)})
    expected = learner.policy.blend(learner.population.state, fresh)
    assert learner.state_for(ann) == expected
    assert ann.experience.policy == "epsilon_greedy"  # until they say something again
    learner.apply(3, "ann", judged(B, 0.0))
    assert ann.experience.policy == "ucb1"


def test_a_user_on_the_way_from_the_disk_is_of_the_population() -> None:
    learner = learner_of()
    user = learner.users.put("ann", None)
    assert learner.state_for(user) is learner.population.state
    kept = Experience(learner.policy)
    assert learner.admit("ann", kept.pack()) is user
    learned = user.experience
    assert learner.admit("ann", None) is user and user.experience is learned


def test_a_verdict_counts_for_its_policy_alone() -> None:
    learner = learner_of()
    learner.apply(1, None, events.Halt(A, "slow", 1))
    assert learner.halted == {A: "slow"}
    learner.apply(2, None, change(2, "ucb1"))
    learner.apply(3, None, events.Halt(A, "slow", 1))
    assert learner.halted == {}


@pytest.mark.parametrize(
    "settings",
    [PolicySettings("gone"), PolicySettings("exp3", {"no": 1}), PolicySettings("linucb")],
)
def test_a_policy_that_cannot_be_had_is_missing(
    settings: PolicySettings, caplog: pytest.LogCaptureFixture
) -> None:
    learner = learner_of()
    learner.set_policy(2, settings)
    assert learner.missing is not None and learner.missing in caplog.text
    assert learner.policy.name == "static" and learner.settings is settings
    learner.set_policy(3, PolicySettings("ucb1"))
    assert learner.missing is None
