"""One replica with the queue before it and clients of different habits, in virtual time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

from clipper.batching.latency import LatencyModel
from clipper.batching.wait import BatchWait, LearnedWait

from .contract import Known

FIXED = 0.01
LATENCY = Known(per_row=0.0001, fixed=FIXED).latency


class Line:
    """One replica, the queue before it, and whoever asks, in time of its own. Everything
    that waits goes into the next batch."""

    def __init__(
        self, wait: BatchWait | None = None, latency: LatencyModel | None = LATENCY
    ) -> None:
        self.wait = wait or LearnedWait()
        self.latency = latency
        self.now = 0.0
        self.arrived = self.queued = 0
        self.busy = False
        self.sizes: list[int] = []
        self.waits: list[float] = []  # seconds that the replica was kept idle, by batch
        self.on_answer: Callable[[int], None] = lambda rows: None
        self._idle_since: float | None = None
        self._ticket = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._ticket), what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def ask(self) -> None:
        self.arrived += 1
        self.queued += 1
        self.dispatch()

    def dispatch(self) -> None:
        wait = self.wait
        if wait.active:
            wait.look(self.now, self.arrived)
        if self.busy or not self.queued:
            return
        if self._idle_since is None:
            self._idle_since = self.now
        if wait.active:
            until = wait.until(self.now, self.queued, self.arrived, self.latency)
            if until > self.now:
                self.at(until, self.dispatch)
                return
        rows, self.queued, self.busy = self.queued, 0, True
        self.sizes.append(rows)
        self.waits.append(self.now - self._idle_since)
        self._idle_since = None
        if wait.active:
            wait.taken(self.now, 0)
        assert LATENCY is not None
        seconds = (self.latency or LATENCY).seconds(rows)
        self.at(self.now + seconds, lambda: self.done(rows))

    def done(self, rows: int) -> None:
        self.busy = False
        latency = self.latency
        if latency is not None and latency.fixed > self.wait.least_cost:
            self.wait.answering(self.now, rows, self.arrived, latency)
        self.dispatch()
        self.on_answer(rows)
        self.wait.answered(self.now)


def closed_loop(line: Line, groups: list[int], seed: int = 1) -> random.Random:
    """Clients that ask again 0.1 to 0.5 ms after their answers, in groups that begin one
    while the batch of the other runs."""
    rng = random.Random(seed)

    def back(rows: int) -> None:
        for _ in range(rows):
            line.at(line.now + rng.uniform(0.0001, 0.0005), line.ask)

    line.on_answer = back
    for turn, clients in enumerate(groups):
        for _ in range(clients):
            line.at(0.004 * turn, line.ask)
    return rng


def open_load(line: Line, rate: float, seconds: float, seed: int) -> None:
    """Clients that ask whenever they like."""
    rng, when = random.Random(seed), 0.0
    while (when := when + rng.expovariate(rate)) < seconds:
        line.at(when, line.ask)
