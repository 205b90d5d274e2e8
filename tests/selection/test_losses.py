from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.errors import InvalidInput
from clipper.selection.losses import (
    LOG_FLOOR,
    distribution,
    index_of,
    make_loss,
    numbers,
    reward_losses,
    same,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SPECS = ["zero_one", "absolute", "absolute(2.5)", "squared", "squared(10)", "log"]
DEEP: Any = json.loads("[" * 500 + "]" * 500)


# Making one


@pytest.mark.parametrize("spec", SPECS)
def test_every_form_has_its_name(spec: str) -> None:
    loss = make_loss(spec)
    assert loss.name == spec.partition("(")[0]
    assert spec in repr(loss)


@pytest.mark.parametrize(
    "spec",
    [
        "", "hinge", "Absolute", "absolute()", "absolute(-1)", "absolute(0)",
        "squared(nan)", "squared(inf)", "absolute(1e999)", "absolute(1e-999)",
        "absolute(2", "absolute 2", "absolute(1_0)", "absolute( 2)",
        "absolute(2)x", "zero_one(1)", "log(2)", "absolute(٣)",
    ],
)  # fmt: skip
def test_any_other_form_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput, match="loss"):
        make_loss(spec)


@pytest.mark.parametrize("spec", SPECS)
@given(label=JSON, output=JSON)
def test_whatever_the_values_a_loss_lies_between_0_and_1_or_tells_why(
    spec: str, label: Any, output: Any
) -> None:
    loss = make_loss(spec, parse=True)
    try:
        loss.check_label(label)
    except InvalidInput as error:
        assert "$.label" in error.cause
        return
    try:
        assert 0 <= loss(label, output) <= 1
    except InvalidInput as error:
        assert "cannot be compared" in error.cause or "$.label" in error.cause


# zero_one


@pytest.mark.parametrize(
    ("label", "output", "expected"),
    [
        (1, 1.0, 0.0),
        (1, True, 1.0),
        (0, False, 1.0),
        (0, None, 1.0),
        ("1", 1, 1.0),
        ("cat", "cat", 0.0),
        ("cat", "dog", 1.0),
        (2**53 + 1, float(2**53), 1.0),
        ([1, {"a": [2.0]}], [1.0, {"a": [2]}], 0.0),
        ([1, {"a": [True]}], [1, {"a": [1]}], 1.0),
        ([1, 2], [1], 1.0),
        ({"a": 1}, {"b": 1}, 1.0),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 0.0),
        (DEEP, DEEP, 0.0),
    ],
)
def test_zero_one_is_equality_of_json(label: Any, output: Any, expected: float) -> None:
    loss = make_loss("zero_one")
    loss.check_label(label)
    assert loss(label, output) == expected


@pytest.mark.parametrize(
    ("label", "output", "expected"),
    [
        ("3", 3, 0.0),
        ("3.0", 3, 0.0),
        (" [1, 2]", [1, 2.0], 0.0),
        ("true", True, 0.0),
        ("true", 1, 1.0),
        ("cat", "cat", 0.0),
        ("nobody", None, 1.0),
        ('"3"', "3", 0.0),
        ("1" * 5000, 3, 1.0),
        ("[" * 100_000, 3, 1.0),
        ("-", 3, 1.0),
    ],
)
def test_parsing_takes_a_label_as_outputs_are_shown(
    label: str, output: Any, expected: float
) -> None:
    assert make_loss("zero_one", parse=True)(label, output) == expected


@given(JSON)
def test_everything_is_the_same_as_itself(value: Any) -> None:
    assert same(value, json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    "label",
    [math.nan, math.inf, [1, {"a": math.nan}], b"x", [b"x"], {1: "a"}, [{(1, 2): 1}]],
)
def test_zero_one_takes_what_json_can_say(label: Any) -> None:
    with pytest.raises(InvalidInput, match=r"\$\.label"):
        make_loss("zero_one").check_label(label)


# absolute and squared


@pytest.mark.parametrize(
    ("spec", "label", "output", "expected"),
    [
        ("absolute", 1, 1.25, 0.25),
        ("absolute", 1, 3, 1.0),
        ("absolute(2.5)", 1, 3, 0.8),
        ("squared", 1, 1.5, 0.25),
        ("squared(10)", 0.0, 5, 0.25),
        ("squared(10)", 0, -50, 1.0),
        ("absolute(1e-300)", 1e300, -1e300, 1.0),
        ("squared(1e-300)", 1.7e308, -1.7e308, 1.0),
        ("absolute", [1, 2], [1.5, 9], 0.75),
        ("squared(2)", [[0, 0]], [[1, 0]], 0.125),
    ],
)
def test_distances(spec: str, label: Any, output: Any, expected: float) -> None:
    loss = make_loss(spec)
    loss.check_label(label)
    assert loss(label, output) == pytest.approx(expected)


@given(FINITE, FINITE, st.sampled_from(["absolute(3)", "squared(3)"]))
def test_a_distance_is_symmetric_and_0_to_oneself(a: float, b: float, spec: str) -> None:
    loss = make_loss(spec)
    assert loss(a, b) == loss(b, a)
    assert loss(a, a) == 0
    assert loss([a], [b]) == pytest.approx(loss(a, b))


