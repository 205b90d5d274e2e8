from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.errors import InvalidInput
from clipper.records import PolicySettings
from clipper.selection.linucb import LinUCB
from clipper.selection.policy import MOST_ARMS, MOST_LEFT, Observation, Total
from clipper.selection.registry import make_policy
from clipper.selection.ridge import LARGEST, Ridge

A, B, C = "a:1#1", "b:1#2", "c:1#3"


def closed_form(
    rows: list[tuple[list[float], float]], size: int, ridge: float
) -> tuple[Any, Any]:
    """The inverse and theta of one arm, by solving for them."""
    gram, moment = ridge * np.eye(size), np.zeros(size)
    for x, target in rows:
        gram += np.outer(x, x)
        moment += target * np.array(x)
    return np.linalg.inv(gram), np.linalg.solve(gram, moment)


# -- against the closed form -------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 5),
    ridge=st.sampled_from([0.1, 1.0, 7.0]),
    data=st.data(),
)
def test_it_solves_the_least_squares(size: int, ridge: float, data: st.DataObject) -> None:
    vectors = st.lists(st.floats(-10, 10), min_size=size, max_size=size)
    seen = data.draw(
        st.lists(st.tuples(st.sampled_from([A, B]), vectors, st.floats(0, 1)), max_size=30)
    )
    regression = Ridge(size, ridge)
    state = regression.init()
    for arm, x, target in seen:
        state = regression.learn(state, np.array(x), {arm: target}, (A, B))
    at = np.array(data.draw(vectors))
    for index, arm in enumerate((A, B)):
        inverse, theta = closed_form(
            [row[1:] for row in seen if row[0] == arm], size, ridge
        )
        means = regression.means(state, (A, B), at)
        widths = regression.widths(state, (A, B), at)
        assert means[index] == pytest.approx(theta @ at, abs=1e-6)
        assert widths[index] == pytest.approx(at @ inverse @ at, abs=1e-6)


def test_a_discount_weighs_by_age_and_the_ridge_stays() -> None:
    rng = np.random.default_rng(1)
    regression = Ridge(3, 2.0, 0.98)
    state = regression.init()
    gram, moment = np.zeros((3, 3)), np.zeros(3)
    for _ in range(400):
        x, target = rng.normal(size=3), rng.random()
        gram, moment = gram * 0.98 + np.outer(x, x), moment * 0.98 + target * x
        state = regression.learn(state, x, {A: target}, (A,))
    assert state["gram"][0] == pytest.approx(gram)
    exact = np.linalg.inv(gram + 2 * np.eye(3))
    # between two exact computations the ridge fades to no less than half
    loose = np.linalg.inv(gram + 1 * np.eye(3))
    x = rng.normal(size=3)
    assert exact.trace() <= state["inverse"][0].trace() * (1 + 1e-9)
    assert state["inverse"][0].trace() <= loose.trace() * (1 + 1e-9)
    assert regression.means(state, (A,), x)[0] == pytest.approx(
        x @ exact @ moment, abs=0.05
    )


def test_what_is_not_seen_any_more_is_forgotten() -> None:
    regression = Ridge(2, 1.0, 0.9)
    state = regression.init()
    x = np.array([0.5, 1.0])
    for _ in range(100):
        state = regression.learn(state, x, {A: 1.0}, (A, B))
    known = regression.widths(state, (A, B), x)
    for _ in range(5000):
        state = regression.learn(state, x, {B: 1.0}, (A, B))
    unknown = regression.widths(state, (A, B), x)
    assert known[0] < 0.2 and unknown[0] == pytest.approx(x @ x, rel=1e-6)
    assert np.isfinite(state["inverse"]).all() and not state["gram"][0].any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_many_updates_leave_the_inverse_exact(scale: float) -> None:
    rng = np.random.default_rng(2)
    regression = Ridge(9)
    state = regression.init()
    xs = rng.normal(size=(30_000, 9)) * scale
    xs[:, -1] = 1.0
    xs[:, 0] = xs[:, 1]  # two features that say the same
    targets = rng.random(len(xs))
    for x, target in zip(xs, targets.tolist(), strict=True):
        state = regression.learn(state, x, {A: target}, (A,))
    gram = xs.T @ xs + np.eye(9)
    inverse = state["inverse"][0]
    assert (inverse == inverse.T).all()
    assert np.linalg.eigvalsh(inverse).min() > 0
    some = xs[:100]
    widths = np.einsum("ni,ij,nj->n", some, inverse, some)
    exact = np.einsum("ni,in->n", some, np.linalg.solve(gram, some.T))
    assert widths == pytest.approx(exact, abs=1e-7)
    theta = np.linalg.solve(gram, xs.T @ targets)
    assert some @ state["theta"][0] == pytest.approx(some @ theta, abs=1e-6)


