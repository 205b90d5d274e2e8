from __future__ import annotations

import pytest
from fakes import FakeLoop, ManualClock

from clipper.batching.alarm import TICK, Alarm


class Rung:
    """Counts how often it was called, as whoever is called should: `soon` is over then."""

    def __init__(self, clock: ManualClock, loop: FakeLoop) -> None:
        self.times: list[float] = []
        self.clock = clock
        self.loop = loop
        self.alarm = Alarm(self.ring, loop.call_soon, loop.call_later)

    def ring(self) -> None:
        self.alarm.soon = False
        self.times.append(self.clock.now())


@pytest.fixture
def rung(clock: ManualClock, fake_loop: FakeLoop) -> Rung:
    return Rung(clock, fake_loop)


def test_all_who_ask_in_one_turn_are_served_by_one_ring(rung: Rung) -> None:
    for _ in range(3):
        rung.alarm.ring_soon()
    assert rung.times == []
    rung.loop.turn()
    assert len(rung.times) == 1
    rung.alarm.ring_soon()
    rung.loop.turn()
    assert len(rung.times) == 2


def test_it_rings_at_the_earliest_time_that_was_asked_for(rung: Rung) -> None:
    now = rung.clock.now()
    for seconds in (3.0, 1.0, 2.0):
        rung.alarm.ring_at(now + seconds, now)
    assert rung.alarm.armed and len(rung.loop.armed) == 1
    rung.loop.advance(10.0)
    assert rung.times == [now + 1.0]
    assert not rung.alarm.armed


def test_a_time_that_never_comes_arms_nothing(rung: Rung) -> None:
    rung.alarm.ring_at(float("inf"), rung.clock.now())
    assert not rung.alarm.armed and not rung.loop.armed


def test_a_time_that_is_over_is_the_next_tick(rung: Rung) -> None:
    now = rung.clock.now()
    rung.alarm.ring_at(now - 1.0, now)
    rung.loop.advance(2 * TICK)
    assert rung.times == [pytest.approx(now + TICK, rel=0, abs=1e-6)]


def test_a_timer_leaves_it_to_the_turn_that_is_due(rung: Rung) -> None:
    now = rung.clock.now()
    rung.alarm.ring_at(now + 1.0, now)
    timer = rung.loop.armed[0]
    rung.alarm.ring_soon()
    timer.callback()
    assert rung.times == []
    rung.loop.turn()
    assert len(rung.times) == 1
