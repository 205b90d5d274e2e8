from __future__ import annotations

import time

import pytest

from clipper import clock as module
from clipper.clock import Clock, SystemClock


def test_the_system_clock_is_monotonic_and_knows_the_date() -> None:
    clock: Clock = SystemClock()
    before = time.monotonic()
    assert before <= clock.now() <= clock.now()
    assert abs(clock.wall() - time.time()) < 5


@pytest.mark.fault("T1")
@pytest.mark.parametrize("jump", [3600.0, -3600.0, 3.2e7, -3.2e7, -5.0])
def test_a_jump_of_the_wall_clock_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, jump: float
) -> None:
    steady, ahead = 100.0, 1.7e9
    monkeypatch.setattr(module, "_steady", lambda: steady)
    monkeypatch.setattr(time, "time", lambda: steady + ahead)
    clock = SystemClock()
    steady += 10.0
    assert clock.wall() == 1.7e9 + 110.0
    ahead += jump
    for _ in range(2):
        steady += 1.0
        assert clock.wall() == pytest.approx(1.7e9 + steady, abs=1e-3)
    assert len(caplog.records) == 1 and "go on as before" in caplog.text
    ahead -= jump  # it was taken back
    steady += 1.0
    assert clock.wall() == 1.7e9 + steady


def test_small_steps_of_the_wall_clock_are_followed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steady, ahead = 100.0, 1.7e9
    monkeypatch.setattr(module, "_steady", lambda: steady)
    monkeypatch.setattr(time, "time", lambda: steady + ahead)
    clock = SystemClock()
    for _ in range(100):
        steady += 1.0
        ahead += 0.5
        assert clock.wall() == steady + ahead
    assert not caplog.records
