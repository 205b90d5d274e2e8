"""kill -9 of the server at random moments while it learns.

No acknowledged feedback or deploy is lost, no feedback counts twice, and the weights are
those of an offline fold of the log, bit by bit.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from learner_storm import kill_often


@pytest.mark.fault("S1")
async def test_a_few_kills_lose_no_feedback(tmp_path: Path) -> None:
    await kill_often(tmp_path, 4, seed=1)


@pytest.mark.fault("S1")
@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_two_hundred_kills_lose_no_feedback(tmp_path: Path) -> None:
    await kill_often(tmp_path, 200, seed=random.randrange(2**32))
