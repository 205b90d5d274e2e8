"""The server's counters in Prometheus' and OpenMetrics' text formats.

Nothing is prepared before a scrape: the hot path counts plain numbers, and they are read
when somebody asks. Names and labels are written and escaped by prometheus_client. The
number of series is bounded by the limits on applications and model versions; an
application or version that is deleted takes its series along.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, TypeVar

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from clipper.engine import Engine
from clipper.frontend.application_series import APPLICATION
from clipper.frontend.model_series import MODEL
from clipper.frontend.series import (
    CONNECTIONS,
    ENGINE,
    REFUSALS,
    Connections,
    Number,
    Refusals,
    Series,
    Spread,
    Tally,
)
from clipper.version import __version__

OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_END = b"# EOF\n"

# Applications or model versions to a piece of text: a millisecond or two of work.
SLICE = 8

T = TypeVar("T")
Labelled = tuple[tuple[str, ...], T]


class Piece(NamedTuple):
    """A metric family, or the rest of the one before it."""

    family: Metric
    first: bool


class Exposition:
    """Renders the metrics of one engine, with those of its gates, by port,
    and lane if given.

    `lane` may be set later: it comes after the routes that serve these metrics.
    """

    def __init__(
        self,
        engine: Engine,
        gates: Mapping[str, Refusals] | None = None,
        lane: Connections | None = None,
    ) -> None:
        self.lane = lane
        self._engine = engine
        self._gates = gates or {}
        self._process = ProcessCollector(registry=None)

    def pieces(self, accept: str) -> tuple[str, Iterator[bytes]]:
        """Content type and text for a client with this Accept header, bit by bit. With
        hundreds of applications and models the whole takes longer than a query may
        wait; each piece takes a millisecond or two."""
        encode, content_type = choose_encoder(_understood(accept))
        return content_type, self._encoded(encode, content_type.startswith(OPENMETRICS))

    def _encoded(
        self, encode: Callable[[Collector], bytes], openmetrics: bool
    ) -> Iterator[bytes]:
        for piece in self._collect():
            text = encode(_One(piece.family)).removesuffix(OPENMETRICS_END)
            yield text if piece.first else _without_head(text)
        if openmetrics:
            yield OPENMETRICS_END

    def _collect(self) -> Iterator[Piece]:
        engine = self._engine
        applications = [((n,), item) for n, item in engine.applications.items()]
        models = [((*model.id,), model) for model in engine.models.values()]
        server = InfoMetricFamily("clipper_server", "The server's version.")
        server.add_metric([], {"version": __version__, "python": platform.python_version()})
        yield Piece(server, True)
        yield from _tables(ENGINE, (), [((), engine)])
        if self._gates:
            gates = [((port,), gate) for port, gate in self._gates.items()]
            yield from _tables(REFUSALS, ("port",), gates)
        if self.lane is not None:
            yield from _tables(CONNECTIONS, (), [((), self.lane)])
        yield from _tables(APPLICATION, ("application",), applications)
        yield from _tables(MODEL, ("model", "version"), models)
        for family in self._process.collect():
            yield Piece(family, True)


class _One(Collector):
    """The collector of a single family, which is what the library's writers take."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _tables(
    tables: Iterable[Series[T]], labels: tuple[str, ...], things: Sequence[Labelled[T]]
) -> Iterator[Piece]:
    for series in tables:
        rest = iter(things)
        first = True
        while some := list(islice(rest, SLICE)):
            yield Piece(_family(series, labels, some), first)
            first = False


def _family(
    series: Series[T], labels: tuple[str, ...], things: Iterable[Labelled[T]]
) -> Metric:
    """A family with one or more samples for each thing."""
    if isinstance(series, Number):
        numbers = series.kind(series.name, series.help, labels=labels)
        for values, thing in things:
            numbers.add_metric(values, series.read(thing))
        return numbers
    if isinstance(series, Tally):
        tallies = series.kind(series.name, series.help, labels=(*labels, series.label))
        for values, thing in things:
            for value, number in series.read(thing):
                tallies.add_metric((*values, value), number)
        return tallies
    assert isinstance(series, Spread)
    spreads = HistogramMetricFamily(series.name, series.help, labels=labels)
    for values, thing in things:
        histogram = series.read(thing)
        buckets = [(_bound(le), float(count)) for le, count in histogram.cumulative()]
        spreads.add_metric(values, buckets, histogram.sum)
    return spreads


@lru_cache(maxsize=256)
def _bound(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def _without_head(text: bytes) -> bytes:
    """The samples of a family that goes on; its HELP and TYPE were written before."""
    while text.startswith(b"# "):
        text = text.partition(b"\n")[2]
    return text


def _understood(accept: str) -> str:
    """The header reduced to what matters: the library would put the version that it
    names into our own Content-Type, and stumbles where that is no number."""
    offered = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return OPENMETRICS if OPENMETRICS in offered else ""
