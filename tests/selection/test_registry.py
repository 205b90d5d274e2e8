from __future__ import annotations

from typing import Any

import pytest

from clipper.errors import InvalidInput
from clipper.records import PolicySettings
from clipper.selection import registry
from clipper.selection.policy import SingleChoice
from clipper.selection.registry import add_policy, load_policy, make_policy, names
from clipper.selection.static import Static

# Options without which a policy cannot be.
NEEDED: dict[str, dict[str, Any]] = {
    "linucb": {"features": 3},
    "squarecb": {"features": 3},
    "canary": {"weights": {"a:1": 0.9, "a:2": 0.1}},
}


@pytest.mark.parametrize("name", names())
def test_every_name_makes_a_policy(name: str) -> None:
    policy = make_policy(PolicySettings(name, NEEDED.get(name, {})))
    assert policy.name == name
    assert policy.init() is not None


@pytest.mark.parametrize("name", names())
def test_no_policy_takes_an_option_that_it_does_not_know(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"policy {name} has no option 'wieghts'"):
        make_policy(PolicySettings(name, {**NEEDED.get(name, {}), "wieghts": 1}))


def test_options_reach_the_policy() -> None:
    policy = make_policy(PolicySettings("static", {"model": "b"}))
    assert policy.candidates(["a", "b"]) == ("b",)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("best", {}, "policy must be one of static, .*, got 'best'"),
        ("static", {"modle": "b"}, "policy static has no option 'modle'"),
        ("static", {"model": "b c"}, "an arm's model must match"),
        ("static", {"model": 3}, "policy static: Expected .* in option model"),
        ("static", {"arms": ["a:"]}, "an arm's version must match"),
        ("static", {"model": None, "x": 1}, "has no option 'x'"),
        ("linucb", {}, "features"),
        ("canary", {}, "weights"),
        ("canary", {"weights": {"a:1": -1}}, "weights must not be negative"),
        ("canary", {"weights": {"a:1": 1}, "stable": "b"}, "stable must be one of a:1"),
        ("shadow", {"share": 0}, "share must lie above 0"),
        ("epsilon_greedy", {"prior": -1}, "prior must lie between"),
    ],
)
def test_wrong_settings_are_refused(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make_policy(PolicySettings(name, options))


class Mine(Static):
    """A policy of the program's own."""

    name = "mine"


@pytest.fixture
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADDED", {})


@pytest.mark.usefixtures("_forgets")
def test_a_program_may_add_a_policy_of_its_own() -> None:
    assert add_policy(Mine) is Mine
    assert isinstance(make_policy(PolicySettings("mine")), Mine)
    assert "mine" in names()


@pytest.mark.usefixtures("_forgets")
def test_the_configuration_may_name_one() -> None:
    assert load_policy(f"{__name__}:Mine") is Mine
    for place in ("nowhere:Mine", f"{__name__}:Yours", "Mine", ""):
        with pytest.raises(InvalidInput, match="cannot load the policy"):
            load_policy(place)


class Nameless(SingleChoice):
    pass


class Taken(Static):
    name = "hedge"


@pytest.mark.usefixtures("_forgets")
@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (Nameless, "policy's name must match"),
        (Taken, "there is a policy called hedge already"),
        (int, "not a class derived from SelectionPolicy"),
        ("static", "not a class derived from SelectionPolicy"),
    ],
)
def test_what_is_no_policy_is_refused(policy: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        add_policy(policy)


class Broken(SingleChoice):
    """Raises where it is told to."""

    name = "broken"

    def init(self) -> Any:
        if self.fails == "init":
            raise RuntimeError("nothing to begin with")
        return {}

    def observe(self, state: Any, seen: Any) -> Any:
        return state

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        return {
            "nan": [float("nan")] * 2,
            "short": [1.0],
            "none": None,
            "zero": [0.0, 0.0],
        }[self.fails]


@pytest.mark.usefixtures("_forgets")
@pytest.mark.parametrize("fails", ["init", "nan", "short", "none", "zero", "raise"])
def test_a_policy_that_fails_at_once_is_refused(fails: str) -> None:
    add_policy(Broken)
    Broken.fails = fails  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="policy broken does not work"):
        make_policy(PolicySettings("broken"))
