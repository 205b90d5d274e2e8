"""What is published of each model version. Rows are counted, not requests."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan

from clipper.explanation.collect import capacity_of
from clipper.frontend.series import COUNTER, GAUGE, Number, Series, Spread, Tally
from clipper.model import Model
from clipper.workers.replica_set import State


def _failed_batches(model: Model) -> Iterable[tuple[str, float]]:
    failed = model.dispatcher.stats.failed_batches
    return [(kind.value, times) for kind, times in failed.items()]


def _recycled(model: Model) -> Iterable[tuple[str, float]]:
    return model.replicas.statistics().recycled.items()


def _states(model: Model) -> Iterable[tuple[str, float]]:
    now = model.replicas.state
    return [(state.value, float(state is now)) for state in State]


def _fixed_seconds(model: Model) -> float:
    latency = model.dispatcher.controller.latency
    return latency.fixed if latency is not None and latency.known else nan


def _row_seconds(model: Model) -> float:
    latency = model.dispatcher.controller.latency
    return latency.per_row if latency is not None and latency.known else nan


def _capacity(model: Model) -> float:
    capacity = capacity_of(model)
    return nan if capacity is None else capacity


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