@pytest.mark.parametrize("spec", ["absolute", "squared(2)"])
@pytest.mark.parametrize(
    "label",
    ["3", "", True, None, math.nan, math.inf, {}, {"a": 1}, [], [[]], ["3"], [1, True],
     [[1], [2, 3]], [math.nan], 10**400, [10**400], DEEP],
)  # fmt: skip
def test_a_distance_takes_numbers_alone(spec: str, label: Any) -> None:
    with pytest.raises(InvalidInput, match=r"number.* at \$\.label"):
        make_loss(spec).check_label(label)


def test_the_kind_of_a_wrong_label_is_named() -> None:
    with pytest.raises(InvalidInput, match="got a string at"):
        make_loss("absolute").check_label("0.9")


@pytest.mark.parametrize("output", ["3", True, None, {}, {"a": 1}, [], [1], [1, 2, 3]])
def test_an_output_without_a_distance_is_refused(output: Any) -> None:
    for label in (3, [1, 2]):
        with pytest.raises(InvalidInput, match=r"^the output .* cannot be compared"):
            make_loss("absolute")(label, output)


def test_what_cannot_be_shown_is_named() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for output, name in ((deep, "<list>"), (10**5000, "<int>")):
        with pytest.raises(InvalidInput, match=name):
            make_loss("log")(1, output)


def test_a_long_output_is_told_in_short() -> None:
    with pytest.raises(InvalidInput) as caught:
        make_loss("absolute")(3, "x" * 1000)
    assert len(caught.value.cause) < 200


def test_numbers_keep_their_shape() -> None:
    array = numbers([[1, 2.5, 3]])
    assert array is not None and array.shape == (1, 3)
    assert numbers([[[[[1]]]]]) is None
    assert numbers(3) is None


# log


@pytest.mark.parametrize(
    ("label", "output", "p"),
    [
        (1, [0.25, 0.75], 0.75),
        (1.0, [0.25, 0.75], 0.75),
        ("cat", {"cat": 0.2, "dog": 0.8}, 0.2),
        (7, {"7": 0.5, "8": 0.5}, 0.5),
        (1, 0.3, 0.3),
        (0, 0.3, 0.7),
        (0, 1, 1e-9),
        (0, [0, 1], 1e-9),
        (0, [0.33, 0.33, 0.33], 1 / 3),
    ],
)
def test_the_log_loss(label: Any, output: Any, p: float) -> None:
    loss = make_loss("log")
    loss.check_label(label)
    expected = math.log(max(p, LOG_FLOOR)) / math.log(LOG_FLOOR)
    assert loss(label, output) == pytest.approx(expected)


@pytest.mark.parametrize(
    "output",
    [[], {}, [0.5, 0.6], [1.5, -0.5], [math.nan, 1.0], ["1"], [True, False], [[0.5, 0.5]],
     {"a": "x"}, 1.5, -0.1, math.nan, "0.5", True, None, [10**400, 1]],
)  # fmt: skip
def test_what_is_no_distribution_is_refused(output: Any) -> None:
    assert distribution(output) is None
    with pytest.raises(InvalidInput, match=r"^the output .* cannot be compared"):
        make_loss("log")(0, output)


@pytest.mark.parametrize(
    ("label", "output"),
    [(2, [0.5, 0.5]), (-1, [0.5, 0.5]), ("0", [0.5, 0.5]), ("x", {"a": 1.0}), (2, 0.5)],
)
def test_a_label_outside_the_classes_is_refused(label: Any, output: Any) -> None:
    make_loss("log").check_label(label)
    with pytest.raises(InvalidInput, match=r"classes .* at \$\.label"):
        make_loss("log")(label, output)


@pytest.mark.parametrize("label", [0.5, True, None, [], {}, math.nan, math.inf])
def test_a_class_is_an_integer_or_a_string(label: Any) -> None:
    with pytest.raises(InvalidInput, match=r"at \$\.label"):
        make_loss("log").check_label(label)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8))
def test_a_distribution_sums_to_1(weights: list[float]) -> None:
    p = [weight / math.fsum(weights) for weight in weights]
    found = distribution(p)
    assert found is not None and math.fsum(found.p) == pytest.approx(1)
    named = distribution({str(i): x for i, x in enumerate(p)})
    assert named is not None and named.p == found.p
    assert index_of(0, named.classes) == index_of(0, found.classes) == 0


# Rewards


def test_a_reward_tells_of_those_that_agreed() -> None:
    members, agreeing = ["a", "b", "c"], ("a", "c")
    losses = reward_losses(0.75, members, agreeing, make_loss("zero_one"))
    assert losses == {"a": 0.25, "c": 0.25}


def test_a_right_answer_was_the_only_one() -> None:
    members, agreeing = ["a", "b", "c"], ("a", "c")
    losses = reward_losses(1, members, agreeing, make_loss("zero_one"))
    assert losses == {"a": 0, "b": 1, "c": 0}
    for spec in ("absolute", "log"):
        assert reward_losses(1, members, agreeing, make_loss(spec)) == {"a": 0, "c": 0}
