"""What is published of each application. Rows are counted, not requests."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan

from clipper.application import Application
from clipper.explanation.arms import weights_of
from clipper.frontend.series import COUNTER, GAUGE, Number, Series, Spread, Tally
from clipper.selection.policy import model_of

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


def _failures(application: Application) -> Iterable[tuple[str, float]]:
    counted = dict(application.stats.failures.most_common(MAX_CODES))
    return {**dict.fromkeys(FAILURE_CODES, 0), **counted}.items()


def _attainment(application: Application) -> float:
    share = application.recent().attainment
    return 1.0 if share is None else share


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
