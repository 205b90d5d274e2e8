from __future__ import annotations

import pytest

from clipper.selection.policy import SelectionPolicy
from clipper.selection.shadow import Shadow

from .contract import PolicyContract


class TestShadow(PolicyContract):
    @staticmethod
    def make() -> SelectionPolicy:
        return Shadow()


def test_the_first_answers_and_the_others_are_asked() -> None:
    arms = ["a:1#1", "b:1#2", "c:1#3"]
    assert Shadow().probabilities({}, arms, None) == [1.0, 0.0, 0.0]
    assert Shadow().shadows(arms) == arms[1:]


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share must lie above 0"):
        Shadow.Options(share=share)
