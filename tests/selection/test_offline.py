from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from clipper.errors import Conflict, InvalidInput
from clipper.records import PolicySettings
from clipper.selection import evidence
from clipper.selection import trial as trials
from clipper.selection.linucb import LinUCB
from clipper.selection.logged import LoggedDecision
from clipper.selection.losses import ZeroOne, make_loss
from clipper.selection.offline import Evaluation, evaluate
from clipper.selection.policy import SelectionPolicy
from clipper.selection.registry import make_policy
from clipper.selection.squarecb import SquareCB

from .logs import ARMS, Fixed, Watching, chosen_only, log

A, B, C = ARMS


def policy(name: str, **options: Any) -> SelectionPolicy:
    return make_policy(PolicySettings(name, options))


def judged(
    records: list[LoggedDecision], policy: SelectionPolicy, **options: Any
) -> Evaluation:
    return evaluate(records, policy, **{"seed": 1, "resamples": 50, **options})


# -- the estimates -----------------------------------------------------------------------


def estimates(
    tests: int, n: int, mine: SelectionPolicy, **options: Any
) -> dict[str, np.ndarray]:
    logs = [chosen_only(log(seed, n, **options)) for seed in range(tests)]
    found = [judged(records, mine, least_effective=0) for records in logs]
    return {
        name: np.array([getattr(each, name).mean for each in found])
        for name in ("ips", "snips", "dr")
    }


def standard_errors(values: np.ndarray, truth: float) -> float:
    return float((values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values))))


@pytest.mark.parametrize("odds", [(1 / 3, 1 / 3, 1 / 3), (0.1, 0.3, 0.6)])
def test_ips_and_dr_are_unbiased_and_snips_nearly(odds: tuple[float, ...]) -> None:
    shares = (0.7, 0.2, 0.1)
    truth = 0.7 * 0.2 + 0.2 * 0.5 + 0.1 * 0.8
    found = estimates(200, 120, Fixed(*shares), odds=odds)
    assert abs(standard_errors(found["ips"], truth)) < 3
    assert abs(standard_errors(found["dr"], truth)) < 3
    assert abs(found["snips"].mean() - truth) < 0.02


def test_unbiased_for_a_policy_that_learns_on_the_way() -> None:
    """Its loss is known at each step, from the losses that the log kept to itself."""
    gaps = []
    for seed in range(150):
        records = log(seed, 150)
        mine = policy("squarecb", features=3)
        found = judged(chosen_only(records), mine)
        assert found.ips is not None
        state, total = mine.init(), 0.0
        for record in records:
            features = mine.features(record.context)
            odds = mine.probabilities(state, ARMS, features)  # type: ignore[attr-defined]
            total += sum(p * record.losses[a] for p, a in zip(odds, ARMS, strict=True))
            seen = trials.Observation(
                ARMS, record._replace(losses={}).known, record.chosen, 1 / 3, record.loss,
                features,
            )  # fmt: skip
            state = mine.observe(state, seen)
        gaps.append(found.ips.mean - total / len(records))
    assert abs(standard_errors(np.array(gaps), 0.0)) < 3


def test_snips_and_dr_spread_less_than_ips() -> None:
    found = estimates(100, 300, Fixed(0.1, 0.1, 0.8))
    spread = {name: values.std() for name, values in found.items()}
    assert spread["snips"] < 0.8 * spread["ips"]
    assert spread["dr"] < 0.8 * spread["ips"]


def test_dr_uses_the_context() -> None:
    found = estimates(60, 400, Fixed(0.0, 1.0, 0.0), means=(0.5,) * 3, contextual=0.5)
    assert found["dr"].std() < 0.7 * found["snips"].std()


