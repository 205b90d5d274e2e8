from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.choosing import Choice
from clipper.errors import StoreError
from clipper.learning.chunks import (
    CHUNK_BYTES,
    LARGEST,
    decode_chunk,
    encode_chunks,
    encode_context,
    to_decision,
)
from clipper.learning.decisions import Made
from clipper.store.base import Chunk
from clipper.values import RowError

ARMS = ("a:1#1", "b:1#2", "c:1#3")
FAILED = RowError("model_failed", "no")


def choice(index: int | None = 1, features: bytes | None = None) -> Choice:
    models: Any = (None, None, None)
    stamp: Any = None
    odds = [0.2, 0.3, 0.5]
    p = 1.0 if index is None else odds[index]
    return Choice(ARMS, models, odds, index, p, 4, stamp, features)


def panel(
    texts: list[bytes | None],
    agreeing: tuple[int, ...],
    answer: bytes | None,
    p: float = 1.0,
) -> Any:
    return SimpleNamespace(texts=texts, agreeing=agreeing, answer=answer, propensity=p)


def made(outputs: Any, index: int | None = 1, **more: Any) -> Made:
    features, context = more.get("features"), more.get("context")
    chosen = choice(index, None if features is None else encode_context(features))
    kept = None if context is None else chosen.keep(context)
    return Made(9, chosen, more.get("uid"), kept, outputs)


def one(chunks: Iterator[Chunk]) -> Chunk:
    (chunk,) = chunks
    return chunk


texts = st.binary(max_size=20)
outputs = st.one_of(texts, st.text(max_size=20), st.just(FAILED))


@st.composite
def panels(draw: st.DrawFn) -> Any:
    members = draw(st.lists(st.none() | texts, min_size=3, max_size=3))
    there = [n for n, text in enumerate(members) if text is not None]
    if not there:
        return panel(members, (), None)
    agreeing = draw(st.sets(st.sampled_from(there), min_size=1))
    answer = draw(st.just(members[min(agreeing)]) | texts)
    return panel(members, tuple(sorted(agreeing)), answer, draw(st.floats(0.1, 1)))


singles = st.builds(
    made, outputs | st.lists(outputs, min_size=1, max_size=4),
    uid=st.none() | st.text(max_size=5),
    context=st.none() | st.lists(st.floats(-1, 1), max_size=3),
    features=st.none() | st.lists(st.floats(-1, 1), max_size=3),
)  # fmt: skip
ensembles = st.builds(
    made, panels() | st.lists(panels(), min_size=1, max_size=3), st.just(None)
)


@given(
    st.dictionaries(st.integers(0, 2**63 - 1), singles | ensembles, min_size=1, max_size=8)
)
def test_a_decision_from_the_disk_is_the_one_in_memory(decided: dict[int, Made]) -> None:
    chunk = one(encode_chunks(list(decided), list(decided.values()), 12.5))
    assert (chunk.first, chunk.last) == (min(decided), max(decided)) and chunk.at == 12.5
    decoded = decode_chunk(chunk)
    rows = 0
    for nonce, decision in decided.items():
        count = len(decision.outputs) if type(decision.outputs) is list else 1
        rows += count
        for row in range(count + 1):
            assert decoded.find(nonce, row) == to_decision(decision, row)
        assert decoded.find(nonce, count) is None
    assert len(list(decoded)) == rows
    assert decoded.find(max(decided) + 1, 0) is None


def test_a_choice_shared_is_written_once() -> None:
    shared = choice()
    many = [(n, Made(9, shared, None, None, b"1")) for n in range(1000)]
    assert len(one(encode_chunks(*zip(*many, strict=True), 0.0)).body) < 20_000


def test_under_a_single_choice_the_output_is_the_arms() -> None:
    decision = to_decision(made(b"3", uid="ann"), 0)
    assert decision is not None
    assert (decision.chosen, decision.propensity) == (ARMS[1:2], 0.3)
    assert decision.outputs == {ARMS[1]: b"3"} and decision.answer == b"3"
    assert not decision.failed and not decision.ensemble and decision.uid == "ann"


def test_a_failure_is_one_and_a_large_output_is_not() -> None:
    failed, large = to_decision(made(FAILED), 0), to_decision(made(b"x" * 5000), 0)
    assert failed is not None and large is not None
    assert failed.failed and failed.answer is None and failed.chosen == ARMS[1:2]
    assert not large.failed and large.answer is None and large.outputs == {}
    kept = to_decision(made(b"x" * LARGEST), 0)
    assert kept is not None and kept.answer is not None


def test_a_panel_says_who_agreed_and_what_each_said() -> None:
    found = panel([b"3", None, b"4"], (2,), b"4", 0.5)
    decision = to_decision(made(found, None), 0)
    assert decision is not None and decision.ensemble
    assert decision.chosen == ARMS[2:] and decision.propensity == 0.5
    assert decision.outputs == {ARMS[0]: b"3", ARMS[2]: b"4"} and decision.answer == b"4"


