from __future__ import annotations

from typing import Any

import pytest

from clipper.learning import events, experience
from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.learning.learner import Learner
from clipper.records import PolicySettings
from clipper.selection.hedge import Hedge
from clipper.selection.policy import MOST_ARMS, Total

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


def test_of_arms_that_are_out_the_last_ones_are_known() -> None:
    learner = learner_of("canary", weights={"a": 1.0})
    for seq in range(1, MOST_ARMS + 6):
        learner.apply(seq, None, events.Halt(f"a:{seq}#{seq}", "slow", 1))
    learner.apply(seq + 1, None, events.Halt(f"a:{seq}#{seq}", "slow", 1))
    assert len(learner.halted) == MOST_ARMS
    arms = list(learner.halted)
    assert (arms[0], arms[-1]) == ("a:6#6", f"a:{seq}#{seq}")


def test_a_policy_that_does_not_go_with_the_loss_is_missing() -> None:
    pool = PolicySettings("log_pool")
    assert Learner(3, 1, pool, Bloom(), 10, "log").missing is None
    learner = Learner(3, 1, pool, Bloom(), 10, "zero_one")
    assert "loss log, not zero_one" in str(learner.missing)
    assert learner.policy.name == "static"


@pytest.mark.parametrize("prior_too", [False, True])
def test_hooks_that_raise_change_no_state_and_stop_nothing(
    prior_too: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(experience, "_complained", set())
    for hook in ("begin", "with_prior", "prior_of", *["make_crowd"][: int(prior_too)]):
        monkeypatch.setattr(Hedge, hook, broken)
    learner = learner_of()
    learner.apply(1, "ann", judged(A, 1.0))
    learner.apply(2, None, change(2, "hedge"))
    assert learner.population.state == learner.policy.init()
    learner.apply(3, None, events.Prior(2, 2.0, {A: 1.0}))
    assert learner.population.seq == 3 and learner.policy.name == "hedge"
    assert learner.state_for(learner.users.get("ann")) is not None
    learner.apply(4, "ann", judged(A, 1.0))
    again = learner_of("static")
    again.unpack(learner.pack())
    assert again.pack() == learner.pack() and total(again) == 2
    assert caplog.text.count("KeyError: 'a bug'") == 1


def test_what_is_packed_in_two_steps_is_as_of_the_first() -> None:
    learner = learner_of("linucb", features=2)
    learner.apply(1, None, judged(A, 1.0))
    before, pack = learner.pack(), learner.begin_pack()
    learner.apply(2, None, judged(A, 0.0))
    learner.apply(3, None, events.Halt(A, "slow", 1))
    assert pack() == before != learner.pack()


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


# -- what users have in common -----------------------------------------------------------


def differing(learner: Learner, labels: int = 20, users: int = 20) -> int:
    """Every other user is suited by A, the rest by B. The last entry."""
    seq = learner.population.seq
    for turn in range(labels):
        for number in range(users):
            seq += 1
            # one label of four is the other way round
            wrong = float((number + (turn % 4 == 3)) % 2)
            losses = {A: wrong, B: 1 - wrong}
            learner.apply(seq, f"u{number}", events.Feedback(ARMS, losses))
    return seq


def test_what_was_found_of_users_counts_once_it_is_in_the_log() -> None:
    learner = learner_of("hedge")
    seq = differing(learner)
    before = learner.pack()
    news = learner.news()
    assert news is not None and news.generation == 1 and news.rate > 0
    assert news.weights == pytest.approx({A: 0.5, B: 0.5}, abs=0.1)
    assert learner.news() is None  # said once
    assert learner.pack() == before
    learner.apply(seq + 1, None, news)
    assert learner.population.state["prior"] == [news.rate, news.weights]
    learner.apply(seq + 2, "new", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    new = learner.users.get("new")
    state = learner.state_for(new)
    first, second = learner.policy.weights(state, ARMS)  # type: ignore[attr-defined]
    assert second > first


def test_a_prior_of_an_earlier_policy_changes_nothing() -> None:
    learner = learner_of("hedge")
    differing(learner)
    news = learner.news()
    assert news is not None
    for seq, settings in enumerate(("hedge", "ucb1", "hedge"), 1001):
        learner.apply(seq, None, change(seq - 999, settings))
        state = learner.population.state
        before = repr(state)
        assert learner.population.seq == seq
        learner.population.seq -= 1  # so that the entry is not taken for one that is in
        learner.apply(seq, None, news)
        assert learner.population.state is state and repr(state) == before
        assert learner.news() is None  # the crowd of another policy has seen nobody


def recalled(learner: Learner) -> dict[str, float]:
    """What a crowd that has seen nobody makes of the users."""
    assert learner.crowd is not None
    suits = learner.crowd._suits
    return {arm: users / sum(suits.values()) for arm, users in suits.items()}


def test_new_options_keep_the_prior_and_another_policy_does_not() -> None:
    learner = learner_of("hedge")
    prior = events.Prior(1, 2.0, {A: 0.75, B: 0.25})
    learner.apply(1, None, prior)
    learner.apply(2, None, change(2, "hedge", eta=0.1))
    assert learner.population.state["prior"] == [2.0, prior.weights]
    assert recalled(learner) == prior.weights
    again = learner_of("static")
    again.unpack(learner.pack())
    assert recalled(again) == prior.weights
    learner.apply(3, None, change(3, "ucb1"))
    learner.apply(4, None, events.Prior(3, 2.0, {A: 1.0}))  # one that has no use for it
    learner.apply(5, None, change(4, "hedge"))
    assert "prior" not in learner.population.state
    assert learner.crowd is not None and not learner.crowd._suits


def test_a_prior_that_comes_first_finds_the_state_of_its_policy() -> None:
    learner = learner_of("ucb1")
    learner.set_policy(1, PolicySettings("hedge"))  # as the log says that it was
    learner.apply(1, None, events.Prior(1, 2.0, {A: 1.0}))
    assert learner.population.state["prior"] == [2.0, {A: 1.0}]
    learner.apply(2, "ann", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    assert learner.population.state["prior"] == [2.0, {A: 1.0}]


def test_users_of_another_policy_are_not_judged_and_break_nothing() -> None:
    learner = learner_of("hedge")
    differing(learner, 2)
    learner.apply(1001, None, change(2, "exp3"))
    learner.apply(1002, "u0", judged(A, 1.0))
    learner.apply(1003, None, change(3, "hedge"))
    for seq, losses in enumerate(({A: 1.0, B: 0.0}, {"gone:1#1": 1.0}, {}), 1004):
        learner.apply(seq, "u0", events.Feedback(ARMS, losses))
        learner.apply(seq + 100, "u1", events.Feedback((), losses))
    assert learner.population.seq == 1106


def test_a_user_who_was_kept_later_under_another_policy_breaks_nothing() -> None:
    """The server was killed after it had kept the user and before the population."""
    entries = [
        (1, "ann", judged(A, 1.0)),
        (2, "ann", events.Feedback(ARMS, {A: 1.0, B: 0.0})),
        (3, None, change(2, "ucb1")),
        (4, "ann", judged(B, 0.5)),
    ]
    learner, again = learner_of("hedge"), learner_of("hedge")
    for entry in entries:
        learner.apply(*entry)
    ann = learner.users.get("ann")
    assert ann is not None and ann.experience is not None
    again.admit("ann", ann.experience.pack())
    assert again.crowd is not None
    for entry in entries[:2]:
        again.apply(*entry)
    assert again.crowd._users == again.crowd._met == 0  # ann was counted before
    for entry in entries[2:]:
        again.apply(*entry)
    assert again.pack() == learner.pack()
    kept = again.users.get("ann")
    assert kept is not None and kept.experience is not None
    assert kept.experience.pack() == ann.experience.pack()


@pytest.mark.parametrize("hook", ["blend_by", "weights", "has_evidence"])
def test_a_crowd_whose_policy_raises_costs_no_feedback(
    hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise KeyError("a bug")

    learner = learner_of("hedge")
    learner.apply(1, "ann", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    monkeypatch.setattr(Hedge, hook, broken)
    learner.apply(2, "ann", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    learner.apply(3, "bob", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    assert learner.population.seq == 3 and total(learner) == 3


def test_nobody_is_judged_by_what_was_learned_of_it(monkeypatch: Any) -> None:
    learner, counts = learner_of("hedge"), []
    learner.apply(1, "ann", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    crowd = learner.crowd
    assert crowd is not None

    def judge(population: Any, own: Any, seen: Any) -> None:
        counts.append((population["totals"][A][0], own["totals"][A][0]))

    monkeypatch.setattr(crowd, "judge", judge)
    learner.apply(2, "ann", events.Feedback(ARMS, {A: 1.0, B: 0.0}))
    assert counts == [(1.0, 1.0)]


@pytest.mark.parametrize("policy", ["ucb1", "thompson", "majority", "exp4"])
def test_other_policies_have_no_news(policy: str) -> None:
    learner = learner_of(policy)
    differing(learner, 4)
    assert learner.news() is None


def test_the_fold_with_priors_is_the_same_from_any_cut() -> None:
    whole, entries = learner_of("hedge"), list[tuple[int, str | None, events.Event]]()

    def log(uid: str | None, event: events.Event) -> None:
        entries.append((len(entries) + 1, uid, event))
        whole.apply(*entries[-1])

    for turn in range(240):
        wrong = float(turn % 2 and turn < 160)  # those who come later are alike
        uid = f"u{turn % 6}" if turn < 160 else f"w{turn % 4}"
        log(uid, events.Feedback(ARMS, {A: wrong, B: 1 - wrong}))
        if turn == 150:
            log(None, change(2, "hedge", eta=0.5))
        if turn % 7 == 0 and (news := whole.news()) is not None:
            log(None, news)
    assert sum(isinstance(event, events.Prior) for _, _, event in entries) >= 2
    for cut in range(0, len(entries), 17):
        first = learner_of("hedge")
        for entry in entries[:cut]:
            first.apply(*entry)
        again = learner_of("static")
        again.unpack(first.pack())
        for uid, user in first.users:
            assert user.experience is not None
            again.admit(uid, user.experience.pack())
        for entry in entries:
            again.apply(*entry)
        assert again.pack() == whole.pack()
        for uid, user in whole.users:
            other = again.users.get(uid)
            assert other is not None
            assert again.state_for(other) == whole.state_for(user)


def test_a_user_who_left_memory_is_counted_when_they_return() -> None:
    learner = learner_of("hedge")
    differing(learner, 3, users=6)
    user = learner.users.get("u0")
    assert user is not None and user.experience is not None and user.suits is not None
    kept = user.experience.pack()
    learner.users.remove("u0")
    again = learner.admit("u0", kept)
    assert again.suits is None
    learner.apply(100, "u0", events.Feedback(ARMS, {A: 0.0, B: 1.0}))
    assert again.suits is not None and sum(again.suits[1].values()) == pytest.approx(1)
