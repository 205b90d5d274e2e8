"""What the server publishes about itself: names, meanings, and where the numbers are.

A counter's name is completed with `_total` when it is written. Rows are counted, not
requests: a request with an input_batch counts once for each of its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sized
from math import nan
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from clipper.application import Application
from clipper.engine import Engine
from clipper.explanation.arms import weights_of
from clipper.explanation.collect import capacity_of
from clipper.metrics import Histogram
from clipper.model import Model
from clipper.selection.policy import model_of
from clipper.workers.replica_set import State

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


# Codes are there with 0 from the start, else the first failure of a kind is no increase
# and no alert. Others are shown too, up to a bound, because labels must be bounded.
FAILURE_CODES = (
    "cancelled",
    "deadline_exceeded",
    "invalid_output",
    "model_crashed",
    "model_failed",
    "model_hung",
    "no_model",
    "overloaded",
    "unavailable",
)
MAX_CODES = 32
REFUSAL_CODES = (
    "conflict",
    "disk_full",
    "invalid_input",
    "not_found",
    "overloaded",
    "query_id_expired",
    "resend_input",
    "store_error",
    "unavailable",
)


def _tasks() -> float:
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:  # rendered where no loop runs
        return 0.0


def _failures(application: Application) -> Iterable[tuple[str, float]]:
    counted = dict(application.stats.failures.most_common(MAX_CODES))
    return {**dict.fromkeys(FAILURE_CODES, 0), **counted}.items()


def _failed_batches(model: Model) -> Iterable[tuple[str, float]]:
    failed = model.dispatcher.stats.failed_batches
    return [(kind.value, times) for kind, times in failed.items()]


def _recycled(model: Model) -> Iterable[tuple[str, float]]:
    return model.replicas.statistics().recycled.items()


def _states(model: Model) -> Iterable[tuple[str, float]]:
    now = model.replicas.state
    return [(state.value, float(state is now)) for state in State]


def _attainment(application: Application) -> float:
    share = application.recent().attainment
    return 1.0 if share is None else share


def _fixed_seconds(model: Model) -> float:
    latency = model.dispatcher.controller.latency
    return latency.fixed if latency is not None and latency.known else nan


def _row_seconds(model: Model) -> float:
    latency = model.dispatcher.controller.latency
    return latency.per_row if latency is not None and latency.known else nan


def _capacity(model: Model) -> float:
    capacity = capacity_of(model)
    return nan if capacity is None else capacity


def _refused(application: Application) -> Iterable[tuple[str, float]]:
    counted = dict(application.stats.refused.most_common(MAX_CODES))
    return {**dict.fromkeys(REFUSAL_CODES, 0), **counted}.items()


def _weights(application: Application) -> Iterable[tuple[str, float]]:
    return [(str(model_of(a)), w) for a, w in weights_of(application).items()]


def _mean_losses(application: Application) -> Iterable[tuple[str, float]]:
    totals = application.learner.population.totals
    for arm in application.arms:
        mean = totals[arm].mean if arm in totals else None
        yield str(model_of(arm)), nan if mean is None else mean


def _pulls(application: Application) -> Iterable[tuple[str, float]]:
    totals = application.learner.population.totals
    for arm in application.arms:
        yield str(model_of(arm)), totals[arm].count if arm in totals else 0.0


def _halted(application: Application) -> Iterable[tuple[str, float]]:
    halted = application.learner.halted
    return [(str(model_of(arm)), float(arm in halted)) for arm in application.arms]


def _missing(application: Application) -> Iterable[tuple[str, float]]:
    if not application.learner.policy.ensemble:
        return []
    missing = application.stats.missing
    names = [str(model_of(arm)) for arm in application.arms]
    return [(name, missing[name]) for name in names]


def _agreement(application: Application) -> Iterable[tuple[str, float]]:
    for arm in application.arms:
        found = application.watch.comparisons.get(arm)
        if found is not None:
            share = found.agreement
            yield str(model_of(arm)), nan if share is None else share


def _shadow_failures(application: Application) -> Iterable[tuple[str, float]]:
    for arm in application.arms:
        found = application.watch.comparisons.get(arm)
        if found is not None:
            yield str(model_of(arm)), found.failed


APPLICATION: tuple[Series[Application], ...] = (
    Number(
        COUNTER,
        "clipper_application_predictions",
        "Rows that a model answered, from the cache or not.",
        lambda application: application.stats.predictions,
    ),
    Tally(
        COUNTER,
        "clipper_application_failures",
        "Rows that got the default output or an error, by the code of what went wrong.",
        "code",
        _failures,
    ),
    Number(
        COUNTER,
        "clipper_application_cancelled",
        "Rows whose client went away before the answer.",
        lambda application: application.stats.cancelled,
    ),
    Spread(
        "clipper_application_latency_seconds",
        "From the arrival of a row to its answer, whatever that was.",
        lambda application: application.stats.latency,
    ),
    Number(
        GAUGE,
        "clipper_application_slo_seconds",
        "The latency objective of the application.",
        lambda application: application.slo,
    ),
    Number(
        GAUGE,
        "clipper_application_slo_attainment",
        "Share of the rows of the last 30 to 60 s that a model answered in time; 1 when "
        "none came.",
        _attainment,
    ),
    Number(
        COUNTER,
        "clipper_application_feedback",
        "Pieces of feedback that were taken and learned from.",
        lambda application: application.stats.feedback,
    ),
    Number(
        COUNTER,
        "clipper_application_feedback_duplicates",
        "Pieces of feedback that had been given before.",
        lambda application: application.stats.duplicates,
    ),
    Tally(
        COUNTER,
        "clipper_application_feedback_refused",
        "Pieces of feedback that were not taken, by the code of the answer.",
        "code",
        _refused,
    ),
    Number(
        GAUGE,
        "clipper_application_users_in_memory",
        "Users whose own experience is in memory.",
        lambda application: len(application.learner.users),
    ),
    Tally(
        GAUGE,
        "clipper_application_arm_weight",
        "The probability that this model version answers a query, or its weight in the "
        "ensemble, for users without own feedback; none where the context decides.",
        "arm",
        _weights,
    ),
    Tally(
        GAUGE,
        "clipper_application_arm_mean_loss",
        "The mean loss of this model version under all feedback; NaN before the first.",
        "arm",
        _mean_losses,
    ),
    Tally(
        GAUGE,
        "clipper_application_arm_feedback",
        "How often feedback told the loss of this model version, over all restarts.",
        "arm",
        _pulls,
    ),
    Tally(
        GAUGE,
        "clipper_application_arm_halted",
        "1 for a model version that a guard took out.",
        "arm",
        _halted,
    ),
    Tally(
        COUNTER,
        "clipper_application_missing_members",
        "Answers of an ensemble that this member came too late for.",
        "arm",
        _missing,
    ),
    Tally(
        GAUGE,
        "clipper_application_shadow_agreement",
        "Share of a shadow's outputs that were the answer; NaN before the first.",
        "arm",
        _agreement,
    ),
    Tally(
        COUNTER,
        "clipper_application_shadow_failures",
        "Queries on which a shadow failed.",
        "arm",
        _shadow_failures,
    ),
)

MODEL: tuple[Series[Model], ...] = (
    Number(
        GAUGE,
        "clipper_model_replicas_live",
        "Replicas that answer.",
        lambda model: model.replicas.live,
    ),
    Number(
        GAUGE,
        "clipper_model_replicas_target",
        "Replicas that there should be.",
        lambda model: model.replicas.statistics().wanted,
    ),
    Number(
        GAUGE,
        "clipper_model_spares_ready",
        "Workers that stand by, loaded and proved.",
        lambda model: model.replicas.statistics().spares,
    ),
    Number(
        GAUGE,
        "clipper_model_spares_target",
        "Workers that there should be beside the replicas.",
        lambda model: model.replicas.statistics().spares_wanted,
    ),
    Tally(
        GAUGE,
        "clipper_model_state",
        "1 for the state that the model version is in, 0 for the others.",
        "state",
        _states,
    ),
    Number(
        COUNTER,
        "clipper_model_replica_deaths",
        "Workers that ended without being told to.",
        lambda model: model.replicas.statistics().deaths,
    ),
    Number(
        COUNTER,
        "clipper_model_replica_restarts",
        "Workers that were started in the place of one that ended.",
        lambda model: model.replicas.statistics().restarts,
    ),
    Tally(
        COUNTER,
        "clipper_model_replicas_recycled",
        "Workers that another took the place of, by what they had reached: their number of "
        "batches, or of bytes.",
        "reason",
        _recycled,
    ),
    Number(
        GAUGE,
        "clipper_model_queue_rows",
        "Rows that wait for a replica.",
        lambda model: model.intake.waiting_rows,
    ),
    Number(
        GAUGE,
        "clipper_model_in_flight_batches",
        "Batches that are with replicas.",
        lambda model: len(model.dispatcher.in_flight),
    ),
    Number(
        GAUGE,
        "clipper_model_batch_cap_rows",
        "The most rows that the next batch would get.",
        lambda model: model.dispatcher.controller.cap,
    ),
    Number(
        GAUGE,
        "clipper_model_batch_objective_seconds",
        "The longest that a batch should run.",
        lambda model: model.dispatcher.controller.objective,
    ),
    Number(
        GAUGE,
        "clipper_model_fixed_seconds",
        "What a batch takes beside its rows, fitted to the latest; NaN before the first.",
        _fixed_seconds,
    ),
    Number(
        GAUGE,
        "clipper_model_row_seconds",
        "What each row of a batch takes, fitted to the latest; NaN before the first.",
        _row_seconds,
    ),
    Number(
        GAUGE,
        "clipper_model_capacity_rows_per_second",
        "What all ready replicas could do in full batches, as far as such were tried; NaN "
        "before the first.",
        _capacity,
    ),
    Number(
        COUNTER,
        "clipper_model_batches",
        "Batches that came back with outputs.",
        lambda model: model.dispatcher.stats.batches,
    ),
    Number(
        COUNTER,
        "clipper_model_rows",
        "Rows of the batches that came back with outputs.",
        lambda model: model.dispatcher.stats.rows,
    ),
    Spread(
        "clipper_model_batch_rows",
        "Rows to a batch.",
        lambda model: model.dispatcher.stats.batch_rows,
    ),
    Spread(
        "clipper_model_service_seconds",
        "What a batch took, not counting its wait behind another one.",
        lambda model: model.dispatcher.stats.service_seconds,
    ),
    Tally(
        COUNTER,
        "clipper_model_failed_batches",
        "Batches that came back without outputs, by what happened.",
        "kind",
        _failed_batches,
    ),
    Number(
        COUNTER,
        "clipper_model_retried_rows",
        "Rows that were queued again after a worker ended under them.",
        lambda model: model.dispatcher.stats.retried_rows,
    ),
    Number(
        COUNTER,
        "clipper_model_expired_rows",
        "Rows whose time was over before a replica took them.",
        lambda model: model.dispatcher.stats.expired_rows,
    ),
    Number(
        COUNTER,
        "clipper_model_abandoned_rows",
        "Rows that nobody waited for any more when their turn came.",
        lambda model: model.dispatcher.stats.abandoned_rows,
    ),
    Number(
        COUNTER,
        "clipper_model_shed_rows",
        "Rows given up when their turn came, because they could not be answered in time.",
        lambda model: model.dispatcher.stats.shed_rows,
    ),
    Number(
        COUNTER,
        "clipper_model_refused_rows",
        "Rows refused when they came: they could not have been answered in time, or the "
        "queue was full.",
        lambda model: model.dispatcher.stats.refused_rows,
    ),
    Number(
        COUNTER,
        "clipper_model_hedged_rows",
        "Rows that a second replica evaluated as well, because the first was late.",
        lambda model: model.dispatcher.stats.hedged_rows,
    ),
)

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
