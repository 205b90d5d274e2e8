from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import msgspec
import numpy as np
import pytest

from clipper.selection.blend import log_pool
from clipper.selection.log_pool import MOST, LogPool, LogPoolOptions
from clipper.selection.policy import Arm, Observation, SelectionPolicy, State

from .contract import PolicyContract
from .streams import make_arms

ARMS = make_arms(3)
P, Q, R = [0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]


class TestContract(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return LogPool()


class TestNamedClasses(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return LogPool(LogPoolOptions(lr=1.0))

    @staticmethod
    def outputs(losses: Mapping[Arm, float]) -> tuple[Mapping[Arm, Any], Any]:
        return {arm: {"no": loss, "yes": 1 - loss} for arm, loss in losses.items()}, "yes"


def seen(outputs: dict[Arm, Any] | None, label: Any) -> Observation:
    return Observation(ARMS, {}, outputs=outputs, label=label)


def pooled_loss(w: list[float], rows: list[list[float]], label: int) -> float:
    return -log(log_pool(np.log(np.array(rows)), np.array(w))[label])


def test_members_start_as_a_geometric_mean() -> None:
    assert LogPool().weights(LogPool().init(), ARMS) == [1 / 3] * 3


def test_a_step_goes_down_the_gradient_of_the_log_loss() -> None:
    policy, rows, label = LogPool(LogPoolOptions(lr=0.01)), [P, Q, R], 1
    state = policy.observe(policy.init(), seen(dict(zip(ARMS, rows, strict=True)), label))
    start, width = [1 / 3] * 3, 1e-6
    for index, moved in enumerate(policy.weights(state, ARMS)):
        up, down = list(start), list(start)
        up[index] += width
        down[index] -= width
        slope = pooled_loss(up, rows, label) - pooled_loss(down, rows, label)
        assert moved - start[index] == pytest.approx(-0.01 * slope / (2 * width), rel=1e-5)


@pytest.mark.parametrize("other", [None, "x", [0.5, 0.5], [0.9, 0.9, 0.9], {"a": 1.0}, 0.5])
def test_members_that_tell_of_other_classes_are_left_out(other: Any) -> None:
    policy = LogPool()
    state = policy.observe(policy.init(), seen({ARMS[0]: P, ARMS[1]: Q, ARMS[2]: other}, 1))
    same = policy.observe(policy.init(), seen({ARMS[0]: P, ARMS[1]: Q}, 1))
    assert state == same
    assert policy.weights(state, ARMS)[2] == 1 / 3
    assert policy.weights(state, ARMS)[1] > 1 / 3


def test_classes_may_come_in_any_order() -> None:
    policy = LogPool()
    first = {"a": 0.7, "b": 0.3}
    plain = policy.observe(policy.init(), seen({ARMS[0]: first, ARMS[1]: first}, "a"))
    turned = {"b": 0.3, "a": 0.7}
    other = policy.observe(policy.init(), seen({ARMS[0]: first, ARMS[1]: turned}, "a"))
    assert other == plain


@pytest.mark.parametrize(
    ("outputs", "label"),
    [(None, 1), ({}, 1), ({ARMS[0]: P}, 7), ({ARMS[0]: P}, "cat"), ({ARMS[0]: P}, None),
     ({ARMS[0]: "x"}, 1)],
)  # fmt: skip
def test_what_cannot_be_judged_teaches_nothing(outputs: Any, label: Any) -> None:
    policy = LogPool()
    assert policy.observe(policy.init(), seen(outputs, label)) == policy.init()


@pytest.mark.parametrize("p", [[1.0, 0.0], [0.0, 1.0], 0.0, 1.0])
def test_exponents_are_bounded(p: Any) -> None:
    policy = LogPool(LogPoolOptions(lr=1.0))
    state: State = policy.init()
    for turn in range(300):
        state = policy.observe(state, seen({ARMS[0]: p, ARMS[1]: 0.5}, turn % 2))
        assert all(0 <= w <= MOST for w in policy.weights(state, ARMS))
    for _ in range(100):
        state = policy.observe(state, seen({ARMS[0]: [0.4, 0.6], ARMS[1]: [0.6, 0.4]}, 1))
    first, second, _ = policy.weights(state, ARMS)
    assert first == MOST and second == 0


def test_a_new_member_counts_for_as_much_as_the_others_on_average() -> None:
    policy = LogPool()
    state = policy.observe(policy.init(), seen({ARMS[0]: P, ARMS[1]: Q, ARMS[2]: R}, 1))
    found = policy.weights(state, (*ARMS, "new:1#1"))
    assert found[3] == pytest.approx(sum(found[:3]) / 3)
    assert not policy.personal


def test_options_that_make_no_sense_are_refused() -> None:
    for lr in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="lr"):
            LogPoolOptions(lr=lr)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"personal": True}, LogPoolOptions)


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_of_members_that_know_different_things_beats_the_best(seed: int) -> None:
    """Each of three members can tell one of three classes from the rest, with noise."""
    rng, policy = np.random.default_rng(seed), LogPool()
    state, rounds = policy.init(), 4000
    mine, even, theirs = np.zeros(rounds), np.zeros(rounds), np.zeros((rounds, 3))
    for turn in range(rounds):
        label = int(rng.integers(3))
        rows = []
        for member in range(3):
            evidence = 1.5 * (1 if label == member else -1) + rng.normal(0, 1.5)
            odds = 0.5 * np.exp(2 * 1.5 * evidence / 1.5**2)
            row = np.full(3, 0.5 / (1 + odds))
            row[member] = odds / (1 + odds)
            rows.append(row.tolist())
        w = np.array(policy.weights(state, ARMS))
        logs = np.log(np.maximum(np.array(rows), 1e-6))
        mine[turn] = -log(log_pool(logs, w)[label])
        even[turn] = -log(log_pool(logs, np.full(3, 1 / 3))[label])
        theirs[turn] = [-log(max(row[label], 1e-6)) for row in rows]
        state = policy.observe(state, seen(dict(zip(ARMS, rows, strict=True)), label))
    assert mine.mean() < 0.75 * theirs.mean(axis=0).min()
    assert mine[rounds // 2 :].mean() < 0.9 * even[rounds // 2 :].mean()
    assert np.isfinite(mine).all()
