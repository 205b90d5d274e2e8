"""Ensembles whose members straggle: what an answer costs in time, and in accuracy.

One to sixteen members, each a worker of its own that sleeps for as long as a Pareto
distribution has it, under an objective of 20 ms. Queries come as a Poisson process, drawn
beforehand; latency counts from the moment one was due, in the program that has the server
embedded. All lanes ask the same members the same queries: Clipper; the same without
deadline or early decision; and the paper's prototype, which answers 3 ms before the
objective, whatever has come by then.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.arrivals import draw_arrivals
from benchmarks.lanes import quiet_collector
from benchmarks.load import LoadError, percentile
from benchmarks.openloop import Timer
from benchmarks.process import busy_seconds, read_tree
from benchmarks.straggling import LANES, Lane, make_member, truth_of, use_panels
from clipper.selection.policy import model_of

if TYPE_CHECKING:
    from clipper import Server
    from clipper.application import Application
    from clipper.query import Query

SIZES = (1, 2, 4, 8, 16)
RATE = 25.0  # queries per second: a member is busy a sixth of the time
DRAIN = 0.6  # seconds between two loads, so that no member is still at the last one
LEAD = 0.05


@dataclass(frozen=True)
class StragglerSample:
    """One lane with so many members for one round. Latencies in seconds."""

    lane: str
    members: int
    round: int
    queries: int
    mean: float
    p50: float
    p99: float
    worst: float
    missing: float  # share of members that had nothing to say when the deadline passed
    unwaited: float  # share that was out when the others had decided
    refused: float  # share that was not asked, or failed
    accuracy: float
    defaults: float  # share of queries that nobody answered
    lag: float  # p99 of how late the queries were sent
    other_cores: float


class Asked:
    """One query on its way: told when it is answered."""

    __slots__ = ("_load", "due", "number")

    def __init__(self, load: Load, number: int, due: float) -> None:
        self._load = load
        self.number = number
        self.due = due

    def query_settled(self, query: Query) -> None:
        self._load.answered(self, query)


class Load:
    """Sends queries when they are due and notes what becomes of them.

    Mutable: the next query, the counters, and how many are still out.
    """

    def __init__(self, application: Application, due: list[float], first: int) -> None:
        self._application = application
        self._due = due
        self._first = first  # number of the first query
        self._next = 0
        self._left = len(due)
        self._done = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.right = self.defaults = 0
        self.members = self.missing = self.unwaited = self.refused = 0

    async def run(self) -> None:
        begin = time.monotonic() + LEAD
        self._due = [begin + due for due in self._due]
        timer = Timer(lambda: self._tick(timer))
        try:
            timer.arm(self._due[0])
            await asyncio.wait_for(self._done, self._due[-1] - begin + 60)
        finally:
            timer.close()

    def _tick(self, timer: Timer) -> None:
        from clipper.inputs import encode_python

        application = self._application
        while self._next < len(self._due) and self._due[self._next] <= time.monotonic():
            due, number = self._due[self._next], self._first + self._next
            self._next += 1
            self.lags.append(time.monotonic() - due)
            row = encode_python(application.input_type, [float(number)])
            application.submit(row, Asked(self, number, due))
        if self._next < len(self._due):
            timer.arm(self._due[self._next])

    def answered(self, asked: Asked, query: Query) -> None:
        prediction = query.prediction()
        self.latencies.append(time.monotonic() - asked.due)
        self.right += prediction.output == truth_of(asked.number)
        self.defaults += prediction.default
        self._count(query, prediction.missing or ())
        self._left -= 1
        if not self._left:
            self._done.set_result(None)

    def _count(self, query: Query, missing: Collection[str]) -> None:
        panel = query.panel
        if panel is None:
            raise LoadError("a query was not answered by an ensemble")
        # a member that gave up for the deadline's sake failed, and is missing
        refused = sum(
            failure is not None and str(model_of(arm)) not in missing
            for arm, failure in zip(panel.choice.arms, panel.failures, strict=True)
        )
        self.members += len(panel.texts)
        self.missing += len(missing)
        self.refused += refused
        self.unwaited += panel.texts.count(None) - len(missing) - refused


async def measure_stragglers(
    sizes: tuple[int, ...],
    runs: int,
    seconds: float,
    rate: float,
    say: Callable[[str], None],
) -> list[StragglerSample]:
    from clipper import Server

    use_panels()
    found = []
    async with Server() as server:
        await _prepare(server, sizes)
        for members in sizes:  # workers that were never asked are slow at first
            for lane in LANES:
                await _load(server, lane, members, -1, [i / 10 for i in range(10)])
        with quiet_collector():
            for round_ in range(runs):
                for members in sizes:
                    due = draw_arrivals([(rate, seconds)], seed=round_ * 100 + members)
                    for lane in _turned(round_):
                        sample = await _load(server, lane, members, round_, due)
                        found.append(sample)
                        say(
                            f"stragglers {round_}: {members}, {lane.name}: mean "
                            f"{sample.mean * 1e3:.1f} ms, p99 {sample.p99 * 1e3:.1f} ms"
                        )
    return found


def _turned(round_: int) -> Iterator[Lane]:
    """The lanes, each first in one round of three."""
    for index in range(len(LANES)):
        yield LANES[(index + round_) % len(LANES)]


async def _prepare(server: Server, sizes: tuple[int, ...]) -> None:
    names = [f"member{number}" for number in range(max(sizes))]
    for start in range(0, len(names), 4):
        await asyncio.gather(
            *(
                server.deploy(
                    names[number], 1, make_member(number), input_type="doubles",
                    example=[0.0],
                )
                for number in range(start, min(start + 4, len(names)))
            )
        )  # fmt: skip
    for members in sizes:
        for lane in LANES:
            await server.register_application(
                lane.application(members),
                models=names[:members],
                input_type="doubles",
                default_output="-1",
                slo_micros=round(lane.seconds * 1e6),
                policy="hedge",
                cache=False,
            )


async def _load(
    server: Server, lane: Lane, members: int, round_: int, due: list[float]
) -> StragglerSample:
    await asyncio.sleep(DRAIN)
    application = server.engine.application(lane.application(members))
    load = Load(application, due, first=(round_ + 1) * 100_000 + members * 10_000)
    busy, begun = busy_seconds() - _own_cpu(), time.perf_counter()
    await load.run()
    others = busy_seconds() - _own_cpu() - busy
    return _sample(lane, members, round_, load, others / (time.perf_counter() - begun))


def _own_cpu() -> float:
    """CPU seconds of this process and its workers."""
    return sum(stat.cpu for stat in read_tree(os.getpid()))


def _sample(
    lane: Lane, members: int, round_: int, load: Load, others: float
) -> StragglerSample:
    ordered, count = sorted(load.latencies), len(load.latencies)
    return StragglerSample(
        lane=lane.name,
        members=members,
        round=round_,
        queries=count,
        mean=sum(ordered) / count,
        p50=percentile(ordered, 50),
        p99=percentile(ordered, 99),
        worst=ordered[-1],
        missing=load.missing / load.members,
        unwaited=load.unwaited / load.members,
        refused=load.refused / load.members,
        accuracy=load.right / count,
        defaults=load.defaults / count,
        lag=percentile(sorted(load.lags), 99),
        other_cores=max(0.0, others),
    )