def test_the_largest_numbers_leave_it_finite() -> None:
    regression = Ridge(4, 1e-6)
    state = regression.init()
    rng = np.random.default_rng(3)
    for _ in range(2000):
        x = np.append(rng.choice([-LARGEST, LARGEST], size=3), 1.0)
        state = regression.learn(state, x, {A: float(rng.random())}, (A,))
        widths = regression.widths(state, (A,), x)
        # numbers of 1e6 over a ridge of 1e-6 cancel 24 digits: no more can be said
        assert np.isfinite(state["theta"]).all() and 0 <= widths[0] < 1e6
    assert np.linalg.eigvalsh(state["inverse"][0]).max() <= 1e6 * (1 + 1e-6)


# -- arms --------------------------------------------------------------------------------


def test_an_unknown_arm_has_no_theta_and_the_whole_width() -> None:
    regression = Ridge(2, 4.0)
    x = np.array([3.0, 1.0])
    state = regression.learn(regression.init(), x, {B: 1.0}, (A, B))
    for arms in ((A, B), (C, B, A), (C,)):
        means, widths = regression.means(state, arms, x), regression.widths(state, arms, x)
        for arm, mean, width in zip(arms, means, widths, strict=True):
            known = arm == B
            assert mean == pytest.approx(10 / 14 if known else 0.0)
            assert width == pytest.approx(10 / 14 if known else 10 / 4)


def test_the_oldest_arms_not_in_use_make_room() -> None:
    regression = Ridge(2)
    state = regression.init()
    x = np.ones(2)
    for turn in range(MOST_ARMS + 10):
        arm = f"m:{turn}#1"
        state = regression.learn(state, x, {arm: float(turn)}, (A, arm))
    assert len(state["pulls"]) == len(state["theta"]) == 2 + MOST_LEFT
    assert A in state["pulls"] and "m:10#1" not in state["pulls"]
    last = f"m:{MOST_ARMS + 9}#1"
    assert regression.means(state, (last,), x)[0] == pytest.approx((MOST_ARMS + 9) * 2 / 3)


def test_wide_contexts_keep_fewer_arms() -> None:
    regression = Ridge(577)
    state = regression.init()
    for turn in range(9):
        arm = f"m:{turn}#1"
        state = regression.learn(state, np.ones(577), {arm: 1.0}, (arm,))
    assert len(state["pulls"]) == 6
    assert state["gram"].nbytes < 17e6


def test_a_state_of_another_size_is_one_without_evidence() -> None:
    old = Ridge(2).learn(Ridge(2).init(), np.ones(2), {A: 1.0}, (A,))
    regression, x = Ridge(3), np.ones(3)
    assert regression.means(old, (A,), x) == [0.0]
    assert regression.widths(old, (A,), x) == [3.0]
    state = regression.learn(old, x, {A: 1.0}, (A,))
    assert regression.means(state, (A,), x)[0] == pytest.approx(0.75)


# -- what the policies share -------------------------------------------------------------


