"""Fixtures for all tests."""

from __future__ import annotations

import pytest
from fakes import FakeLoop, ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fake_loop(clock: ManualClock) -> FakeLoop:
    """Turns and timers in the time of `clock`."""
    return FakeLoop(clock)