def test_all_estimates_approach_the_truth() -> None:
    records = log(7, 20_000)
    mine = Fixed(0.6, 0.3, 0.1)
    exact, found = judged(records, mine).exact, judged(chosen_only(records), mine)
    assert exact is not None
    assert exact.mean == pytest.approx(0.35, abs=0.01)
    for estimate in (found.ips, found.snips, found.dr):
        assert estimate is not None
        assert estimate.mean == pytest.approx(exact.mean, abs=0.015)
        assert estimate.low < exact.mean < estimate.high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    hits = dict.fromkeys(("ips", "snips", "dr"), 0)
    for seed in range(150):
        found = judged(chosen_only(log(seed, 150)), Fixed(0.7, 0.2, 0.1), resamples=150)
        for name in hits:
            estimate = getattr(found, name)
            hits[name] += estimate.low <= 0.32 <= estimate.high
    assert all(0.87 <= count / 150 <= 0.99 for count in hits.values())


def test_the_weights_are_those_of_the_formula() -> None:
    records = chosen_only(log(3, 100, odds=(0.2, 0.3, 0.5)))
    shares = dict(zip(ARMS, (0.5, 0.4, 0.1), strict=True))
    found = judged(records, Fixed(*shares.values()))
    w = np.array([shares[r.chosen[0]] / r.propensity for r in records])
    losses = np.array([r.loss for r in records])
    assert found.ips is not None and found.snips is not None and found.logged is not None
    assert found.ips.mean == pytest.approx((w * losses).mean())
    assert found.snips.mean == pytest.approx((w * losses).sum() / w.sum())
    assert found.effective_size == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert found.logged.mean == pytest.approx(losses.mean())


def test_the_policy_that_wrote_the_log_differs_by_nothing() -> None:
    found = judged(chosen_only(log(4, 300)), Fixed(1 / 3, 1 / 3, 1 / 3))
    assert found.effective_size == pytest.approx(300)
    assert found.ips == found.logged
    assert found.difference is not None and abs(found.difference.mean) < 0.05
    assert (found.unsupported, found.unsupported_mass) == (0, 0)


def test_an_answer_of_several_arms_has_the_probability_of_them_all() -> None:
    """What an ensemble drew: a and b agreed."""
    records = [
        LoggedDecision(ARMS, (A, B), 0.8, 0.0) if turn % 5 else
        LoggedDecision(ARMS, (C,), 0.2, 1.0)
        for turn in range(200)
    ]  # fmt: skip
    found = judged(records, Fixed(0.3, 0.3, 0.4))
    assert found.ips is not None and found.dr is not None
    assert found.ips.mean == pytest.approx(0.4)
    assert found.dr.mean == pytest.approx(0.4, abs=0.02)


def test_the_seed_decides() -> None:
    records = chosen_only(log(5, 200))
    mine = Fixed(0.5, 0.4, 0.1)
    assert judged(records, mine, seed=3) == judged(records, mine, seed=3)
    assert judged(records, mine, seed=3) != judged(records, mine, seed=4)
    learner = policy("squarecb", features=3)
    assert judged(log(5, 200), learner, seed=3) == judged(log(5, 200), learner, seed=3)


def test_an_evaluation_is_json() -> None:
    found = judged(chosen_only(log(5, 100)), Fixed(0.5, 0.4, 0.1))
    told = msgspec.json.decode(msgspec.json.encode(found))
    assert told["records"] == 100 and set(told["dr"]) == {"mean", "low", "high"}
    assert told["exact"] is None


# -- what is replayed --------------------------------------------------------------------


@pytest.mark.parametrize("keep", [log, lambda *args, **kw: chosen_only(log(*args, **kw))])
def test_contextual_policies_beat_those_without(keep: Any) -> None:
    records = keep(6, 2500, means=(0.5, 0.5, 0.5), contextual=0.4)
    best = {}
    for mine in (
        LinUCB(LinUCB.Options(features=3, alpha=0.3)),
        SquareCB(SquareCB.Options(features=3)),
        policy("epsilon_greedy"),
    ):
        found = judged(records, mine, warm=500, resamples=200)
        best[mine.name] = found.exact or found.dr
        assert found.records == 2000 and found.difference is not None
        if mine.name != "epsilon_greedy":
            assert found.difference.high < -0.1
    linear, square, greedy = (best[n] for n in ("linucb", "squarecb", "epsilon_greedy"))
    assert linear.high < greedy.low and square.high < greedy.low
    assert greedy.mean == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", ["epsilon_greedy", "ucb1", "thompson", "exp3", "exp3_ix"])
