from __future__ import annotations

import pytest

from clipper import errors
from clipper.errors import BY_CODE, ClipperError, Overloaded, from_wire


def tree(root: type[ClipperError]) -> list[type[ClipperError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


def test_every_class_has_a_code_and_a_status_of_its_own() -> None:
    classes = [found for found in tree(ClipperError) if found.__module__ == errors.__name__]
    assert len({found.code for found in classes}) == len(classes)
    for found in classes:
        assert 400 <= found.status < 600
        assert found.code.replace("_", "").isalpha() and found.code.islower()


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_an_error_survives_the_wire(code: str) -> None:
    error = BY_CODE[code]("the cause", retry_after=7)
    assert error.body() == {"error": code, "cause": "the cause"}
    back = from_wire(error.body()["error"], error.body()["cause"], 7)
    assert type(back) is type(error)
    assert (str(back), back.cause, back.retry_after) == ("the cause", "the cause", 7)


def test_an_unknown_code_is_the_base_class() -> None:
    assert type(from_wire("from_the_future", "who knows")) is ClipperError


def test_retry_after_is_the_class_s_unless_given() -> None:
    assert Overloaded("x").retry_after == 1
    assert Overloaded("x", retry_after=9).retry_after == 9
    assert ClipperError("x").retry_after is None
