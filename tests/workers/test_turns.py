"""Workers that start one after another, in virtual time."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from fakes import ManualClock
from simulation.loop import VirtualLoop

from clipper.workers.turns import LONGEST, Turns


class Starts:
    """What was begun in turn, and when."""

    def __init__(self, turns: Turns, clock: ManualClock) -> None:
        self.turns = turns
        self.clock = clock
        self.begun: list[tuple[str, float]] = []

    async def start(self, name: str, seconds: float) -> None:
        async with self.turns.take():
            self.begun.append((name, self.clock.now()))
            await asyncio.sleep(seconds)
            if name == "bad":
                raise RuntimeError(name)


@pytest.mark.parametrize(
    ("at_once", "seconds", "begun"),
    [
        (1, {"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 0.0, "b": 0.1, "c": 0.2}),
        (2, {"a": 0.1, "b": 0.3, "c": 0.1}, {"a": 0.0, "b": 0.0, "c": 0.1}),
        # one that takes long ends its turn once
        (1, {"a": 60.0, "b": 0.1, "c": 0.1}, {"a": 0.0, "b": LONGEST, "c": LONGEST + 0.1}),
        (1, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.0, "b": LONGEST, "c": 2 * LONGEST}),
        (1, {"bad": 0.1, "b": 0.1, "c": 0.1}, {"bad": 0.0, "b": 0.1, "c": 0.2}),
    ],
)
def test_turns(at_once: int, seconds: dict[str, float], begun: dict[str, float]) -> None:
    clock = ManualClock(0.0)
    loop = VirtualLoop(clock, Random(1))
    with loop.running():
        starts = Starts(Turns(at_once), clock)
        tasks = [loop.create_task(starts.start(n, s)) for n, s in seconds.items()]
    with loop.running():
        loop.run(100.0)
    assert all(task.done() for task in tasks)
    assert [task.exception() is not None for task in tasks] == [n == "bad" for n in seconds]
    assert [name for name, _ in starts.begun] == list(seconds)
    assert dict(starts.begun) == {n: pytest.approx(at, abs=0.02) for n, at in begun.items()}


def test_who_is_cancelled_leaves_the_turn_to_others() -> None:
    clock = ManualClock(0.0)
    loop = VirtualLoop(clock, Random(1))
    with loop.running():
        starts = Starts(Turns(1), clock)
        for name in ("a", "b"):
            loop.create_task(starts.start(name, 0.4)).cancel()
        third = loop.create_task(starts.start("c", 0.4))
    with loop.running():
        loop.run(0.2)
        third.cancel()
        fourth = loop.create_task(starts.start("d", 0.1))
        loop.run(1.0)
    assert fourth.done() and [name for name, _ in starts.begun] == ["c", "d"]
    assert starts.begun[1][1] == pytest.approx(0.2, abs=0.02)
