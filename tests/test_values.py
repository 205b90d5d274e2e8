from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipper.errors import InvalidInput
from clipper.values import ModelId, check_name, check_uid, plain


@pytest.mark.parametrize("name", ["a", "A9", "0", "sum-model_1.2", "x" * 64])
def test_legal_names_are_kept(name: str) -> None:
    assert check_name("name", name) == name


def test_an_integer_is_its_digits() -> None:
    assert check_name("version", 1) == "1"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".a",
        "-a",
        "_a",
        "a b",
        "a/b",
        "a:b",
        "ä",
        "a\n",
        "x" * 65,
        -1,
        1.0,
        True,
        None,
        [],
    ],
)
def test_others_are_refused(name: Any) -> None:
    with pytest.raises(InvalidInput, match="model name must match"):
        check_name("model name", name)


def test_a_long_name_is_cut_in_the_sentence() -> None:
    with pytest.raises(InvalidInput) as refused:
        check_name("name", "ä" * 10_000)
    assert len(refused.value.cause) < 200


def test_a_model_id_reads_like_its_key() -> None:
    assert str(ModelId("digits", "2")) == "digits:2"


def test_a_uid_is_an_integer_of_64_bits_or_a_short_string() -> None:
    """0 and "0" are one user; anything else names what was expected."""
    assert check_uid(0) == check_uid("0") == "0"
    assert check_uid(None) is None
    assert check_uid(-(2**63)) == str(-(2**63))
    for wrong in (True, 1.5, b"x", 2**63, "ü" * 129, ["a"], "\ud800"):
        with pytest.raises(InvalidInput, match="at uid"):
            check_uid(wrong)


def test_a_uid_is_no_string_of_another_class() -> None:
    assert type(check_uid(np.str_("bob"))) is str


def test_what_json_has_is_plain() -> None:
    value = {"a": np.array([[1, 2]]), "b": (np.float64(0.5), np.int64(3)), 1: None}
    assert plain(value) == {"a": [[1, 2]], "b": (0.5, 3), "1": None}
    assert type(plain(np.float64(0.5))) is float
    for wrong in (object(), {(1, 2): 3}, [1j]):
        with pytest.raises(TypeError):
            plain(wrong)
