"""Fixtures for all tests."""

from __future__ import annotations

import pytest
from engine_room import disk, engine, workers  # noqa: F401
from fakes import FakeLoop, ManualClock
from school import school  # noqa: F401


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fake_loop(clock: ManualClock) -> FakeLoop:
    """Turns and timers in the time of `clock`."""
    return FakeLoop(clock)
