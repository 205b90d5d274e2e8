from __future__ import annotations

import math
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.selection.blend import POOL_FLOOR, Blend, LinearPool, Mean, Median, Pool
from clipper.selection.losses import make_loss
from clipper.selection.vote import Combined

FINITE = st.floats(allow_nan=False, allow_infinity=False)
MEMBERS = st.lists(st.tuples(FINITE, st.floats(0, 1)), min_size=1, max_size=6)
ABSOLUTE, SQUARED = make_loss("absolute(10)"), make_loss("squared(10)")
COMBINERS = [Mean(SQUARED), Median(ABSOLUTE), LinearPool(), Pool()]


def combine(combiner: Blend, values: list[Any], weights: list[float]) -> Combined:
    texts = [None if value is ... else msgspec.json.encode(value) for value in values]
    return combiner.combine(texts, weights, Random(1))


def answer(combiner: Blend, values: list[Any], weights: list[float]) -> Any:
    return msgspec.json.decode(combine(combiner, values, weights).output)


# Numbers


def test_the_mean() -> None:
    found = combine(Mean(SQUARED), [1, 2.0, 5], [0.5, 0.25, 0.25])
    assert msgspec.json.decode(found.output) == 2.25
    losses = [1.25**2 / 100, 0.25**2 / 100, 2.75**2 / 100]
    assert found.confidence == pytest.approx(1 - np.dot([0.5, 0.25, 0.25], losses))
    assert found.agreeing == (1,) and found.propensity == 1.0


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([9, 1, 2], [0.3, 0.3, 0.4], 2),
        ([9, 1, 2], [0.6, 0.3, 0.1], 9),
        ([1, 3], [0.5, 0.5], 2),
        ([1, 3, 7], [0.25, 0.25, 0.5], 5),
        ([3, 1, 9, 9], [0.1, 0.4, 0.0, 0.5], 6),
        ([5, ..., 1, 2], [0.1, 0.7, 0.1, 0.1], 2),
    ],
)
def test_the_median(values: list[Any], weights: list[float], expected: float) -> None:
    assert answer(Median(ABSOLUTE), values, weights) == expected


def test_a_median_that_somebody_gave_is_given_as_it_was() -> None:
    assert combine(Median(ABSOLUTE), [7, 3, 4], [0.3, 0.3, 0.4]).output == b"4"


@given(MEMBERS, st.sampled_from([Mean(SQUARED), Median(ABSOLUTE)]))
def test_the_middle_lies_in_the_middle(
    drawn: list[tuple[float, float]], combiner: Blend
) -> None:
    values, weights = [value for value, _ in drawn], [weight for _, weight in drawn]
    found = combine(combiner, values, weights)
    middle = msgspec.json.decode(found.output)
    counted = [v for v, w in drawn if w or not any(weights)]
    assert min(counted) <= middle <= max(counted)
    assert 0 <= found.confidence <= 1
    gaps = [abs(v / 4 - middle / 4) for v in counted]
    for i in found.agreeing:
        assert abs(values[i] / 4 - middle / 4) <= min(gaps) * (1 + 1e-6) + 1e-12


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6))
def test_no_number_has_less_loss_than_the_middle(values: list[float]) -> None:
    weights = [1 / len(values)] * len(values)
    mean = answer(Mean(SQUARED), values, weights)
    median = answer(Median(ABSOLUTE), values, weights)
    array = np.array(values)
    for other in (*values, mean + 1e-3, median - 1e-3, 0.0):
        assert ((array - mean) ** 2).sum() <= ((array - other) ** 2).sum() + 1e-6
        assert abs(array - median).sum() <= abs(array - other).sum() + 1e-6


def test_arrays_of_one_shape_go_entry_by_entry() -> None:
    values = [[[1, 2]], [[3, 6]], [[5, 1]]]
    assert answer(Mean(SQUARED), values, [0.25, 0.5, 0.25]) == [[3.0, 3.75]]
    assert answer(Median(ABSOLUTE), values, [0.3, 0.4, 0.3]) == [[3, 2]]


