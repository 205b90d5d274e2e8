"""What controllers make of a load, in virtual time: goodput, caps, batch latencies.

An open loop offers queries at a rate that may change; nothing here depends on the speed
of the machine, so tests may assert what comes out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from clipper.application import Application
from clipper.batching.aimd import AIMD
from clipper.batching.controller import Backlog, Plan
from clipper.batching.registry import CONTROLLERS
from clipper.query import Query
from clipper.values import Batch, BatchResult, RowError

from .replicas import Nature, VirtualReplica
from .scenario import Scenario
from .workload import row_of
from .world import World

SLO = 0.02  # seconds
STEP = 5e-5  # seconds: arrivals closer than this come in one turn of the loop
ROUND_TRIP = 2e-4  # seconds from an answer to the query that asks again
AT_ONCE = 30_000  # queries per second, above which they do

ISSUE = Nature(0.001, 0.0004, noise=0.02, wire=5e-5)
FOREST = Nature(0.00717, 2.26e-5, noise=0.02, wire=5e-5)  # 50 trees of depth 16
LINEAR = Nature(0.00128, 1.06e-5, noise=0.02, wire=5e-5)  # linear SVM
ROUGH = Nature(0.001, 0.0004, noise=0.1, tail=0.02, tail_seconds=0.008, wire=5e-5)


class Fifo(AIMD):
    """The cap of AIMD, and nothing given up or refused: what the paper has."""

    latency = None

    def __init__(self, objective: float, max_batch_size: int) -> None:
        self._own = AIMD(objective, max_batch_size)
        self.bound = max_batch_size

    @property
    def objective(self) -> float:  # type: ignore[override]
        return self._own.objective

    @objective.setter
    def objective(self, seconds: float) -> None:
        self._own.objective = seconds

    @property
    def cap(self) -> int:
        return self._own.cap

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(0, self.cap)

    def record(self, size: int, service_seconds: float) -> None:
        self._own.record(size, service_seconds)


@dataclass
class Load:
    """Queries per second from `at` seconds on, and those of a second application."""

    at: float
    rate: float
    other: float = 0.0


class Meter:
    """Hears of every answer and every batch."""

    # State: times of answers in time, latencies of all answers, outcomes by name, queries
    # that were asked again; by the application, the times at which queries were settled,
    # and whether in time; for every batch that came back its time, rows, seconds, and the
    # cap then.

    def __init__(self, world: World[Meter]) -> None:
        self.world = world
        self.now = world.clock.now
        self.good: list[float] = []
        self.latencies: list[float] = []
        self.latest = 0.0  # seconds that an answer came after its deadline
        self.outcomes: Counter[str] = Counter()
        self.retried = 0
        self.settled: dict[Application, list[tuple[float, bool]]] = {}
        self.batches: list[tuple[float, int, float, int]] = []

    def query_settled(self, query: Query) -> None:
        now, output = self.now(), query.output
        self.latest = max(self.latest, now - query.deadline)
        good = type(output) is not RowError and now <= query.deadline
        self.settled.setdefault(query.application, []).append((now, good))
        if type(output) is RowError:
            self.outcomes[output.code] += 1
            return
        self.outcomes["output"] += 1
        self.latencies.append(now - query.arrived)
        if good:
            self.good.append(now)

    def model_added(self, model: Any) -> None: ...
    def submitted(self, model: Any, work: Any) -> None: ...
    def asked(self, ask: Any) -> None: ...
    def left(self, ask: Any) -> None: ...
    def told(self, ask: Any, outputs: Any) -> None: ...
    def sent(self, replica: VirtualReplica, batch: Batch) -> None: ...
    def begun(self, replica: VirtualReplica, batch: Batch) -> None: ...
    def step(self) -> None: ...

    def finished(self, replica: VirtualReplica, batch: Batch, result: BatchResult) -> None:
        cap = self.world.model.dispatcher.controller.cap
        self.batches.append((self.now(), batch.rows, batch.seconds, cap))


class Insistent:
    """A client that asks again at once, up to some times, where it got no output."""

    def __init__(self, meter: Meter, again: int) -> None:
        self._meter = meter
        self._again = again

    def query_settled(self, query: Query) -> None:
        self._meter.query_settled(query)
        if self._again and type(query.output) is RowError:
            self._again -= 1
            world = self._meter.world
            world.loop.at(world.clock.now() + ROUND_TRIP, self._ask, query.application)

    def _ask(self, application: Application) -> None:
        self._meter.retried += 1
        application.submit(row_of(1), self)


class Apart(World[Meter]):
    """The second application has a model of its own."""

    def _build(self) -> None:
        super()._build()
        self.add_model()
        application, model = self.applications[1], self.model
        for each, app in zip(self.models, self.applications, strict=True):
            each.set_objectives([app.slo])
        application.update(application.record, [model], {model.id.version: model})


class Trial:
    """One controller under one course of load, measured. Times are seconds from the
    beginning, when nothing is known of the model. With `apart` the second application's
    model is another."""

    def __init__(
        self,
        controller: str,
        nature: Nature,
        loads: Sequence[Load],
        seconds: float,
        *,
        seed: int = 1,
        replicas: int = 1,
        slo: float = SLO,
        other_slo: float | None = None,
        apart: bool = False,
        batch_wait: float | str = "auto",
        retries: int = 0,
    ) -> None:
        self.scenario = Scenario(
            seed,
            seconds,
            slo,
            other_slo=(other_slo or slo) if any(load.other for load in loads) else None,
            controller=controller,
            nature=nature,
            caching=False,
            replicas=replicas,
            batch_wait=batch_wait,
        )
        CONTROLLERS["fifo"] = Fifo
        try:
            self.world = (Apart if apart else World)(self.scenario, Meter)
        finally:
            del CONTROLLERS["fifo"]
        self.meter = self.world.watch
        self._loads = list(loads)
        self._rng = Random(seed)
        self._retries = retries
        self._offer()
        self.world.run()

    def _offer(self) -> None:
        """Schedule the next arrivals, and the next call of this."""
        world, rng = self.world, self._rng
        now = world.clock.now() - world.begin
        while len(self._loads) > 1 and self._loads[1].at <= now:
            self._loads.pop(0)
        load = self._loads[0]
        rate = load.rate + load.other
        if rate > AT_ONCE:
            wait, count = STEP, _poisson(rng, rate * STEP)
        else:
            wait, count = rng.expovariate(rate), 1
        if now + wait < self.scenario.seconds:
            world.loop.at(world.begin + now + wait, self._arrive, count)

    def _arrive(self, count: int) -> None:
        first, *others = self.world.applications
        load, rng, row = self._loads[0], self._rng, row_of(1)
        for _ in range(count):
            other = load.other and rng.random() * (load.rate + load.other) < load.other
            asks: Any = (
                Insistent(self.meter, self._retries) if self._retries else self.meter
            )
            (others[0] if other else first).submit(row, asks)
        self._offer()

    # -- figures -------------------------------------------------------------------------

    def goodput(self, begin: float, end: float) -> float:
        """Answers in time per second, between two times."""
        good, start = self.meter.good, self.world.begin
        return (bisect_left(good, start + end) - bisect_left(good, start + begin)) / (
            end - begin
        )

    def rate_of(self, application: int, begin: float, end: float) -> float:
        """Answers in time per second, of one application."""
        return sum(self._settled(application, begin, end)) / (end - begin)

    def share_of(self, application: int, begin: float, end: float) -> float:
        """The share of one application's queries that is answered in time."""
        settled = self._settled(application, begin, end)
        return sum(settled) / max(1, len(settled))

    def _settled(self, application: int, begin: float, end: float) -> list[bool]:
        start = self.world.begin
        settled = self.meter.settled.get(self.world.applications[application], [])
        return [good for at, good in settled if begin <= at - start < end]

    def caps(self, begin: float, end: float) -> list[int]:
        """The cap whenever a batch came back."""
        return [cap for _, _, cap in self._batches(begin, end)]

    def batch_seconds(self, begin: float, end: float, share: float = 0.99) -> float:
        """Service time that this share of the batches stayed within."""
        times = sorted(seconds for _, seconds, _ in self._batches(begin, end))
        return times[min(len(times) - 1, int(share * len(times)))]

    def mean_rows(self, begin: float, end: float) -> float:
        rows = [rows for rows, _, _ in self._batches(begin, end)]
        return sum(rows) / max(1, len(rows))

    def busy(self, begin: float, end: float) -> float:
        """The share of the time in which a replica was at work."""
        return sum(s for _, s, _ in self._batches(begin, end)) / (end - begin)

    def _batches(self, begin: float, end: float) -> list[tuple[int, float, int]]:
        start = self.world.begin
        return [
            (rows, seconds, cap)
            for at, rows, seconds, cap in self.meter.batches
            if begin <= at - start < end
        ]

    def reaches(
        self, share: float, rate: float, begin: float, window: float = 0.1
    ) -> float:
        """Seconds after `begin` until, over a window, goodput is that share of a rate."""
        at = begin
        while at + window < self.scenario.seconds:
            if self.goodput(at, at + window) >= share * rate:
                return at + window - begin
            at += window / 10
        return float("inf")

    def settles(self, target: float, begin: float, end: float, band: float = 0.15) -> float:
        """Seconds after `begin` from which the cap stays within the band to the end."""
        start, settled = self.world.begin, float("inf")
        for at, _, _, cap in self.meter.batches:
            if not begin <= at - start < end:
                continue
            if abs(cap - target) > band * target + 0.5:
                settled = float("inf")
            elif settled == float("inf"):
                settled = at - start - begin
        return settled


