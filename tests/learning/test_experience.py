from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.errors import StoreError
from clipper.learning import experience as module
from clipper.learning.experience import Experience
from clipper.records import PolicySettings
from clipper.selection.policy import (
    MOST_ARMS,
    MOST_LEFT,
    Observation,
    SelectionPolicy,
    Total,
)
from clipper.selection.registry import make_policy

ARMS = ("a:1#1", "b:1#2", "c:1#3")
OPTIONS: dict[str, dict[str, Any]] = {
    "linucb": {"features": 3},
    "squarecb": {"features": 3},
    "canary": {"weights": {"a": 1.0, "b": 1.0}},
}
NAMES = [
    "static", "epsilon_greedy", "ucb1", "discounted_ucb", "thompson", "exp3", "exp3_ix",
    "linucb", "squarecb", "majority", "exp4", "hedge", "log_pool", "canary", "shadow",
]  # fmt: skip


def policy_of(name: str) -> SelectionPolicy:
    return make_policy(PolicySettings(name, OPTIONS.get(name, {})))


losses = st.floats(0, 1)
contexts = st.none() | st.lists(st.floats(-10, 10), min_size=3, max_size=3)
judged = st.builds(
    lambda arm, loss, p, context: Observation(
        ARMS, {ARMS[arm]: loss}, (ARMS[arm],), p, loss, context,
        {ARMS[arm]: [loss, 1 - loss]}, 0,
    ),
    st.integers(0, 2), losses, st.floats(0.01, 1.0), contexts,
)  # fmt: skip
members = st.builds(
    lambda found, context: Observation(
        ARMS, dict(zip(ARMS, found, strict=True)), ARMS[:1], 1.0, found[0], context,
        {arm: {"0": loss, "1": 1 - loss} for arm, loss in zip(ARMS, found, strict=True)},
        "1",
    ),
    st.lists(losses, min_size=3, max_size=3), contexts,
)  # fmt: skip
odd = st.sampled_from(
    [
        Observation((), {}, (), 1.0, 1.0),  # nobody was asked
        Observation(ARMS, {}, (), 1.0, 0.5),  # an answer that nobody knows
        Observation(ARMS, {}, (), 1.0, None),
        Observation(ARMS[:1], {"gone:1#9": 0.5}, ("gone:1#9",), 1e-30, 0.5),
        Observation(ARMS, {ARMS[0]: 1.0}, ARMS[:1], 0.5, 1.0, ["x", {}, None]),
        Observation(ARMS, {ARMS[0]: 1.0}, ARMS[:1], 0.5, 1.0, [1e300, -1e300, 1.0]),
        Observation(ARMS, {ARMS[0]: 1.0}, ARMS[:1], 0.5, 1.0, {"a": 1}),
        Observation(ARMS, {ARMS[0]: 1.0}, ARMS[:1], 0.5, 1.0, None, {ARMS[0]: "x"}, [1]),
    ]
)


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(judged | members | odd, max_size=12), st.integers(0, 12))
def test_packed_and_unpacked_in_the_middle_it_goes_on_bit_by_bit(
    name: str, seen: list[Observation], cut: int
) -> None:
    policy = policy_of(name)
    whole, part = Experience(policy), Experience(policy)
    for seq, observation in enumerate(seen, 1):
        if seq == cut:
            part = Experience.unpack(part.pack())
        whole.observe(policy, observation, seq)
        part.observe(policy, observation, seq)
    assert whole.pack() == part.pack()
    assert Experience.unpack(whole.pack()).pack() == whole.pack()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strange", range(8))
def test_no_policy_raises_at_what_feedback_may_bring(
    name: str, strange: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    complained: set[str] = set()
    monkeypatch.setattr(module, "_complained", complained)
    observation = odd.elements[strange]  # type: ignore[attr-defined]
    policy = policy_of(name)
    experience = Experience(policy)
    experience.observe(policy, observation, 1)
    assert complained == set()


@pytest.mark.parametrize("name", NAMES)
def test_to_begin_from_nothing_is_to_begin(name: str) -> None:
    """Else it would matter when a user without evidence was first looked at."""
    policy = policy_of(name)
    begun, fresh = Experience(policy), Experience(policy)
    begun.state = policy.begin({})
    assert begun.pack() == fresh.pack()


@pytest.mark.parametrize("before", NAMES)
@pytest.mark.parametrize("after", NAMES)
def test_any_policy_can_follow_any(before: str, after: str) -> None:
    old, new = policy_of(before), policy_of(after)
    experience = Experience(old)
    for seq in range(1, 4):
        seen = Observation(ARMS, {ARMS[0]: 0.25}, ARMS[:1], 0.5, 0.25)
        experience.observe(old, seen, seq)
    experience.adopt(new)
    assert experience.policy == after
    experience.observe(new, Observation(ARMS, {ARMS[1]: 1.0}, ARMS[1:2], 0.5, 1.0), 4)
    again = Experience.unpack(experience.pack())
    assert again.totals == {ARMS[0]: Total(3.0, 0.75), ARMS[1]: Total(1.0, 1.0)}


def test_an_entry_that_is_in_changes_nothing() -> None:
    policy = policy_of("ucb1")
    experience = Experience(policy)
    seen = Observation(ARMS, {ARMS[0]: 1.0}, ARMS[:1], 1.0, 1.0)
    experience.observe(policy, seen, 5)
    before = experience.pack()
    experience.observe(policy, seen, 5)
    experience.observe(policy_of("exp3"), seen, 4)
    assert experience.pack() == before


def test_the_score_has_a_bound() -> None:
    policy = policy_of("static")
    experience = Experience(policy)
    for seq in range(1, 3 * MOST_ARMS):
        arm = f"a:{seq}#{seq}"
        experience.observe(policy, Observation((arm,), {}, (arm,), 1.0, 1.0), seq)
        experience.observe(policy, Observation((), {"z:1#1": 0.0}), seq)
    assert len(experience.totals) == 1 + MOST_LEFT
    assert list(experience.totals)[-1] == f"a:{3 * MOST_ARMS - 1}#{3 * MOST_ARMS - 1}"


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3, 3)),
        np.arange(6.0).reshape(2, 3).T,  # not contiguous
        np.array(1.5),
        np.array([1, -2], np.int32),
        np.array([np.nan, np.inf, -0.0]),
    ],
)
def test_arrays_come_back_as_they_were(value: Any) -> None:
    experience = Experience(policy_of("static"))
    experience.state = {"array": value}
    found = Experience.unpack(experience.pack()).state["array"]
    assert found.dtype == value.dtype and found.shape == value.shape
    assert found.tobytes() == value.tobytes()
    found += 1  # it may be changed


@pytest.mark.parametrize("value", [object(), np.float32(1), {1, 2} and iter(()), 10**30])
def test_a_state_that_cannot_be_kept_says_so(value: Any) -> None:
    experience = Experience(policy_of("static"))
    experience.state = {"x": value}
    with pytest.raises(StoreError, match="policy static cannot be kept"):
        experience.pack()