def test_policies_learn_from_the_log(name: str) -> None:
    found = judged(chosen_only(log(8, 2000)), policy(name), warm=1000)
    assert found.dr is not None and found.dr.mean < 0.33


def test_personal_policies_learn_for_each_user() -> None:
    """Each of two users has another best arm."""
    records = []
    for turn, record in enumerate(log(9, 1200, means=(0.1, 0.9, 0.9))):
        if turn % 2:
            swapped = {A: record.losses[B], B: record.losses[A], C: record.losses[C]}
            arm = record.chosen[0]
            record = record._replace(loss=swapped[arm], losses=swapped)
        records.append(record._replace(uid=f"u{turn % 2}"))
    own = judged(chosen_only(records), policy("epsilon_greedy"), warm=400)
    shared = judged(
        chosen_only(records), policy("epsilon_greedy", personal=False), warm=400
    )
    assert own.dr is not None and shared.dr is not None
    assert own.dr.mean < 0.2 and shared.dr.mean > 0.4


def test_users_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MOST_USERS", 3)
    mine = trials.Trial(policy("epsilon_greedy"), ZeroOne())
    for turn, record in enumerate(log(1, 20)):
        mine.follow(record._replace(uid=f"u{turn % 5}"), None)
    assert list(mine._own) == ["u2", "u3", "u4"]


def test_it_is_told_what_was_logged() -> None:
    mine = Watching(0.2, 0.3, 0.5)
    records = [r._replace(label=1, outputs={A: 0}) for r in chosen_only(log(2, 60))]
    judged(records, mine, least_effective=1)
    assert len(mine.state) == 60
    for record, seen in zip(records, mine.state, strict=True):
        assert seen == trials.Observation(
            ARMS, {record.chosen[0]: record.loss}, record.chosen, 1 / 3, record.loss, None,
            {A: 0}, 1,
        )  # fmt: skip


def test_with_all_losses_it_is_told_of_its_own_draws() -> None:
    mine = Watching(0.2, 0.3, 0.5)
    records = log(2, 400)
    judged(records, mine)
    drawn = [seen.chosen[0] for seen in mine.state]
    assert [drawn.count(arm) / 400 for arm in ARMS] == pytest.approx(
        [0.2, 0.3, 0.5], abs=0.07
    )
    for record, seen in zip(records, mine.state, strict=True):
        (arm,) = seen.chosen
        assert seen.losses == {arm: record.losses[arm]} and seen.loss == record.losses[arm]
        assert seen.propensity == pytest.approx({A: 0.2, B: 0.3, C: 0.5}[arm])


def test_arms_of_the_options_alone_are_chosen() -> None:
    records = log(3, 500)
    for arms in (["c"], ["c:2"]):
        found = judged(records, policy("epsilon_greedy", arms=arms))
        assert found.exact is not None
        assert found.exact.mean == pytest.approx(np.mean([r.losses[C] for r in records]))
    static = judged(chosen_only(records), policy("static", model="b"))
    assert static.snips is not None and static.snips.mean == pytest.approx(0.5, abs=0.1)


def test_records_before_an_arm_was_there_are_left_out() -> None:
    records = chosen_only(log(3, 300))
    early = [LoggedDecision((A,), (A,), 1.0, 0.0)] * 50
    found = judged(early + records, policy("epsilon_greedy", arms=["b", "c"], epsilon=1.0))
    assert (found.records, found.one_arm, found.left_out) == (300, 50, 0)


