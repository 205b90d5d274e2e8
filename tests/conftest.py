"""Fixtures for all tests, and what they may rely on wherever they run."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from engine_room import disk, engine, workers  # noqa: F401
from fakes import FakeLoop, ManualClock
from house import ask, house  # noqa: F401
from hypothesis import HealthCheck, Phase, settings
from school import school  # noqa: F401

# How long an example takes says something of the machine, nothing of what is tested.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")
# For mutants of the code: what fails need not be made small, and must fail each time.
settings.register_profile(
    "mutants",
    settings.get_profile("untimed"),
    phases=[Phase.explicit, Phase.generate],
    database=None,
    derandomize=True,
    suppress_health_check=[*HealthCheck],
)

# A shell has its background jobs ignore it, and so would every server that tests end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """What a test does to the garbage collector it undoes: without one, those after it
    would fill the memory."""
    before = gc.isenabled(), gc.get_threshold()
    yield
    after = gc.isenabled(), gc.get_threshold()
    gc.enable()
    gc.set_threshold(*before[1])
    assert after == before


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fake_loop(clock: ManualClock) -> FakeLoop:
    """Turns and timers in the time of `clock`."""
    return FakeLoop(clock)
