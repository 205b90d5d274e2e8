from __future__ import annotations

import random
from itertools import pairwise

import pytest

from clipper.batching.controller import BatchController, Plan
from clipper.batching.goodput import EXPLORATION, Goodput

from .contract import ControllerContract, FakeBacklog, serve

OBJECTIVE = 0.1
PER_ROW, FIXED = 0.001, 0.01
RIGHT = 90  # rows that take the objective


class TestGoodput(ControllerContract):
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        return Goodput(objective, bound)


def seconds(rows: int) -> float:
    return PER_ROW * rows + FIXED


def learned() -> Goodput:
    controller = Goodput(OBJECTIVE, 4096)
    serve(controller, seconds, 50, 10_000)
    return controller


def test_sizes_that_were_never_run_are_approached_by_doubling() -> None:
    sizes = serve(Goodput(OBJECTIVE, 4096), seconds, 20, 10_000)
    assert sizes[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert all(size <= EXPLORATION * before for before, size in pairwise(sizes))


def test_it_settles_where_the_line_meets_the_objective() -> None:
    sizes = serve(learned(), seconds, 20, 10_000)
    assert set(sizes) <= {RIGHT - 1, RIGHT}


def test_small_batches_teach_it_what_large_ones_take() -> None:
    controller = Goodput(OBJECTIVE, 4096)
    for size in (1, 2, 4, 8, 16) * 4:
        controller.record(size, seconds(size))
    assert controller.cap == 32
    controller.record(64, seconds(64))
    assert controller.cap in (RIGHT - 1, RIGHT)
    serve(controller, seconds, 1000, 3)  # an idle hour
    assert controller.cap in (RIGHT - 1, RIGHT)


def test_it_keeps_away_from_the_objective_by_the_noise_of_the_model() -> None:
    controller, rng = Goodput(OBJECTIVE, 4096), random.Random(2)
    late = 0
    for step in range(1200):
        size = controller.plan(0.0, FakeBacklog([1e9] * 200)).take
        took = seconds(size) * rng.uniform(0.8, 1.2)
        controller.record(size, took)
        late += step >= 200 and took > OBJECTIVE
    assert 65 <= controller.cap <= 85
    assert 0.02 <= late / 1000 <= 0.08


@pytest.mark.parametrize(
    ("speed", "right"),
    [
        (0.5, 40),
        (2.0, 190),
    ],
)
def test_it_follows_a_model_that_changes_its_speed(speed: float, right: int) -> None:
    controller = learned()
    serve(controller, lambda size: seconds(size) / speed, 12, 10_000)
    assert controller.cap == pytest.approx(right, rel=0.15)


def test_a_changed_objective_counts_at_once() -> None:
    controller = learned()
    controller.objective = 0.05
    assert controller.cap in (39, 40)


def test_under_overload_it_gives_up_heads_that_are_hopeless_alone() -> None:
    controller = learned()
    backlog = FakeBacklog([0.005] * 30 + [0.12] * 200)
    drop, take = controller.plan(0.0, backlog)
    assert drop == 30 and take >= RIGHT - 1


def test_the_bound_is_kept() -> None:
    assert max(serve(Goodput(OBJECTIVE, 20), seconds, 50, 1000)) == 20
    assert Goodput(OBJECTIVE, 20).plan(0.0, FakeBacklog([9.0])) == Plan(0, 1)
