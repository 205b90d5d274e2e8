from __future__ import annotations

from typing import Any

import pytest

from clipper.errors import InvalidInput
from clipper.records import PolicySettings
from clipper.selection.registry import NAMES, make_policy

from .contract import ARMS


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_policy(name: str) -> None:
    assert make_policy(PolicySettings(name)).init(ARMS) is not None


def test_options_reach_the_policy() -> None:
    state = make_policy(PolicySettings("static", {"model": "b"})).init(ARMS)
    assert state is not None and state.arms == (ARMS[1],)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("best", {}, "policy must be one of static, got 'best'"),
        ("static", {"modle": "b"}, "policy static has no option 'modle'"),
        ("static", {"model": "b c"}, "the policy's model must match"),
        ("static", {"model": None, "x": 1}, "has no option 'x'"),
    ],
)
def test_wrong_settings_are_refused(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make_policy(PolicySettings(name, options))
