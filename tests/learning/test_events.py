from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.learning.events import (
    Feedback,
    Halt,
    PolicyChange,
    Prior,
    decode,
    encode,
)
from clipper.records import PolicySettings

json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip
exact = st.floats(0, 1)


@given(st.dictionaries(st.sampled_from("abc"), exact), exact, st.none() | exact, json, json)
def test_feedback_is_read_as_it_was_written(
    losses: dict[str, float], p: float, loss: float | None, context: Any, label: Any
) -> None:
    event = Feedback(
        arms=("a", "b"), losses=losses, chosen=("b",), propensity=p, loss=loss,
        context=context, label=label, outputs={"a": label}, policy=3, decided=1.7e9,
    )  # fmt: skip
    again = decode(encode(event))
    assert again == event
    assert isinstance(again, Feedback)
    assert list(again.losses) == list(losses)  # sums depend on the order
    assert again.observation() == event.observation()


def test_the_other_kinds_are_read_as_they_were_written() -> None:
    change = PolicyChange(2, PolicySettings("exp3", {"eta": 0.1}), PolicySettings())
    prior = Prior(2, 0.5, {"b:1#2": 0.75, "a:1#1": 0.25})
    for event in (change, Halt("a:1#1", "it failed", 2), prior, Feedback()):
        assert decode(encode(event)) == event


@given(exact, st.dictionaries(st.sampled_from("abc"), exact))
def test_a_prior_is_read_bit_by_bit(rate: float, weights: dict[str, float]) -> None:
    event = Prior(3, rate, weights)
    again = decode(encode(event))
    assert again == event and isinstance(again, Prior)
    assert list(again.weights) == list(weights)
    assert b'"kind":"prior"' in encode(event)


def test_what_is_the_same_is_not_written() -> None:
    assert encode(Feedback()) == b'{"kind":"feedback"}'


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Feedback(label=3, losses={"a": 1.0}), True),
        (Feedback(label=3.0), True),
        (Feedback(label=4), False),
        (Feedback(label=3, reward=1.0), False),
        (Feedback(label=3, input="x"), False),
    ],
)
def test_the_words_of_a_client_count_not_what_follows(other: Feedback, same: bool) -> None:
    assert Feedback(label=3).says(other) is same


def test_labels_are_the_same_as_json_is() -> None:
    assert not Feedback(label=1).says(Feedback(label=True))
    assert not Feedback(label=[{"a": 0.0}]).says(Feedback(label=[{"a": False}]))
    assert Feedback(label=[{"a": 0.0}]).says(Feedback(label=[{"a": 0}]))


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"kind":"magic"}')