def test_the_answer_of_a_panel_may_be_nobodys() -> None:
    found = panel([b"3", b"4", None], (0, 1), b"3.5")
    decision = to_decision(made(found, None), 0)
    assert decision is not None and decision.answer == b"3.5"


def test_a_panel_without_outputs_failed() -> None:
    decision = to_decision(made(panel([None] * 3, (), None), None), 0)
    assert decision is not None and decision.failed and decision.chosen == ()


@pytest.mark.parametrize(
    ("context", "features", "expected"),
    [
        ([1.0], None, [1.0]),
        ([1.0], [2.0], [2.0]),
        (["x" * 5000], None, None),  # too large for the disk
        (None, None, None),
    ],
)
def test_the_context_is_what_the_policy_made_of_it_or_the_querys(
    context: Any, features: Any, expected: Any
) -> None:
    decided = made(b"1", context=context, features=features)
    found = decode_chunk(one(encode_chunks([3], [decided], 0.0))).find(3, 0)
    assert found is not None and found.context == expected


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"[]"])
def test_a_body_that_makes_no_sense_is_told(body: bytes) -> None:
    with pytest.raises(StoreError, match="makes no sense"):
        decode_chunk(Chunk(0, 1, 0.0, body))


# -- contexts that cannot be written -------------------------------------------------------


class Stranger:
    """What no file format knows."""


@pytest.mark.parametrize("context", [[1.0, 10**30], Stranger(), {"a": "\ud800"}])
@pytest.mark.parametrize("whose", ["context", "features"])
def test_a_context_that_cannot_be_written_costs_no_other_decision(
    context: Any, whose: str
) -> None:
    decided = [made(b"1", uid="bob"), made(b"2", **{whose: context}), made(b"3")]
    decoded = decode_chunk(one(encode_chunks([1, 2, 3], decided, 0.0)))
    found = [decoded.find(nonce, 0) for nonce in (1, 2, 3)]
    assert [decision and decision.answer for decision in found] == [b"1", b"2", b"3"]
    assert found[1] is not None and found[1].context is None


def test_features_past_the_limit_are_not_written() -> None:
    decided = made(b"1", features=["x" * LARGEST])
    found = decode_chunk(one(encode_chunks([1], [decided], 0.0))).find(1, 0)
    assert found is not None and found.context is None


# -- parts of a batch ----------------------------------------------------------------------


def rows_of(count: int, size: int) -> list[Any]:
    return [b"%d" % n + b"x" * size for n in range(count)]


@pytest.mark.parametrize(
    ("outputs", "index"),
    [
        (rows_of(2000, 3000), 1),
        (rows_of(65_535, 0), 1),
        ([FAILED] * 65_535, 1),
        ([panel([b"1" * 1000] * 3, (0,), b"1", 0.5)] * 3000, None),
    ],
)
def test_a_large_batch_is_cut(outputs: list[Any], index: int | None) -> None:
    batch, other = made(outputs, index, uid="ann", context=[1.0]), made(b"7", uid="bob")
    nonces, decided = [2**63 - 2, 2**63 - 1], [batch, other]
    chunks = list(encode_chunks(nonces, decided, 12.5))
    assert len(chunks) > 2 and all(chunk.at == 12.5 for chunk in chunks)
    assert all(len(chunk.body) < 1.1 * CHUNK_BYTES for chunk in chunks)
    *parts, head = chunks
    assert (head.first, head.last) == (min(nonces), max(nonces))
    assert all(2**63 <= part.first == part.last < 2**64 for part in parts)
    decoded = {chunk.first: decode_chunk(chunk) for chunk in chunks}
    first = decoded[head.first]
    for row in range(0, len(outputs), 17):
        place = first.elsewhere(nonces[0], row)
        where = first if place is None else decoded[place]
        assert where.find(nonces[0], row) == to_decision(batch, row)
    assert first.find(nonces[1], 0) == to_decision(other, 0)
    assert first.elsewhere(nonces[1], 0) is None and first.elsewhere(5, 0) is None
    listed = [(nonce, row) for chunk in decoded.values() for nonce, row, _ in chunk]
    expected = [(nonces[0], row) for row in range(len(outputs))]
    assert sorted(listed) == [*expected, (nonces[1], 0)]


def test_a_part_knows_whose_it_is() -> None:
    """Numbers of parts may meet where nonces are 2**47 apart."""
    outputs = rows_of(1000, 3000)
    part, _ = map(decode_chunk, list(encode_chunks([5], [made(outputs)], 0.0))[-2:])
    start = next(iter(part))[1]
    assert part.find(5, start) is not None
    assert part.find(5 + 2**47, start) is None
    assert part.find(5, 0) is None and part.find(5, 1000) is None
