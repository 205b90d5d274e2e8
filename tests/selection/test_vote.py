from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.selection.vote import Combined, Sample, Texts, Vote, distinct

ALPHABET = (b"1", b"1.0", b'"x"', b"[2]", None)
TEXTS = st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=4)


@st.composite
def members(draw: st.DrawFn) -> tuple[list[bytes | None], list[float]]:
    """Texts and weights that often tie; sums of sixteenths are exact."""
    texts = draw(TEXTS)
    grid = st.integers(0, 4).map(lambda n: n / 16)
    return texts, draw(st.lists(grid, min_size=len(texts), max_size=len(texts)))


def vote(texts: Texts, weights: list[float]) -> Combined:
    return Vote().combine(texts, weights, Random(1))


def value(text: bytes) -> Any:
    return msgspec.json.decode(text)


def test_the_most_weight_wins() -> None:
    found = vote([b"1", b"2", b"2", b"3"], [0.4, 0.25, 0.25, 0.1])
    assert found == (b"2", 0.5, (1, 2), 1.0)


def test_one_answer_is_sure() -> None:
    assert vote([b"1", b"1"], [0.7, 0.3]) == (b"1", 1.0, (0, 1), 1.0)


def test_members_that_are_out_do_not_count() -> None:
    found = vote([None, b"2", None, b"3"], [0.6, 0.1, 0.2, 0.1 / 3])
    assert (found.output, found.agreeing) == (b"2", (1,))
    assert found.confidence == pytest.approx(0.75)


def test_members_without_weight_count_alike_where_no_others_are_in() -> None:
    found = vote([b"1", b"2", b"2", None], [0.0, 0.0, 0.0, 1.0])
    assert (found.output, found.agreeing) == (b"2", (1, 2))
    assert found.confidence == pytest.approx(2 / 3)


@pytest.mark.parametrize("weights", [[0.1, 0.2, 0.3], [0.5, 0.0, 0.5]])
def test_a_tie_goes_to_the_first_arm_that_counts(weights: list[float]) -> None:
    # 0.1 + 0.2 is a little more than 0.3
    assert vote([b"1", b"1", b"2"], weights).output == b"1"
    assert vote([b"2", b"1", b"1"], weights[::-1]).output == b"2"
    assert vote([b"2", b"1", b"2"], [0.0, 0.5, 0.5]).output == b"1"


def test_nobody_has_no_answer() -> None:
    for combiner in (Vote(), Sample(0.1)):
        with pytest.raises(ValueError, match="no member"):
            combiner.combine([None, None], [0.5, 0.5], Random(1))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([b"1", b"2", b"1.0", None, b"10e-1"], [[0, 2, 4], [1]]),
        ([b"1", b"true", b'"1"', b"null", b"false", b"0"], [[0], [1], [2], [3], [4], [5]]),
        ([b"[1,2]", b"[1.0, 2]", b"[2,1]", b"[1,2]"], [[0, 1, 3], [2]]),
        ([b'{"a":1,"b":2}', b'{"b": 2, "a": 1.0}'], [[0, 1]]),
        ([b"-0", b"0", b"-0.0"], [[0, 1, 2]]),
        ([b"1e400", b"1e401", b"1e400"], [[0, 2], [1]]),
        ([b"[true]", b"[1]"], [[0], [1]]),
        ([b"[" + b"1," * 600 + b"1]", b"[" + b"1," * 600 + b"1.0]"], [[0], [1]]),
        ([b"[" * 500 + b"]" * 500, b" " + b"[" * 500 + b"]" * 500], [[0], [1]]),
    ],
)
def test_answers_are_told_apart_by_value(
    texts: list[bytes | None], expected: list[list[int]]
) -> None:
    assert distinct(texts) == expected


@settings(max_examples=300, deadline=None)
@given(members())
def test_a_vote_is_decided_just_when_nothing_can_change_it(
    drawn: tuple[list[bytes | None], list[float]],
) -> None:
    texts, weights = drawn
    out = [i for i, text in enumerate(texts) if text is None]
    if len(out) == len(texts):
        assert not Vote().decided(texts, weights)
        return
    answer = value(vote(texts, weights).output)
    changed = False
    for said in product((*ALPHABET, b"9"), repeat=len(out)):
        later = list(texts)
        for index, text in zip(out, said, strict=True):
            later[index] = text
        changed = changed or value(vote(later, weights).output) != answer
    assert Vote().decided(texts, weights) == (not changed)


@given(st.data(), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_what_is_decided_stays(data: st.DataObject, weights: list[float]) -> None:
    size = len(weights)
    later = data.draw(st.lists(st.sampled_from(ALPHABET[:4]), min_size=size, max_size=size))
    arrived = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    texts = [text if there else None for text, there in zip(later, arrived, strict=True)]
    if any(arrived) and Vote().decided(texts, weights):
        now, then = vote(texts, weights), vote(later, weights)
        assert value(now.output) == value(then.output)


def test_failed_members_may_be_told_by_no_weight() -> None:
    assert Vote().decided([b"1", None, b"2"], [0.5, 0.0, 0.3])
    assert not Vote().decided([None, None], [0.0, 0.0])


# By lot


@given(members(), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 5))
def test_the_odds_of_answers_are_their_propensities(
    drawn: tuple[list[bytes | None], list[float]], exploration: float, seed: int
) -> None:
    texts, weights = drawn
    answers = distinct(texts)
    if not answers:
        return
    shares = [sum(weights[i] for i in group) for group in answers]
    if not any(shares):
        shares = [float(len(group)) for group in answers]
    found = Sample(exploration).combine(texts, weights, Random(seed))
    index = answers.index(list(found.agreeing))
    share = shares[index] / sum(shares)
    expected = (1 - exploration) * share + exploration / len(answers)
    assert found.propensity == pytest.approx(expected) and 0 < found.propensity <= 1
    assert found.confidence == pytest.approx(share)
    assert value(found.output) == value(texts[answers[index][0]] or b"")


def test_answers_are_drawn_as_often_as_is_said() -> None:
    texts, weights, rng = [b"1", b"2", b"1", b"3"], [0.3, 0.5, 0.2, 0.0], Random(7)
    sample = Sample(0.3)
    drawn = [sample.combine(texts, weights, rng) for _ in range(20_000)]
    for text, p in ((b"1", 0.45), (b"2", 0.45), (b"3", 0.1)):
        mine = [one for one in drawn if one.output == text]
        assert mine[0].propensity == pytest.approx(p)
        assert len(mine) / len(drawn) == pytest.approx(p, abs=0.015)


def test_the_same_seed_draws_the_same() -> None:
    texts, weights = [b"1", b"2"], [0.5, 0.5]
    runs = [
        [Sample(0.1).combine(texts, weights, rng).output for _ in range(50)]
        for rng in (Random(3), Random(3))
    ]
    assert runs[0] == runs[1] and len(set(runs[0])) == 2


def test_a_lot_waits_for_all_that_could_be_drawn() -> None:
    assert Sample(0.0).decided([b"1", None], [0.5, 0.0])
    assert not Sample(0.0).decided([b"1", None], [0.5, 0.1])
    assert not Sample(0.0).decided([b"1", None], [0.0, 0.0])
    assert not Sample(0.1).decided([b"1", None], [0.5, 0.0])
    assert Sample(0.1).decided([b"1", b"2"], [0.5, 0.0])
