"""kill -9 at any moment: what was answered is there, and the directory opens."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clipper.store.base import Person
from clipper.store.sqlite import SQLiteStore

COMMITTER = Path(__file__).with_name("committer.py")
APPENDER = Path(__file__).with_name("appender.py")


def run_and_kill(program: Path, directory: Path, lines: int, tasks: int) -> list[list[int]]:
    """Run a program, kill it after so many lines; the numbers in its lines."""
    with subprocess.Popen(
        [sys.executable, str(program), str(directory), str(tasks)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    whole = [line for line in said if line.endswith(b"\n")]
    return [[int(n) for n in line.split()] for line in whole if line[:1].isdigit()]


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
        told = run_and_kill(COMMITTER, directory, lines, dice.choice([1, 8]))
        answered |= {number for [number] in told}
        # Every other time the next server is the first to see what the kill left.
        if dice.random() < 0.5:
            await check(directory, answered)
    await check(directory, answered)
    assert answered


async def check_log(directory: Path, told: list[list[int]]) -> None:
    """Each acknowledged entry is there, once, under the number that was told; numbers rise
    in the order of the answers; no append is there in part."""
    store = SQLiteStore(directory)
    try:
        await store.open()
        log = await store.entries(1, 0, 10_000_000)
        state = await store.state_of(Person(1, "u"))
    finally:
        await store.close()
    stored = {seq: int(entry.body) for seq, entry in log}
    assert list(stored) == sorted(stored)
    assert {seq: n for n, *seqs in told for seq in seqs}.items() <= stored.items()
    seqs = [seq for _, *seqs in told for seq in seqs]
    assert seqs == sorted(set(seqs))
    keys = [entry.key for _, entry in log]
    assert len(set(keys)) == len(keys)
    sizes = Counter(stored.values())
    assert all(size == n % 4 for n, size in sizes.items())
    assert state is None or int(state) in stored


async def kill_appender(directory: Path, seed: int, rounds: int) -> None:
    dice = random.Random(seed)
    told: list[list[int]] = []
    for _ in range(rounds):
        lines = dice.choice([1, 2, dice.randint(3, 30), dice.randint(30, 1_000)])
        told += run_and_kill(APPENDER, directory, lines, dice.choice([1, 8, 64]))
        if dice.random() < 0.5:
            await check_log(directory, told)
    await check_log(directory, told)
    assert told


@pytest.mark.fault("S1")
async def test_loses_no_acknowledged_entry(tmp_path: Path) -> None:
    await kill_appender(tmp_path, seed=1, rounds=10)


@pytest.mark.fault("S1")
async def test_loses_no_answered_commit(tmp_path: Path) -> None:
    await kill_many(tmp_path, seed=1, rounds=10)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 22))
async def test_loses_no_acknowledged_entry_in_many_kills(tmp_path: Path, seed: int) -> None:
    await kill_appender(tmp_path, seed, rounds=50)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 22))
async def test_loses_no_answered_commit_in_many_kills(tmp_path: Path, seed: int) -> None:
    await kill_many(tmp_path, seed, rounds=50)
