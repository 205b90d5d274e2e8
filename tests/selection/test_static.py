from __future__ import annotations

from clipper.selection.policy import SelectionPolicy
from clipper.selection.static import Static

from .contract import PolicyContract


class TestStatic(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Static()


def test_the_first_candidate_answers_everything() -> None:
    assert Static().probabilities({}, ["a:1#1", "b:1#2"], None) == [1.0, 0.0]


def test_the_option_model_leaves_one_candidate() -> None:
    assert Static(Static.Options(model="b")).candidates(["a", "b"]) == ("b",)
    assert Static().candidates(["a", "b"]) == ["a", "b"]
