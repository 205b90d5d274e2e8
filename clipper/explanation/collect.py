"""Reads the numbers of an explanation from the running server."""

from __future__ import annotations

from statistics import median
from typing import Any

from msgspec.structs import asdict

from clipper.application import Application
from clipper.attainment import ModelTotals, Recent, model_totals
from clipper.batching.controller import BatchController
from clipper.batching.latency import LatencyModel
from clipper.batching.load import ReplicaLoad
from clipper.batching.outcomes import FULL, REFUSED, SHED
from clipper.cache import PredictionCache
from clipper.explanation.arms import choosing
from clipper.explanation.facts import (
    Attainment,
    CacheUse,
    Explanation,
    Facts,
    Failure,
    Fit,
    Latency,
    Load,
    ModelFacts,
    Overload,
    ReplicaFacts,
    Shed,
)
from clipper.explanation.sentences import MEANINGS, UNNAMED, sentences
from clipper.metrics import Histogram
from clipper.model import Model
from clipper.values import RowError

MAX_FAILURES = 32  # codes

# A rate of less time than this would be a guess.
ENOUGH_SECONDS = 1.0


def explain(application: Application, cache: PredictionCache[Any]) -> Explanation:
    """Why this application answers as it does."""
    facts = collect(application, cache)
    return Explanation(**asdict(facts), sentences=sentences(facts))


def collect(application: Application, cache: PredictionCache[Any]) -> Facts:
    """The facts alone."""
    recent = application.recent()
    current = application.models
    others = sorted(application.reachable - {*current}, key=lambda model: model.id)
    return Facts(
        application=application.name,
        slo_ms=application.record.slo_micros / 1e3,
        attainment=_attainment(application, recent),
        failures=_failures(application, recent),
        recent_overload=Overload(
            recent.overloads[REFUSED.cause],
            recent.overloads[SHED.cause],
            recent.overloads[FULL.cause],
        ),
        latency=_latency(application.stats.latency, recent.latency),
        cache=_cache(application, cache),
        linked=list(application.record.models),
        models=[_model(model, model in current, recent) for model in (*current, *others)],
        choosing=choosing(application),
    )


def _attainment(application: Application, recent: Recent) -> Attainment:
    stats = application.stats
    rows = stats.predictions + stats.failures.total()
    return Attainment(
        recent=recent.attainment,
        since_start=stats.predictions / rows if rows else None,
        rows=rows,
        recent_rows=recent.rows,
        recent_seconds=round(recent.seconds, 3),
    )


def _failures(application: Application, recent: Recent) -> dict[str, Failure]:
    found = {}
    for code, rows in application.stats.failures.most_common(MAX_FAILURES):
        default = application.rendering.default_for(RowError(code, ""))
        found[code] = Failure(
            MEANINGS.get(code, UNNAMED),
            "error" if default is None else "default",
            rows,
            recent.failures[code],
        )
    return found


def _latency(all_rows: Histogram, recent: Histogram) -> Latency:
    return Latency(*(_ms(h.quantile(q)) for h in (all_rows, recent) for q in (0.5, 0.99)))


def _cache(application: Application, cache: PredictionCache[Any]) -> CacheUse:
    spared = cache.hits + cache.joins
    rows = spared + cache.misses
    return CacheUse(
        application.caching,
        application.record.cache_ttl_seconds,
        rows,
        spared / rows if rows else None,
    )


# -- models ------------------------------------------------------------------------------


def _model(model: Model, current: bool, recent: Recent) -> ModelFacts:
    record, dispatcher = model.record, model.dispatcher
    replicas, controller = model.replicas.statistics(), dispatcher.controller
    stats, queue_rows = dispatcher.stats, model.intake.waiting_rows
    state, reason = replicas.state.value, replicas.reason
    if not replicas.wanted:
        state = "stopped"
        reason = "it has no function" if record.blob is None else "scaled to 0 replicas"
    fitted = fit(controller.latency)
    capacity = capacity_of(model)
    lately = recent.models.get(stats)
    return ModelFacts(
        model=str(model.id),
        current=current,
        state=state,
        reason=reason,
        replicas_ready=replicas.live,
        replicas_wanted=replicas.wanted,
        controller=record.batching.controller,
        batch_wait=record.batching.batch_wait,
        bound_rows=controller.bound,
        cap_rows=controller.cap,
        objective_ms=round(controller.objective * 1e3, 3),
        fitted=fitted,
        full_batch_ms=_full_batch_ms(fitted, controller.cap),
        capacity_rows_per_second=None if capacity is None else round(capacity, 1),
        batches=stats.batches,
        rows=stats.rows,
        mean_batch_rows=_ratio(stats.rows, stats.batches),
        queue_rows=queue_rows,
        queue_ms=_ms(queue_rows / capacity) if capacity else None,
        shed=_shed(model_totals(stats, 0.0)),
        recent=None if lately is None else _load(lately, replicas.live),
        recent_shed=Shed() if lately is None else _shed(lately),
        replicas=_replicas(model),
    )


