"""Load on a server embedded in this process: callers in a closed loop, or arrivals.

A closed loop keeps a number of callers, each of whom asks again when it is answered; who
gets the default output pauses, so that refused callers do not spin. An open loop asks at
times drawn beforehand, whatever comes of earlier queries, and measures latency from the
time a query was due. Every query is encoded from a numpy row, as a user's would be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.arrivals import draw_arrivals
from benchmarks.openloop import Timer
from clipper import Server
from clipper.application import Application
from clipper.inputs import encode_python
from clipper.query import Query
from clipper.values import RowError

PAUSE = 0.005  # seconds that a caller waits after a default output

# Arrivals that are overdue are sent in groups of this many; the server, which has the same
# loop, gets a turn between them.
GROUP = 32

now = time.monotonic


class Target(NamedTuple):
    """Whom to ask, and about what."""

    server: Server
    application: str
    rows: Sequence[Any]


class Load:
    """What was answered between `begin` and `end`.

    State: `latencies` of the queries that a model answered, in seconds; `refused` counts
    those that got the default output; `lags`, how much later than due the generator of
    an open loop sent.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.refused = 0
        self.over = False
        self.seconds = 0.0
        self._begun = now()

    def begin(self) -> None:
        """What came before was to warm up."""
        self.latencies.clear()
        self.lags.clear()
        self.refused = 0
        self._begun = now()

    def end(self) -> None:
        self.over = True
        self.seconds = now() - self._begun

    @property
    def good(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Queries per second that a model answered in time."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def mean(self) -> float:
        return sum(self.latencies) / self.good if self.latencies else 0.0

    def quantile(self, q: float) -> float:
        return quantile(self.latencies, q)


def quantile(values: Sequence[float], q: float) -> float:
    """0 of no values."""
    return float(np.quantile(values, q)) if len(values) else 0.0


def _nothing() -> None:
    """The default of `on_begin` and `on_end`."""


async def watch(
    load: Load,
    warm: float,
    seconds: float,
    on_begin: Callable[[], None],
    on_end: Callable[[], None],
) -> None:
    await asyncio.sleep(warm)
    load.begin()
    on_begin()
    await asyncio.sleep(seconds)
    load.end()
    on_end()


# -- closed loops ----------------------------------------------------------------------


async def run_predict(
    target: Target,
    callers: int,
    seconds: float,
    warm: float = 0.0,
    on_begin: Callable[[], None] = _nothing,
    on_end: Callable[[], None] = _nothing,
) -> Load:
    """Callers that `await server.predict(...)`, one task each."""
    load = Load()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(_predict_on(target, load, number, callers))
            await watch(load, warm, seconds, on_begin, on_end)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return load


async def _predict_on(target: Target, load: Load, number: int, step: int) -> None:
    predict, name, rows = target.server.predict, target.application, target.rows
    while True:
        asked = now()
        prediction = await predict(name, rows[number % len(rows)])
        if load.over:
            return
        if prediction.default:
            load.refused += 1
            await asyncio.sleep(PAUSE)
        else:
            load.latencies.append(now() - asked)
        number += step


async def run_submit(
    target: Target,
    callers: int,
    seconds: float,
    warm: float = 0.0,
    on_begin: Callable[[], None] = _nothing,
    on_end: Callable[[], None] = _nothing,
) -> Load:
    """Callers that use what is below `predict`, as the HTTP lane does: `submit` with a
    receiver, neither a task nor a future nor a Prediction for each query."""
    load = Load()
    application = target.server.engine.application(target.application)
    crowd = _Crowd(application, target.rows, load, callers)
    for number in range(callers):
        _Caller(crowd, number).ask()
    await watch(load, warm, seconds, on_begin, on_end)
    await crowd.gone.wait()
    if crowd.error is not None:
        raise crowd.error
    return load


CLOSED = {"predict": run_predict, "submit": run_submit}


class _Crowd:
    """What callers share. State: how many of them have not gone yet, and why one went
    that should not have."""

    def __init__(
        self, application: Application, rows: Sequence[Any], load: Load, callers: int
    ) -> None:
        self.application = application
        self.rows = rows
        self.load = load
        self.callers = callers
        self.error: Exception | None = None
        self.gone = asyncio.Event()
        self.call_later = asyncio.get_running_loop().call_later
        self._left = callers

    def leave(self) -> None:
        self._left -= 1
        if not self._left:
            self.gone.set()


class _Caller:
    """Asks again when it is answered. State: the number of its next row."""

    __slots__ = ("_crowd", "_number")

    def __init__(self, crowd: _Crowd, number: int) -> None:
        self._crowd = crowd
        self._number = number

    def ask(self) -> None:
        crowd = self._crowd
        if crowd.load.over:
            crowd.leave()
            return
        row = crowd.rows[self._number % len(crowd.rows)]
        self._number += crowd.callers
        application = crowd.application
        try:
            application.submit(encode_python(application.input_type, row), self)
        except Exception as error:  # who calls us back would only log it
            crowd.error = error
            crowd.leave()

    def query_settled(self, query: Query) -> None:
        crowd = self._crowd
        if crowd.load.over:
            crowd.leave()
        elif type(query.output) is RowError:
            crowd.load.refused += 1
            crowd.call_later(PAUSE, self.ask)
        else:
            crowd.load.latencies.append(now() - query.arrived)
            self.ask()


# -- open loop -------------------------------------------------------------------------


async def run_open(
    target: Target,
    rate: float,
    seconds: float,
    warm: float = 0.0,
    on_begin: Callable[[], None] = _nothing,
    on_end: Callable[[], None] = _nothing,
    *,
    seed: int = 0,
) -> Load:
    """Poisson arrivals at `rate` per second; those of the first `warm` seconds are not
    counted. All are settled when this returns."""
    load = Load()
    due = draw_arrivals([(rate, warm + seconds)], seed)
    arrivals = _Arrivals(target, load, due, warm)
    call_later = asyncio.get_running_loop().call_later
    marks = [call_later(warm, on_begin), call_later(warm + seconds, on_end)]
    try:
        await arrivals.wait()
        await asyncio.sleep(marks[1].when() - asyncio.get_running_loop().time())
    finally:
        arrivals.close()
        for mark in marks:
            mark.cancel()
    load.over, load.seconds = True, seconds
    return load


class _Arrivals:
    """Sends a query at each time of `due`, in seconds from now.

    State: the number of the next one, how many are not settled yet, and the error that
    ended it before its time.
    """

    def __init__(self, target: Target, load: Load, due: list[float], warm: float) -> None:
        self._application = target.server.engine.application(target.application)
        self._rows = target.rows
        self.load = load
        self._begun = now()
        self._due = [self._begun + after for after in due]
        self._counted_from = self._begun + warm
        self._next, self._left = 0, len(due)
        self._over = asyncio.Event()
        self._error: Exception | None = None
        self._timer = Timer(self._fire)
        if due:
            self._timer.arm(self._due[0])

    async def wait(self) -> None:
        if self._left:
            await self._over.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._timer.close()

    def _fire(self) -> None:
        try:
            self._send_due()
        except Exception as error:  # the event loop would only log it
            self._error = error
            self._over.set()

    def _send_due(self) -> None:
        due, load, application = self._due, self.load, self._application
        for _ in range(GROUP):
            index, at = self._next, now()
            if index == len(due):
                return
            if due[index] > at:
                break
            self._next += 1
            counted = due[index] >= self._counted_from
            if counted:
                load.lags.append(at - due[index])
            row = self._rows[index % len(self._rows)]
            query = _Arrival(self, due[index], counted=counted)
            application.submit(encode_python(application.input_type, row), query)
        if self._next < len(due):
            self._timer.arm(max(due[self._next], now()))

    def settled(self) -> None:
        self._left -= 1
        if not self._left:
            self._over.set()


class _Arrival:
    """One query that was due at `due`."""

    __slots__ = ("_arrivals", "_counted", "_due")

    def __init__(self, arrivals: _Arrivals, due: float, *, counted: bool) -> None:
        self._arrivals = arrivals
        self._due = due
        self._counted = counted

    def query_settled(self, query: Query) -> None:
        self._arrivals.settled()
        if not self._counted:
            return
        load = self._arrivals.load
        if type(query.output) is RowError:
            load.refused += 1
        else:
            load.latencies.append(now() - self._due)
