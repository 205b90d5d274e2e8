"""No request that the OpenAPI documents lead to finds a fault (F1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import api

# What the ordinary run leaves out, "coverage", tries each boundary of each field.
SHORT = ("--phases=examples,fuzzing,stateful", "--max-examples=3")

pytestmark = pytest.mark.fault("F1")


async def test_requests_from_the_documents_find_nothing(tmp_path: Path) -> None:
    for run in await api.run_both(tmp_path, (1,), *SHORT):
        assert run.code == 0, str(run)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_twenty_minutes_of_them_find_nothing(tmp_path: Path) -> None:
    for run in await api.run_for(tmp_path, 20):
        assert run.code == 0, str(run)


def test_every_exception_has_its_reason() -> None:
    for pattern, checks, reason in api.EXCEPTIONS:
        assert pattern.startswith("^/")
        assert set(checks) <= set(api.CHECKS)
        assert len(reason) > 20
