from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clipper.batching.aimd import AIMD, STEP
from clipper.batching.controller import BatchController

from .contract import ControllerContract, serve


class TestAIMD(ControllerContract):
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        return AIMD(objective, bound)


def learned(seconds_per_row: float, objective: float = 0.1, bound: int = 4096) -> AIMD:
    """A controller that found its cap under load."""
    controller = AIMD(objective, bound)
    serve(controller, lambda size: size * seconds_per_row, 200, 10_000)
    return controller


def test_it_doubles_while_that_fits_and_then_goes_to_the_objective() -> None:
    sizes = serve(AIMD(0.1, 4096), lambda size: size * 0.001, 11, 10_000)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 98, 98, 98, 98]


def test_it_climbs_when_the_model_became_faster() -> None:
    controller = learned(0.001)
    before = controller.cap
    sizes = serve(controller, lambda size: size * 0.0005, 100, 10_000)
    assert sizes[0] == before
    assert sizes[-1] > 1.8 * before
    assert all(b - a <= STEP for a, b in zip(sizes, sizes[1:], strict=False))


def test_it_settles_below_the_objective() -> None:
    controller = learned(0.001)
    sizes = serve(controller, lambda size: size * 0.001, 100, 10_000)
    assert min(sizes) >= 85 and max(sizes) <= 100 + STEP


def test_it_stays_where_a_batch_takes_nearly_the_whole_objective() -> None:
    controller = learned(0.001)
    before = controller.cap
    serve(controller, lambda size: size * 0.001, 100, 10_000)
    assert controller.cap == before


def test_it_is_bounded_on_both_sides() -> None:
    assert serve(AIMD(0.1, 5), lambda size: 0.0, 6, 100) == [1, 2, 4, 5, 5, 5]
    slow = learned(0.001)
    serve(slow, lambda size: 9.0, 100, 10_000)
    assert slow.cap == 1


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0.0, 1.0)), max_size=50))
def test_only_a_batch_that_was_half_full_raises_the_cap(
    history: list[tuple[int, float]],
) -> None:
    controller = AIMD(0.1, 64)
    for size, seconds in history:
        before = controller.cap
        controller.record(size, seconds)
        assert controller.cap <= before or 2 * size >= before


def test_the_cap_outlives_an_idle_hour() -> None:
    controller = learned(0.001)
    before = controller.cap
    serve(controller, lambda size: size * 0.001, 1000, 3)
    assert controller.cap == before


def test_a_part_of_a_batch_that_overruns_lowers_the_cap() -> None:
    """Where even fewer rows take too long, a full batch certainly would."""
    controller = learned(0.001)
    before = controller.cap
    serve(controller, lambda size: 0.5, 10, before // 2)
    assert controller.cap < before * 0.5
