from __future__ import annotations

import pytest

from clipper.batching.way_back import LEAST_WIRE, MOST_WIRE, WIRE_SHARE, WayBack


def test_before_anything_was_settled_it_is_the_least() -> None:
    assert WayBack().seconds == LEAST_WIRE


@pytest.mark.parametrize(
    ("objective", "wire"),
    [(0.0001, LEAST_WIRE), (0.01, WIRE_SHARE * 0.01), (10.0, MOST_WIRE)],
)
def test_the_wire_has_a_part_of_the_objective_within_bounds(
    objective: float, wire: float
) -> None:
    way_back = WayBack()
    way_back.settled(0.0, objective)
    assert way_back.seconds == pytest.approx(wire)


def test_what_settling_takes_is_followed_and_comes_on_top() -> None:
    way_back = WayBack()
    for _ in range(100):
        way_back.settled(0.003, 0.01)
    assert way_back.settling == pytest.approx(0.003, rel=0.01)
    wire = WIRE_SHARE * 0.01
    assert way_back.seconds == pytest.approx(0.003 + wire, rel=0.01)
    way_back.settled(0.1, 0.01)  # one pause of the machine does not say much
    assert way_back.settling < 0.015
