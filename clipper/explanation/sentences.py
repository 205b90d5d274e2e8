"""What the numbers of an explanation mean, for who runs the server.

Each sentence is true by the numbers it is made of, and advice is given only where they
carry it.
"""

from __future__ import annotations

from math import ceil

from msgspec.structs import astuple

from clipper.explanation.choice import choice_sentences, trouble
from clipper.explanation.facts import Facts, Failure, ModelFacts, Overload
from clipper.explanation.speed import SLOW, may_grow, speed_sentences, too_slow
from clipper.explanation.words import count, duration, percent, rate, seconds, sentence

# Why a row was not answered by a model, by its code.
MEANINGS = {
    "cancelled": "nobody waited for them any more",
    "deadline_exceeded": "no model answered before their deadline",
    "invalid_output": "the model returned what cannot be sent as JSON",
    "model_crashed": "the worker process died while it had them",
    "model_failed": "the model raised an exception or returned too few or too many outputs",
    "model_hung": "the model hung and its worker was stopped",
    "no_model": "no replica of a linked model was there to answer",
    "overloaded": "they could not be answered in time",
    "unavailable": "the model was on its way out of service",
}
UNNAMED = "the model failed on them"

ROOM = 0.9  # of its capacity that a replica is planned for
NOTEWORTHY = 0.01  # of the rows: overload that wants a reason

SILENT_STATES = ("failed", "stopped", "starting")


def sentences(facts: Facts) -> list[str]:
    """The most important first."""
    current = [model for model in facts.models if model.current]
    lines = _models_missing(facts)
    for model in current:
        lines += _state(model)
    lines += trouble(facts)
    lines += _attainment(facts)
    lines += _failures(facts)
    lines += _latency(facts)
    lines += choice_sentences(facts)
    asked = [model for model in facts.models if _matters(model, facts)]
    overloads = {model.model: _overload(model, facts) for model in asked}
    lines += [line for said in overloads.values() for line in said]
    for model in asked:
        lines += _replicas(model)
        lines += speed_sentences(model, rate_said=bool(overloads[model.model]))
        lines += _losses(model)
    return lines + _cache(facts)


def _matters(model: ModelFacts, facts: Facts) -> bool:
    """Whether the application's answers depend on how this version does."""
    if not model.current:
        return model.recent is not None and model.recent.offered_rows_per_second > 0.0
    if model.state in SILENT_STATES:
        return False  # all that counts of it was said
    # of several models a policy may ask one alone
    return model.batches > 0 or not any(other.batches for other in facts.models)


# -- who could answer --------------------------------------------------------------------


def _models_missing(facts: Facts) -> list[str]:
    app = facts.application
    if not facts.linked:
        return [f"No model is linked to {app}: `clipper link {app} MODEL` links one."]
    there = {model.model.partition(":")[0] for model in facts.models if model.current}
    return [
        f"{name} is linked but has no current version: `clipper deploy` makes one."
        for name in facts.linked
        if name not in there
    ]


def _state(model: ModelFacts) -> list[str]:
    name, ready, wanted = model.model, model.replicas_ready, model.replicas_wanted
    why = sentence(model.reason)
    because = f": {why}" if why else ""
    if model.state == "failed":
        logs = f"`clipper logs {name}` shows what its workers printed."
        return [f"{name} does not answer, it has failed{because}. {logs}"]
    if model.state == "stopped":
        return [f"{name} does not answer{because}."]
    if model.state == "starting":
        return [f"{name} does not answer yet, it is starting{because}."]
    if ready < wanted:
        return [f"Only {ready} of {count(wanted, 'replica')} of {name} answer{because}."]
    return []


# -- what became of the rows -------------------------------------------------------------


def _attainment(facts: Facts) -> list[str]:
    found, objective = facts.attainment, duration(facts.slo_ms)
    if not found.rows:
        return [f"Nothing has been asked of {facts.application} yet."]
    when = f"in the last {seconds(found.recent_seconds)}"
    if found.recent is not None:
        return [_share(found.recent, found.recent_rows, when, objective)]
    assert found.since_start is not None
    ever = _share(found.since_start, found.rows, "since the start", objective)
    return [f"Nothing was asked {when}.", ever]


def _share(share: float, rows: int, when: str, objective: str) -> str:
    if rows == 1:
        start = f"The only row {when} was" + ("" if share else " not")
    elif share == 1.0:
        start = f"All {rows:,} rows {when} were"
    elif share == 0.0:
        start = f"None of {rows:,} rows {when} was"
    else:
        start = f"{percent(share).capitalize()} of {rows:,} rows {when} were"
    return f"{start} answered by a model within the {objective} objective."


