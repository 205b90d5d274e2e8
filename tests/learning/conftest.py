"""Fixtures for tests of learning over a store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clipper.learning import service, snapshots
from clipper.selection import crowd

from .lives import Slowly, quiet, record_of


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SLICE", 1)
    monkeypatch.setattr(service, "PAGE", 2)
    monkeypatch.setattr(service.logger, "disabled", True)
    monkeypatch.setattr(snapshots.logger, "disabled", True)
    # a script has few users
    monkeypatch.setattr(crowd, "LEAST_JUDGED", 2)
    monkeypatch.setattr(crowd, "LEAST_USERS", 2)


@pytest.fixture
async def slowly(small: None) -> AsyncIterator[Slowly]:
    lives = Slowly(2)
    await lives.log.open()
    await lives.begin(record_of())
    yield lives
    lives.slow.release()
    await quiet(lives.life)
