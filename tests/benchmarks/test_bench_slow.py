"""Slow clients of the fault benchmark: the crowd, and what is said of its cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from frontend.raw import lane_of, serving
from polling import eventually

from benchmarks.faults_run import FaultRun
from benchmarks.faults_slow import judge
from benchmarks.outcome import Part
from benchmarks.slow_clients import Crowd


@pytest.mark.fault("N1")
async def test_a_crowd_stands_until_it_goes() -> None:
    async with serving() as server:
        crowd = Crowd(server.port, 30)
        await asyncio.to_thread(crowd.__enter__)
        try:
            lane = lane_of(server)
            assert len(lane.connections) == 30
            kept = set(lane.connections)
            for connection in list(kept)[:10]:
                connection.transport.abort()
            await eventually(lambda: len(lane.connections - kept) == 10)
            assert len(lane.connections) == 30
        finally:
            await asyncio.to_thread(crowd.__exit__, None, None, None)
        await eventually(lambda: not lane.connections)


PART = Part(200.0, 1.0, 200, 200, 0, 0, 0, {}, {}, 0.001, 0.004, 0.004)


@pytest.mark.parametrize(
    ("beside", "good", "verdicts"),
    [
        (0.006, 200, ["met", "met"]),
        (0.0061, 200, ["met", "MISSED"]),
        (0.004, 199, ["MISSED", "met"]),
        (None, 200, ["met", "MISSED"]),
    ],
)
def test_what_a_crowd_may_cost(
    tmp_path: Path, beside: float | None, good: int, verdicts: list[str]
) -> None:
    run = FaultRun(tmp_path, {}, True, seed=1)
    judge(run, "N2", "400 slow heads", [(PART, replace(PART, p99_all=beside, good=good))])
    assert [finding.goal.verdict for finding in run.findings] == verdicts