def fit(latency: LatencyModel | None) -> Fit | None:
    """What is known of a replica's speed; None if nothing is."""
    if latency is None or not latency.known:
        return None
    return Fit(
        fixed_ms=round(latency.fixed * 1e3, 4),
        per_row_us=round(latency.per_row * 1e6, 3),
        spread_p95_ms=round(latency.spread * 1e3, 3),
        batches=latency.batches,
        largest_rows=latency.largest,
    )


def _full_batch_ms(fitted: Fit | None, cap: int) -> float | None:
    if fitted is None or (fitted.largest_rows < 2 <= cap):
        return None  # of single rows nobody could tell
    return round(fitted.ms(cap), 3)


def capacity_of(model: Model) -> float | None:
    """Rows per second that the ready replicas do in full batches, as far as such were
    tried; 0 without any replica, None where nothing is known of their speed."""
    ready = model.replicas.live
    if not ready:
        return 0.0
    controllers = [load.controller for load in ready_loads(model)]
    # one that was not yet given anything is taken to be like the first
    controllers += [model.dispatcher.controller] * (ready - len(controllers))
    rates = [_rate(controller) for controller in controllers[:ready]]
    return None if None in rates else sum(rate for rate in rates if rate is not None)


def _rate(controller: BatchController) -> float | None:
    latency = controller.latency
    if latency is None or not latency.known:
        return None
    rows = min(controller.cap, latency.largest)
    seconds = latency.seconds(rows)
    return rows / seconds if seconds > 0.0 else None


def ready_loads(model: Model) -> list[ReplicaLoad]:
    """Of the replicas that are ready and were given work; the dispatcher looks at them
    only when it has some."""
    ready = {*model.replicas.ready}
    return [load for load in model.dispatcher.fleet.loads if load.replica in ready]


def _replicas(model: Model) -> list[ReplicaFacts]:
    loads = {load.replica: load for load in ready_loads(model)}
    return [
        ReplicaFacts(
            replica=number,
            cap_rows=load.controller.cap,
            busy=bool(load.flights),
            fitted=fit(load.controller.latency),
            times_as_long=_times_as_long(load, [*loads.values()]),
        )
        for number, replica in enumerate(model.replicas.replicas)
        if (load := loads.get(replica)) is not None
    ]


def _times_as_long(load: ReplicaLoad, loads: list[ReplicaLoad]) -> float | None:
    """Compared at the size of batch that all of them run."""
    known = {
        other: latency
        for other in loads
        if (latency := other.controller.latency) is not None and latency.known
    }
    if load not in known or len(known) < 2:
        return None
    rows = min(latency.largest for latency in known.values())
    others = median(known[other].seconds(rows) for other in known if other is not load)
    return round(known[load].seconds(rows) / others, 2) if others > 0.0 else None


def _load(lately: ModelTotals, ready: int) -> Load | None:
    seconds = lately.seconds
    if seconds < ENOUGH_SECONDS:
        return None
    busy = lately.busy_seconds / (seconds * ready) if ready else None
    return Load(
        seconds=round(seconds, 3),
        offered_rows_per_second=round(lately.offered / seconds, 1),
        evaluated_rows_per_second=round(lately.rows / seconds, 1),
        busy_share=None if busy is None else round(min(1.0, busy), 3),
        mean_batch_rows=_ratio(lately.rows, lately.batches),
    )


def _shed(totals: ModelTotals) -> Shed:
    return Shed(
        totals.refused,
        totals.shed,
        totals.expired,
        totals.abandoned,
        totals.hedged,
        totals.retried,
        totals.failed_batches,
    )


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 2) if whole else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