def test_members_that_all_say_the_same_are_sure() -> None:
    assert combine(Mean(SQUARED), [3, 3.0], [0.5, 0.5]) == (b"3", 1.0, (0, 1), 1.0)
    assert combine(Median(ABSOLUTE), ["x", "x"], [0.5, 0.5]).output == b'"x"'


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize(
    "values",
    [["x", 1, "x"], [[1], [1, 2], [1]], [None, 2.5, None], [True, 1, True],
     [{"a": 1.0}, {"b": 1.0}, {"a": 1.0}], [[[0.5, 0.5]], 0.5, [[0.5, 0.5]]]],
)  # fmt: skip
def test_outputs_without_a_middle_are_put_to_the_vote(
    combiner: Blend, values: list[Any]
) -> None:
    found = combine(combiner, values, [0.3, 0.4, 0.3])
    assert msgspec.json.decode(found.output) == values[0]
    assert found.confidence == pytest.approx(0.6) and found.agreeing == (0, 2)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_members_without_weight_have_no_say(combiner: Blend) -> None:
    values = [[0.25, 0.75], [0.75, 0.25], "broken"]
    assert combine(combiner, values, [0.5, 0.5, 0.0]) == combine(
        combiner, values[:2], [0.5, 0.5]
    )


@pytest.mark.parametrize("combiner", COMBINERS)
def test_all_count_alike_where_only_members_without_weight_are_in(combiner: Blend) -> None:
    values: list[Any] = [[0.25, 0.75], [0.75, 0.25], ...]
    assert combine(combiner, values, [0.0, 0.0, 1.0]) == combine(
        combiner, values[:2], [0.5, 0.5]
    )


@pytest.mark.parametrize("combiner", COMBINERS)
def test_weight_that_is_out_leaves_it_open(combiner: Blend) -> None:
    assert combiner.decided([b"1", None], [0.5, 0.0])
    assert not combiner.decided([b"1", None], [0.5, 0.1])
    assert not combiner.decided([b"1", None], [0.0, 0.0])
    assert combiner.decided([b"1", b"2"], [0.0, 0.0])


@pytest.mark.parametrize("combiner", COMBINERS)
def test_nobody_has_no_answer(combiner: Blend) -> None:
    with pytest.raises(ValueError, match="no member"):
        combiner.combine([None], [1.0], Random(1))


# Probabilities

P, Q = [0.7, 0.2, 0.1], [0.1, 0.6, 0.3]


def geometric(exponents: list[float], *rows: list[float]) -> list[float]:
    p = [
        math.prod(max(x, POOL_FLOOR) ** w for x, w in zip(column, exponents, strict=True))
        for column in zip(*rows, strict=True)
    ]
    return [x / sum(p) for x in p]


def test_the_linear_pool() -> None:
    found = combine(LinearPool(), [P, Q], [0.75, 0.25])
    assert msgspec.json.decode(found.output) == pytest.approx([0.55, 0.3, 0.15])
    assert found.confidence == pytest.approx(0.55)
    assert found.agreeing == (0,)


@pytest.mark.parametrize("exponents", [[0.5, 0.5], [1.0, 1.0], [2.0, 0.25]])
def test_the_logarithmic_pool(exponents: list[float]) -> None:
    found = combine(Pool(), [P, Q], exponents)
    expected = geometric(exponents, P, Q)
    assert msgspec.json.decode(found.output) == pytest.approx(expected)
    assert found.confidence == pytest.approx(max(expected))


def test_those_present_take_over_the_exponents_of_those_that_are_out() -> None:
    expected = geometric([0.9, 0.6], P, Q)
    assert answer(Pool(), [P, ..., Q], [0.6, 0.5, 0.4]) == pytest.approx(expected)
    assert answer(Pool(), [P, ...], [0.5, 1.5]) == pytest.approx(geometric([2.0], P))


def test_the_form_is_that_of_the_members() -> None:
    named = [dict(zip("abc", P, strict=True)), {"c": 0.3, "b": 0.6, "a": 0.1}]
    for combiner in (LinearPool(), Pool()):
        listed = answer(combiner, [P, Q], [0.5, 0.5])
        found = answer(combiner, named, [0.5, 0.5])
        assert list(found) == ["a", "b", "c"]
        assert list(found.values()) == pytest.approx(listed)
        binary = answer(combiner, [0.2, 0.9], [0.5, 0.5])
        assert binary == pytest.approx(
            answer(combiner, [[0.8, 0.2], [0.1, 0.9]], [0.5, 0.5])[1]
        )


def test_members_that_share_a_doubt_are_not_sure() -> None:
    for combiner in (LinearPool(), Pool()):
        found = combine(combiner, [[0.6, 0.4], [0.6, 0.4]], [0.5, 0.5])
        assert found.confidence == pytest.approx(0.6) and found.agreeing == (0, 1)


def test_a_confident_mistake_keeps_a_floor() -> None:
    found = answer(Pool(), [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])
    assert found == pytest.approx([0.5, 0.5])
