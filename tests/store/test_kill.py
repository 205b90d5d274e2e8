"""kill -9 at any moment: what was answered is there, and the directory opens."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipper.store.sqlite import SQLiteStore

COMMITTER = Path(__file__).with_name("committer.py")


def run_and_kill(directory: Path, lines: int, tasks: int) -> set[int]:
    """Run the committer, kill it after so many lines; the numbers it was told of."""
    with subprocess.Popen(
        [sys.executable, str(COMMITTER), str(directory), str(tasks)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    whole = [line for line in said if line.endswith(b"\n")]
    return {int(line) for line in whole if line.strip().isdigit()}


async def check(directory: Path, answered: set[int]) -> None:
    store = SQLiteStore(directory)
    try:
        state = await store.open()
        stored = {record.number for record in state.applications.values()}
        assert answered <= stored
        assert {record.generation for record in state.models.values()} == stored
        assert state.last_number == max(stored, default=0)
        for record in state.models.values():
            if record.blob is not None:
                assert await store.get_blob(record.blob) == record.name.encode()
    finally:
        await store.close()


async def kill_many(directory: Path, seed: int, rounds: int) -> None:
    dice = random.Random(seed)
    answered: set[int] = set()
    for _ in range(rounds):
        lines = dice.choice([1, 2, dice.randint(3, 30), dice.randint(30, 300)])
        answered |= run_and_kill(directory, lines, dice.choice([1, 8]))
        # Every other time the next server is the first to see what the kill left.
        if dice.random() < 0.5:
            await check(directory, answered)
    await check(directory, answered)
    assert answered


async def test_loses_no_answered_commit(tmp_path: Path) -> None:
    await kill_many(tmp_path, seed=1, rounds=10)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 22))
async def test_loses_no_answered_commit_in_many_kills(tmp_path: Path, seed: int) -> None:
    await kill_many(tmp_path, seed, rounds=50)