def _failures(facts: Facts) -> list[str]:
    """Of the rows that the sentence before is about."""
    lately = facts.attainment.recent is not None
    total = facts.attainment.recent_rows if lately else facts.attainment.rows
    counted = [
        (failure.recent_rows if lately else failure.rows, code, failure)
        for code, failure in facts.failures.items()
    ]
    lines = []
    for rows, code, failure in sorted(counted, key=lambda found: (-found[0], found[1])):
        if rows:
            detail = _overloads(facts.recent_overload) if code == "overloaded" else ""
            lines.append(_failed(rows, total, failure) + (detail if lately else "") + ".")
    return lines


def _failed(rows: int, total: int, failure: Failure) -> str:
    got = "the default output" if failure.answer == "default" else "an error"
    if rows == total:
        who = "It" if rows == 1 else "All"
    else:
        who = f"{percent(rows / total).capitalize()} ({count(rows)})"
    return f"{who} got {got} because {failure.meaning}"


def _overloads(overload: Overload) -> str:
    ways = [
        (overload.refused, "refused on arrival"),
        (overload.shed, "given up in the queue"),
        (overload.queue_full, "turned away by a full queue"),
    ]
    said = [f"{rows:,} {way}" for rows, way in ways if rows]
    return ": " + ", ".join(said) if said else ""


def _latency(facts: Facts) -> list[str]:
    latency = facts.latency
    if latency.recent_p50_ms is None or latency.recent_p99_ms is None:
        return []
    half, most = duration(latency.recent_p50_ms), duration(latency.recent_p99_ms)
    whatever = "" if facts.attainment.recent == 1.0 else ", default outputs and errors too,"
    return [f"Half of the answers{whatever} took at most {half}, 99 % at most {most}."]


def _cache(facts: Facts) -> list[str]:
    cache = facts.cache
    if not facts.models or not cache.enabled or cache.share is None:
        return []
    return [
        f"The cache spared {percent(cache.share)} of {count(cache.rows)} an evaluation, "
        "all applications since the start."
    ]


# -- what a model had to do --------------------------------------------------------------


def _overload(model: ModelFacts, facts: Facts) -> list[str]:
    load, capacity = model.recent, model.capacity_rows_per_second
    if load is None or not capacity or not model.replicas_ready or too_slow(model):
        return []
    name, replicas = model.model, count(model.replicas_ready, "replica")
    offered = load.offered_rows_per_second
    if offered > capacity:
        start = f"{name} was asked for {rate(offered)} and can do about {rate(capacity)}"
        if may_grow(model):
            return [f"{start} with {replicas} so far; its batches may still grow."]
        needed = ceil(offered / (ROOM * capacity / model.replicas_ready))
        return [
            f"{start} with {replicas}: {needed} would do if there are processor cores for "
            f"them (`clipper scale {name} {needed}`)."
        ]
    lost = sum(astuple(facts.recent_overload))
    if not lost or lost < NOTEWORTHY * facts.attainment.recent_rows:
        return []
    return [
        f"{name} was asked for {rate(offered)} on average and can do about "
        f"{rate(capacity)} with {replicas}: the rows came in bursts, or its batches took "
        "longer for a while."
    ]


def _replicas(model: ModelFacts) -> list[str]:
    return [
        f"Replica {replica.replica} of {model.model} takes {replica.times_as_long:.3g} "
        "times as long as the others for the same batch; it gets less to do."
        for replica in model.replicas
        if replica.times_as_long is not None and replica.times_as_long >= SLOW
    ]


def _losses(model: ModelFacts) -> list[str]:
    """What happened in the queue and with replicas, where it happened lately."""
    name, lost, lines = model.model, model.recent_shed, []
    if model.queue_rows and model.queue_ms is not None:
        through = duration(model.queue_ms)
        lines.append(
            f"{count(model.queue_rows)} waiting for {name} now would take {through}."
        )
    if lost.expired_rows:
        lines.append(
            f"{count(lost.expired_rows)} ran out of time in the queue of {name} before a "
            "replica was free."
        )
    if lost.abandoned_rows:
        lines.append(
            f"{count(lost.abandoned_rows)} left the queue of {name} unevaluated because "
            "nobody waited any more: the deadline was over, or the client gone."
        )
    if lost.failed_batches:
        lines.append(
            f"{count(lost.failed_batches, 'batch')} of {name} failed; "
            f"`clipper logs {name}` may say why."
        )
    if lost.hedged_rows:
        lines.append(
            f"{count(lost.hedged_rows)} went to a second replica of {name} as well, "
            "because the first was late."
        )
    return lines