def test_records_without_feedback_are_left_out_and_counted() -> None:
    records = [
        record._replace(loss=None) if turn % 4 == 0 else record
        for turn, record in enumerate(chosen_only(log(4, 400)))
    ]
    found = judged(records, Fixed(0.4, 0.3, 0.3))
    assert (found.records, found.left_out) == (300, 100)


def test_warm_records_are_learned_from_and_not_judged() -> None:
    mine = Watching(0.4, 0.3, 0.3)
    records = chosen_only(log(4, 400))
    found = judged(records, mine, warm=300)
    assert (found.records, found.warm, len(mine.state)) == (100, 300, 400)
    assert found.logged is not None
    assert found.logged.mean == pytest.approx(np.mean([r.loss for r in records[300:]]))


# -- ensembles ---------------------------------------------------------------------------


def voted(seed: int, n: int) -> list[LoggedDecision]:
    """What an ensemble logs: outputs of all, no decision; a is right nine times in ten."""
    records = []
    for record in log(seed, n, means=(0.1, 0.4, 0.5)):
        outputs = {arm: int(loss) for arm, loss in record.losses.items()}
        records.append(
            record._replace(chosen=(), odds=None, loss=0.5, outputs=outputs, label=0)
        )
    return records


@pytest.mark.parametrize("name", ["hedge", "majority", "exp4"])
def test_an_ensemble_is_replayed_exactly(name: str) -> None:
    records = voted(5, 1000)
    found = judged(records, policy(name), warm=300)
    assert found.exact is not None and found.ips is None
    votes = float(np.mean([sum(r.losses.values()) >= 2 for r in records[300:]]))
    drawn = float(np.mean([sum(r.losses.values()) / 3 for r in records[300:]]))
    if name == "majority":
        assert found.exact.mean == pytest.approx(votes)
    elif name == "hedge":
        assert found.exact.mean < votes
    else:  # draws its answer, and explores
        assert found.exact.mean < drawn + 0.05
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(found.exact.mean - 0.5)


def test_a_pool_needs_the_labels() -> None:
    records = [
        record._replace(
            outputs={arm: [1 - 0.8 * x, 0.8 * x] for arm, x in record.losses.items()}
        )
        for record in voted(6, 200)
    ]
    found = judged(records, policy("log_pool"), loss=make_loss("log"))
    assert found.exact is not None and 0 < found.exact.mean < 0.2
    with pytest.raises(Conflict, match="does not hold them all with their labels"):
        judged(
            [record._replace(label=None) for record in records],
            policy("log_pool"),
            loss=make_loss("log"),
        )


def test_a_log_of_votes_judges_single_choices_too() -> None:
    found = judged(voted(7, 600), Fixed(1.0, 0.0, 0.0))
    assert found.exact is not None and found.exact.mean == pytest.approx(0.1, abs=0.04)


# -- what is refused ---------------------------------------------------------------------


def certain(n: int) -> list[LoggedDecision]:
    return [LoggedDecision(ARMS, (ARMS[i % 3],), 1.0, 0.5) for i in range(n)]


UNIFORM = Fixed(1 / 3, 1 / 3, 1 / 3)
FEW = [
    LoggedDecision(ARMS, (A if i else B,), 0.998 if i else 0.002, 0.5) for i in range(400)
]
PARTLY = [
    LoggedDecision(ARMS, (ARMS[i % 2],), 0.5, 0.5, odds=(0.5, 0.5, 0.0)) for i in range(99)
]


