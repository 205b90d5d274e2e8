"""What the server publishes about itself: names, meanings, and where the numbers are.

A counter's name is completed with `_total` when it is written. Rows are counted, not
requests: a request with an input_batch counts once for each of its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sized
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from clipper.engine import Engine
from clipper.metrics import Histogram

T = TypeVar("T")

COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily
Kind: TypeAlias = type[CounterMetricFamily] | type[GaugeMetricFamily]


class Number(NamedTuple, Generic[T]):
    """One number of each application, of each model version, or of the server."""

    kind: Kind
    name: str
    help: str
    read: Callable[[T], float]


class Tally(NamedTuple, Generic[T]):
    """Numbers that share a name and differ in one more label."""

    kind: Kind
    name: str
    help: str
    label: str
    read: Callable[[T], Iterable[tuple[str, float]]]


class Spread(NamedTuple, Generic[T]):
    """A histogram."""

    name: str
    help: str
    read: Callable[[T], Histogram]


Series: TypeAlias = Number[T] | Tally[T] | Spread[T]


class Refusals(Protocol):
    """What is published of the gate."""

    @property
    def unauthorized(self) -> int: ...


class Connections(Protocol):
    """What is published of the lane."""

    @property
    def connections(self) -> Sized: ...

    @property
    def handed_over(self) -> int: ...

    @property
    def bytes_in_flight(self) -> int: ...


def _tasks() -> float:
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:  # rendered where no loop runs
        return 0.0


ENGINE: tuple[Series[Engine], ...] = (
    Number(
        GAUGE,
        "clipper_ready",
        "1 once every restored model version answers or has failed for good.",
        lambda engine: engine.ready,
    ),
    Number(
        GAUGE,
        "clipper_event_loop_tasks",
        "Tasks on the server's event loop: of connections, workers and changes under way, "
        "none of queries.",
        lambda _: _tasks(),
    ),
    Number(
        GAUGE,
        "clipper_cache_entries",
        "Outputs in the prediction cache.",
        lambda engine: len(engine.cache),
    ),
    Number(
        GAUGE,
        "clipper_cache_bytes",
        "Memory that the prediction cache takes.",
        lambda engine: engine.cache.bytes,
    ),
    Number(
        GAUGE,
        "clipper_cache_limit_bytes",
        "Memory that the prediction cache may take.",
        lambda engine: engine.cache.max_bytes,
    ),
    Number(
        COUNTER,
        "clipper_cache_hits",
        "Rows answered from the cache.",
        lambda engine: engine.cache.hits,
    ),
    Number(
        COUNTER,
        "clipper_cache_misses",
        "Rows that had to be evaluated.",
        lambda engine: engine.cache.misses,
    ),
    Number(
        COUNTER,
        "clipper_cache_joins",
        "Rows that waited for the evaluation of an equal row.",
        lambda engine: engine.cache.joins,
    ),
    Number(
        COUNTER,
        "clipper_cache_evictions",
        "Outputs that made room for others.",
        lambda engine: engine.cache.evictions,
    ),
    Number(
        GAUGE,
        "clipper_decisions_in_memory",
        "Decisions that feedback finds without asking the disk.",
        lambda engine: len(engine.learning.decisions),
    ),
    Number(
        COUNTER,
        "clipper_decisions_written",
        "Decisions that were written to the disk.",
        lambda engine: engine.learning.decisions.written,
    ),
    Number(
        COUNTER,
        "clipper_decisions_written_bytes",
        "Bytes of the decisions that were written to the disk.",
        lambda engine: engine.learning.decisions.written_bytes,
    ),
    Number(
        COUNTER,
        "clipper_decisions_lost",
        "Decisions that could not be written: feedback on them needs the input again once "
        "memory has let go of them.",
        lambda engine: engine.learning.decisions.lost,
    ),
)

REFUSALS: tuple[Series[Refusals], ...] = (
    Number(
        COUNTER,
        "clipper_http_unauthorized_requests",
        "Requests without the right token.",
        lambda gate: gate.unauthorized,
    ),
)

CONNECTIONS: tuple[Series[Connections], ...] = (
    Number(
        GAUGE,
        "clipper_http_connections",
        "Open connections to the query port.",
        lambda lane: len(lane.connections) + lane.handed_over,
    ),
    Number(
        GAUGE,
        "clipper_http_in_flight_bytes",
        "Bytes of request bodies that were accepted and are not answered.",
        lambda lane: lane.bytes_in_flight,
    ),
)
