from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from clipper.selection.canary import Canary, wilson
from clipper.selection.policy import Score, SelectionPolicy, Total

from .contract import ARMS, PolicyContract

STABLE, NEW = "m:1#1", "m:2#2"
NOTHING = Total(0.0, 0.0)


def canary(**options: object) -> Canary:
    weights = {"m:1": 0.9, "m:2": 0.1}
    return Canary(Canary.Options(**{"weights": weights, **options}))  # type: ignore[arg-type]


class TestCanary(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        weights = {arm.partition("#")[0]: 1.0 + n for n, arm in enumerate(ARMS)}
        return Canary(Canary.Options(weights=weights))


def test_versions_get_their_weights() -> None:
    policy = canary()
    assert policy.candidates(["m"]) == ("m:1", "m:2")
    assert policy.probabilities({}, [STABLE, NEW], None) == pytest.approx([0.9, 0.1])
    assert policy.probabilities({}, [NEW], None) == [1.0]


def test_the_stable_version_comes_first_whatever_it_weighs() -> None:
    policy = canary(weights={"m:2": 0.8, "m:1": 0.2}, stable="m:1")
    assert policy.candidates([]) == ("m:1", "m:2")


def test_users_stay_with_what_the_weights_name() -> None:
    policy = canary(weights={"m:1": 0.5, "m:2": 0.2, "other": 0.3})
    assert [policy.seat(arm) for arm in (STABLE, NEW)] == ["m:1", "m:2"]
    assert policy.seat("other:3#4") == policy.seat("other:4#7") == "other"


def judge(policy: Canary, new: Score, stable: Score | None = None) -> str | None:
    before = stable or Score(1000, 0, 0.010, Total(200, 10))
    verdict = policy.judge({STABLE: before, NEW: new})
    assert verdict is None or verdict.arm == NEW
    return None if verdict is None else verdict.reason


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (
            Score(20, 10, 0.010, NOTHING),
            "it failed 10 of 20 queries, the stable version 0 of 1000",
        ),
        (Score(2000, 100, 0.010, NOTHING), "it failed 100 of 2000 queries"),
        (Score(100, 0, 0.030, NOTHING), "latency is 30 ms, the stable version's 10 ms"),
        (Score(100, 0, 0.010, Total(60, 30.0)), "mean loss is 0.500 over 60 pieces"),
    ],
)
def test_who_does_worse_goes(score: Score, words: str) -> None:
    reason = judge(canary(), score)
    assert reason is not None and words in reason


@pytest.mark.parametrize(
    "score",
    [
        Score(0, 0, None, NOTHING),
        Score(5, 5, 0.010, NOTHING),  # too few to tell
        Score(200, 1, 0.019, NOTHING),
        Score(50, 0, 1.0, NOTHING),  # slow, but too few to tell
        Score(200, 0, 0.010, Total(9, 9.0)),
        Score(200, 0, 0.010, Total(60, 4.0)),
    ],
)
def test_who_does_as_well_or_is_not_known_stays(score: Score) -> None:
    assert judge(canary(), score) is None


def test_a_guard_can_be_off() -> None:
    policy = canary(max_failures=None, max_latency=None, max_loss=None)
    assert judge(policy, Score(1000, 1000, 9.0, Total(1000, 1000.0))) is None


def test_a_stable_version_that_fails_as_well_excuses_the_new_one() -> None:
    both = Score(1000, 300, 0.010, NOTHING)
    assert judge(canary(), both, both) is None


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_versions_that_fail_alike_both_stay(share: float) -> None:
    """However often the guard looks."""
    alarms, policy = 0, canary()
    for seed in range(50):
        rng = Random(seed)
        queries, failures = Counter[str](), Counter[str]()
        for number in range(2000):
            arm = NEW if rng.random() < 0.5 else STABLE
            queries[arm] += 1
            failures[arm] += rng.random() < share
            scores = {
                arm: Score(queries[arm], failures[arm], None, NOTHING)
                for arm in (STABLE, NEW)
            }
            if number % 10 == 9 and policy.judge(scores):
                alarms += 1
                break
    assert alarms <= 1


def test_without_a_stable_version_nobody_is_judged() -> None:
    assert canary().judge({NEW: Score(1000, 1000, 1.0, NOTHING)}) is None


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(0, 10)
    assert low == pytest.approx(0, abs=1e-12) and 0.2 < high < 0.5
    assert wilson(5, 10)[0] + wilson(5, 10)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(("successes", "trials"), [(10, 100), (3, 10), (0, 20), (7, 7)])
def test_an_interval_ends_where_the_score_test_would_just_reject(
    successes: int, trials: int
) -> None:
    for end in wilson(successes, trials):
        distance = abs(successes / trials - end)
        deviation = (max(0.0, end * (1 - end)) / trials) ** 0.5
        assert distance == pytest.approx(2.326 * deviation, abs=1e-9)


def test_a_version_without_a_weight_gets_nothing() -> None:
    assert canary().probabilities({}, [STABLE, "m:3#3"], None) == [1.0, 0.0]


def test_a_verdict_tells_the_numbers_that_it_is_for() -> None:
    stable = Score(1000, 0, 0.010, Total(1000.0, 100.0))
    slow = canary().judge({STABLE: stable, NEW: Score(1000, 0, 0.050, NOTHING)})
    assert slow is not None and "50 ms" in slow.reason and "10 ms" in slow.reason
    wrong = canary().judge({STABLE: stable, NEW: Score(10, 0, None, Total(400.0, 300.0))})
    assert wrong is not None
    assert "0.750 over 400" in wrong.reason and "0.100" in wrong.reason


def test_ten_queries_are_just_enough() -> None:
    stable = Score(1000, 0, None, NOTHING)
    assert canary().judge({STABLE: stable, NEW: Score(10, 10, None, NOTHING)}) is not None
    assert canary().judge({STABLE: stable, NEW: Score(9, 9, None, NOTHING)}) is None