@pytest.mark.parametrize(
    ("records", "mine", "sentence"),
    [
        ([], UNIFORM, "of 0 decisions in the log 0 can be judged by their feedback"),
        ([LoggedDecision(ARMS, (A,), 0.5)] * 9, UNIFORM, "of 9 decisions in the log 0 can"),
        (
            certain(99),
            UNIFORM,
            "written by policy ucb1 with epsilon 0, which leaves nothing",
        ),
        (
            [LoggedDecision(ARMS, (ARMS[i % 2],), 0.5, 0.5) for i in range(99)],
            UNIFORM,
            "would give 33.3% of the queries to c:2#3, which the log never chose",
        ),
        (
            [*PARTLY, LoggedDecision(ARMS, (C,), 0.5, 0.5)],
            UNIFORM,
            "would give 33.0% of its choices to arms that could not be chosen",
        ),
        (FEW, Fixed(0.0, 1.0, 0.0), "400 decisions count for no more than 1.0 of"),
        (chosen_only(log(1, 20)), UNIFORM, "effective sample size), and 30 are needed"),
        (chosen_only(log(1, 99)), policy("hedge"), "does not hold the losses of all"),
        (log(1, 99), policy("hedge"), "the log does not hold them all: log under"),
        (log(1, 99), policy("linucb", features=9), "needs a context of 9 numbers"),
        (log(1, 99), policy("static", model="zz"), "names zz, which is nowhere in the log"),
    ],
)
def test_a_log_that_supports_no_comparison_is_refused(
    records: list[LoggedDecision], mine: SelectionPolicy, sentence: str
) -> None:
    with pytest.raises(Conflict) as caught:
        judged(records, mine, logged_by="ucb1 with epsilon 0")
    assert sentence in str(caught.value)
    assert "replay" in str(caught.value)


def test_a_certain_log_judges_a_policy_that_does_the_same() -> None:
    records = [LoggedDecision(ARMS, (A,), 1.0, 0.25)] * 50
    found = judged(records, Fixed(0.995, 0.005, 0.0))
    assert found.snips is not None and found.snips.mean == pytest.approx(0.25)
    assert found.unsupported == 1 and found.unsupported_mass == pytest.approx(0.005)


def test_too_long_a_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_RECORDS", 10)
    with pytest.raises(Conflict, match="choose a shorter period"):
        judged(log(1, 11), UNIFORM)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (LoggedDecision(ARMS, (A,), 0.0, 0.5), "propensity of record 1 must be above 0"),
        (LoggedDecision(ARMS, (A,), float("nan"), 0.5), "got nan"),
        (LoggedDecision(ARMS, (A,), 1.5, 0.5), "at most 1, got 1.5"),
        (LoggedDecision(ARMS, (A,), 0.5, 2.0), "losses of record 1 must lie in [0, 1]"),
        (LoggedDecision(ARMS, losses={A: -1.0}), "got -1.0"),
        (LoggedDecision((), ()), "record 1 names no arms"),
        (LoggedDecision((A,), (B,)), "record 1 chose an arm that there was not"),
        (LoggedDecision(ARMS, (A,), odds=(1.0,)), "record 1 has odds of 1 arms, but 3"),
    ],
)
def test_a_record_that_cannot_be_is_refused(record: LoggedDecision, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        judged([*log(1, 1), record], UNIFORM)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("options", [{"resamples": 0}, {"resamples": 10**6}, {"warm": -1}])
def test_wrong_arguments_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        judged(log(1, 50), UNIFORM, **options)


def test_a_few_incomplete_decisions_are_left_out_of_an_exact_replay() -> None:
    arms = ("a:1#1", "b:1#2")
    losses = {arms[0]: 1.0, arms[1]: 0.0}
    whole = LoggedDecision(arms, (arms[1],), 1.0, 0.0, losses=losses)
    torn = whole._replace(losses={arms[1]: 0.0})
    policy = make_policy(PolicySettings("ucb1"))
    found = evaluate([*[whole] * 97, *[torn] * 3], policy, seed=1)
    assert found.exact is not None and (found.records, found.left_out) == (97, 3)
    outputs = {arms[0]: 1, arms[1]: 2}
    whole, torn = whole._replace(outputs=outputs), torn._replace(outputs=outputs)
    vote = make_policy(PolicySettings("hedge"))
    with pytest.raises(Conflict, match="does not hold the losses of all"):
        evaluate([*[whole] * 90, *[torn] * 10], vote, seed=1)
