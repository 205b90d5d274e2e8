"""No sequence of operations makes a server differ from the model of one (F2)."""

from __future__ import annotations

import pytest

from . import machine
from .expected import CONFLICT, NOT_FOUND, OK, Expected, Given

pytestmark = pytest.mark.fault("F2")


def test_a_real_server_does_what_the_model_does() -> None:
    machine.run(examples=2, steps=25)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_ten_thousand_steps_of_a_real_server() -> None:
    machine.run(examples=100, steps=100)


# -- the model itself --------------------------------------------------------------------


def test_the_model_knows_which_version_is_current() -> None:
    expected = Expected()
    assert expected.rollback("m") == NOT_FOUND
    assert expected.deploy("m", "1") == OK
    assert expected.deploy("m", "1") == CONFLICT
    assert expected.rollback("m") == CONFLICT
    assert expected.deploy("m", "2") == OK
    assert expected.current == {"m": "2"}
    assert expected.rollback("m") == OK
    assert expected.current == {"m": "1"}
    assert expected.undeploy("m", "1") == OK
    assert expected.current == {}
    assert expected.scale("m", 1) == NOT_FOUND


def test_the_model_takes_feedback_once_and_of_its_own_application() -> None:
    expected = Expected()
    expected.add_app("a", ["m"], "static")
    given = Given("id", "a", 1, 1)
    assert expected.update("a", given, 1.0) == OK
    assert expected.update("a", given, 1.0) == OK
    assert expected.update("a", given, 0.0) == CONFLICT
    expected.delete_app("a")
    expected.add_app("a", ["m"], "static")
    assert expected.update("a", given, 1.0) == NOT_FOUND
