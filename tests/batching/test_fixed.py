from __future__ import annotations

from clipper.batching.controller import BatchController
from clipper.batching.fixed import Fixed

from .contract import ControllerContract, serve


class TestFixed(ControllerContract):
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        return Fixed(objective, bound)


class TestNone(ControllerContract):
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        return Fixed(objective, 1)


def test_a_slow_batch_changes_nothing() -> None:
    controller = Fixed(0.1, 8)
    assert serve(controller, lambda size: 9.0, 5, 100) == [8] * 5
    assert serve(controller, lambda size: 9.0, 1, 3) == [3]
