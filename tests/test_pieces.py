"""Feedback from Python code becomes items, or is refused with a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec import UNSET

from clipper import pieces
from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.inputs import InputType
from clipper.pieces import LARGEST, MOST_ID, Item, make_context, make_item


def make(**fields: Any) -> Item:
    return make_item(InputType.DOUBLES, fields)


def test_a_label_on_a_query() -> None:
    assert make(query_id="q", label=7) == Item("q", 7)
    assert make(query_id="q", label=None).label is None
    assert make(query_id="q", label="x", uid=0, reward=None, input=UNSET).uid == "0"


def test_a_reward_on_a_query() -> None:
    item = make(query_id="q", reward=1)
    assert (item.reward, item.label) == (1.0, UNSET)
    assert make(query_id="q", reward=np.float32(0.5)).reward == 0.5


def test_a_label_on_an_input() -> None:
    item = make(input=np.array([1.0, 2.0]), label=np.int64(3), feedback_id="f")
    assert item.row is not None and len(item.row.payload) == 16
    assert type(item.label) is int
    assert item.feedback_id == "f"


def test_labels_and_contexts_of_numpy_are_plain() -> None:
    item = make(query_id="q", label=np.array([0.5, 0.5]), context=np.array([1, 2]))
    assert (item.label, item.context) == ([0.5, 0.5], [1, 2])
    assert make(query_id="q", label=(1, 2)).label == [1, 2]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "label or reward"),
        ({"query_id": "q"}, "label or reward"),
        ({"query_id": "q", "label": 1, "reward": 1}, "label or reward"),
        ({"label": 1}, "query_id, or an input"),
        ({"query_id": "q", "reward": "0.9"}, "a number at reward"),
        ({"query_id": "q", "reward": True}, "a number at reward"),
        ({"query_id": "q", "reward": 1.01}, "from 0 to 1"),
        ({"query_id": "q", "reward": float("nan")}, "from 0 to 1"),
        ({"query_id": "q", "reward": np.array([0.5])}, "a number at reward"),
        ({"query_id": 7, "label": 1}, "at query_id"),
        ({"query_id": "", "label": 1}, "at query_id"),
        ({"query_id": "q" * (MOST_ID + 1), "label": 1}, "at query_id"),
        ({"input": [1.0], "label": 1, "feedback_id": 3}, "at feedback_id"),
        ({"input": "text", "label": 1}, "Expected an array"),
        ({"query_id": "q", "label": 1, "uid": True}, "at uid"),
        ({"query_id": "q", "labels": 1}, "no field 'labels'"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make(**fields)


@pytest.mark.parametrize("name", ["label", "context"])
def test_what_is_larger_than_the_log_takes_is_not_looked_at(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Any] = []
    monkeypatch.setattr(pieces, "check_depth", lambda value, path: looked_at.append(value))
    large = [[[]]] * 70_000
    with pytest.raises(PayloadTooLarge, match=f"at most {LARGEST} .* at {name}"):
        make(**{"query_id": "q", "label": 1, name: large})
    assert large not in looked_at


@pytest.mark.parametrize("name", ["label", "context"])
def test_depth_is_bounded(name: str) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(InvalidInput, match="Nested deeper"):
        make(**{"query_id": "q", "label": 1, name: deep})


def test_a_context_is_what_json_can_say() -> None:
    assert make_context(None) is None
    assert make_context({"a": np.array([0.5]), "b": np.float64(1)}) == {
        "a": [0.5],
        "b": 1.0,
    }
    itself: list[Any] = []
    itself.append(itself)
    for wrong in (object(), [10**30], {"a": "\ud800"}, itself, {(1, 2): 3}, ["x", 1j]):
        with pytest.raises(InvalidInput, match="at context"):
            make_context(wrong)
        with pytest.raises(InvalidInput, match="at context"):
            make(query_id="q", reward=1, context=wrong)


def test_a_piece_is_a_mapping() -> None:
    with pytest.raises(InvalidInput, match="mapping"):
        make_item(InputType.DOUBLES, ["q"])  # type: ignore[arg-type]
