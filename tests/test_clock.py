from __future__ import annotations

import time

from clipper.clock import Clock, SystemClock


def test_the_system_clock_is_monotonic_and_knows_the_date() -> None:
    clock: Clock = SystemClock()
    before = time.monotonic()
    assert before <= clock.now() <= clock.now()
    assert abs(clock.wall() - time.time()) < 5