def _poisson(rng: Random, mean: float) -> int:
    """A Poisson variate of a small mean; of a large one, its normal approximation."""
    if mean > 50:
        return max(0, round(rng.gauss(mean, mean**0.5)))
    count, left = 0, rng.expovariate(1.0)
    while left < mean:
        count += 1
        left += rng.expovariate(1.0)
    return count


def capacity(nature: Nature, slo: float = SLO) -> float:
    """Rows per second of one replica in batches that take the objective."""
    return Scenario(0, slo=slo, nature=nature).capacity


def ideal_cap(nature: Nature, slo: float = SLO) -> float:
    """(SLO - c) / a"""
    return (slo - nature.fixed) / nature.per_row


def best(nature: Nature, rate: float, slo: float = SLO) -> float:
    """The most answers in time per second that one replica can give to queries that come
    evenly at `rate`, in batches of one size.

    A batch takes T = c + a * rows; a row that is answered in time came at most SLO - T
    before its batch began, so rows <= rate * min(T, SLO - T).
    """
    c, a = nature.fixed, nature.per_row
    everything = c / (1.0 - a * rate) if a * rate < 1.0 else slo
    if everything <= slo / 2:
        return rate
    rows = rate * (slo - c) / (1.0 + a * rate)
    return rows / (c + a * rows)