def test_an_integer_is_a_number_and_features_are_their_own_features() -> None:
    policy = LinUCB(LinUCB.Options(features=3))
    assert policy.features([1, -2.5, 0]) == [1.0, -2.5, 0.0]
    assert policy.features(policy.features([1, 2, 3])) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        (None, "policy linucb needs a context of 3 numbers at $.context, got none"),
        ([1, 2], "policy linucb needs a context of 3 numbers at $.context, got 2"),
        ([0] * 400, "a context of 3 numbers at $.context, got 400"),
        ("abc", "a context of 3 numbers at $.context, got a string"),
        ({"x": 1}, "a context of 3 numbers at $.context, got an object"),
        (7, "a context of 3 numbers at $.context, got a number"),
        ([1, True, 3], "needs numbers in a context, got true at $.context[1]"),
        ([1, 2, "3"], "needs numbers in a context, got a string at $.context[2]"),
        ([[1], 2, 3], "needs numbers in a context, got an array at $.context[0]"),
        ([1, None, 3], "needs numbers in a context, got none at $.context[1]"),
        ([1, float("nan"), 3], "best around 1, got nan at $.context[1]"),
        ([1, 2, float("-inf")], "best around 1, got -inf at $.context[2]"),
        ([1e7, 2, 3], "between -1000000 and 1000000 in a context"),
        ([10**400, 2, 3], "at $.context[0]"),
    ],
)
def test_other_contexts_are_refused(context: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        LinUCB(LinUCB.Options(features=3)).features(context)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "features must say how many numbers a context holds, from 1 to 256, got none"),
        ({"features": 257}, "got 257"),
        ({"features": -1}, "got -1"),
        ({"features": 2, "ridge": 0.0}, "ridge must lie between"),
        ({"features": 2, "discount": 0.5}, "discount must lie between 0.9 and 1, got 0.5"),
        ({"features": 2, "epsilon": 1.5}, "epsilon must lie between 0 and 1, got 1.5"),
        ({"features": 2, "alpha": -1.0}, "alpha must lie between"),
        ({"features": 2, "personal": True}, "has no option 'personal'"),
    ],
)
@pytest.mark.parametrize("name", ["linucb", "squarecb"])
def test_wrong_options_are_refused(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    if name == "squarecb" and "alpha" in options:
        options, sentence = (
            {"features": 2, "gamma_exponent": 2.0},
            "gamma_exponent must lie",
        )
    with pytest.raises(InvalidInput, match=name) as caught:
        make_policy(PolicySettings(name, options))
    assert sentence in str(caught.value)


def test_feedback_without_its_context_teaches_nothing() -> None:
    policy = LinUCB(LinUCB.Options(features=2))
    for context in (None, [1.0], {"uid": "x"}):
        state = policy.observe(
            policy.init(), Observation((A,), {A: 1.0}, (A,), 1.0, 1.0, context)
        )
        assert state["updates"] == 0


def test_every_known_loss_is_learned_from() -> None:
    policy = LinUCB(LinUCB.Options(features=1))
    seen = Observation((A, B, C), {A: 1.0, C: 0.0}, (A,), 0.5, 1.0, [2.0])
    state = policy.observe(policy.init(), seen)
    assert state["pulls"] == {A: 1.0, B: 0.0, C: 1.0}


def test_it_starts_from_the_mean_losses_with_little_weight() -> None:
    policy = LinUCB(LinUCB.Options(features=2))
    state = policy.begin({A: Total(1e6, 2e5), B: Total(4, 4.0), C: Total(0, 0.0)})
    x = policy.point([0.0, 0.0])
    means = policy.regression.means(state, (A, B, C), x)
    assert means == pytest.approx([0.8 * 20 / 21, 0.0, 0.0])
    widths = policy.regression.widths(state, (A, B, C), x)
    assert widths == pytest.approx([1 / 21, 1 / 5, 1.0])
    assert msgspec.json.encode(state["pulls"]) == b'{"a:1#1":20.0,"b:1#2":4.0}'
