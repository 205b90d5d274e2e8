"""Sentences on how fast a model is, and on the size of its batches that follows."""

from __future__ import annotations

from clipper.explanation.facts import Fit, ModelFacts
from clipper.explanation.words import count, duration, percent, rate

COLD = 20  # batches before the figures are worth much
NEAR = 0.85  # of the objective: a full batch has what there is
OVER = 1.05  # of the objective: a full batch takes too long
LARGER = 1.15  # times the cap: there is more to be had
SLOW = 1.5  # times what its siblings take: a replica worth a word
GAIN = 1.3  # times the rate: worth another controller
SPREAD = 0.1  # of the objective: worth a word
BUSY = 0.7  # of the time: what larger batches would give begins to matter
MOST = 4096  # rows; no controller goes further by itself

LEARNERS = ("aimd", "goodput", "quantile")


def speed_sentences(model: ModelFacts, *, rate_said: bool) -> list[str]:
    """`rate_said`: how many rows it can do was said already."""
    fit = model.fitted
    if fit is None:
        return [_unknown(model)]
    if too_slow(model):
        return [_hopeless(model, fit)]
    lines = [_batches(model, fit)]
    lines += _limit(model, fit)
    lines += _spread(model, fit)
    lines += [] if rate_said else _rates(model)
    lines += _load(model)
    lines += _other_controller(model, fit)
    if fit.batches < COLD:
        lines.append(
            f"Only {count(fit.batches, 'batch')} of {model.model} went into this yet; "
            "the figures will settle."
        )
    return lines


def too_slow(model: ModelFacts) -> bool:
    """Whether one row alone takes longer than a batch may."""
    return model.fitted is not None and model.fitted.ms(1) > model.objective_ms


def may_grow(model: ModelFacts) -> bool:
    """Whether its controller would go on to clearly larger batches if more rows came."""
    fit = model.fitted
    if fit is None or model.controller not in LEARNERS:
        return False
    untried = fit.largest_rows < 2 and model.bound_rows > 1
    return model.cap_rows < model.bound_rows and (
        untried or _fitting(model, fit) >= LARGER * model.cap_rows
    )


def _fitting(model: ModelFacts, fit: Fit) -> int:
    """The rows of a batch that would nearly always be within the objective."""
    allowed = min(NEAR * model.objective_ms, model.objective_ms - fit.spread_p95_ms)
    return int(min(MOST, fit.rows_within(allowed)))


def _unknown(model: ModelFacts) -> str:
    if not model.batches:
        return f"{model.model} has answered no batch yet: nothing is known of its speed."
    return (
        f"{model.model} runs batches of at most {count(model.cap_rows)}; its controller, "
        f"{model.controller}, keeps no record of how long they take."
    )


def _hopeless(model: ModelFacts, fit: Fit) -> str:
    return (
        f"One row alone takes {model.model} {duration(fit.ms(1))}, longer than the "
        f"{duration(model.objective_ms)} that a batch may take: no batch size can meet the "
        "objective. Raise the objective or make the model faster."
    )


def _batches(model: ModelFacts, fit: Fit) -> str:
    if model.bound_rows == 1:
        return (
            f"{model.model} evaluates each row alone: that takes {duration(fit.ms(1))} of "
            f"the {duration(model.objective_ms)} that a batch may take."
        )
    if fit.per_row_us > 0.0:
        line = f"{duration(fit.fixed_ms)} + {duration(fit.per_row_us / 1e3)} per row"
    elif fit.largest_rows > 1:
        line = f"{duration(fit.fixed_ms)}, whatever its size"
    else:
        line = f"{duration(fit.fixed_ms)} with one row, and no larger one came yet"
    full = ""
    if fit.largest_rows > 1:
        full = (
            f"; {count(model.cap_rows)} take {duration(fit.ms(model.cap_rows))} of the "
            f"{duration(model.objective_ms)} allowed"
        )
    return (
        f"{model.model} runs batches of at most {count(model.cap_rows)}: a batch takes "
        f"{line}{full}{_where(model)}."
    )


def _where(model: ModelFacts) -> str:
    """Whose speed it is, where the replicas differ."""
    slow = [r for r in model.replicas if r.times_as_long and r.times_as_long >= SLOW]
    return f", on replica {model.replicas[0].replica}" if slow else ""


def _limit(model: ModelFacts, fit: Fit) -> list[str]:
    """Why the cap is where it is, when that is not the objective."""
    cap, name = model.cap_rows, model.model
    if fit.ms(cap) > OVER * model.objective_ms:
        if model.controller in LEARNERS:
            return [f"The batches of {name} are too large now; the next will be smaller."]
        return [
            f"Full batches of {name} take longer than they may: lower max_batch_size, or "
            'deploy it with batching="aimd".'
        ]
    if fit.largest_rows < 2 or _fitting(model, fit) < LARGER * cap:
        return []
    if may_grow(model):
        return [f"More would fit; larger batches of {name} are tried when more rows wait."]
    if model.controller in LEARNERS and cap < MOST:
        return [f"More would fit, but max_batch_size is {cap:,}."]
    return []


def _spread(model: ModelFacts, fit: Fit) -> list[str]:
    if fit.spread_p95_ms < SPREAD * model.objective_ms:
        return []
    more = f"One in 20 takes at least {duration(fit.spread_p95_ms)} more than that"
    if fit.ms(1) + fit.spread_p95_ms > model.objective_ms:
        return [f"{more}: some of them are late whatever their size."]
    smaller = ", which keeps the batches smaller" if model.controller in LEARNERS else ""
    return [f"{more}{smaller}."]


def _rates(model: ModelFacts) -> list[str]:
    capacity = model.capacity_rows_per_second
    if not capacity:
        return []
    able = (
        f"With {count(model.replicas_ready, 'replica')} that makes about {rate(capacity)}"
    )
    if model.recent is None or not model.recent.offered_rows_per_second:
        return [f"{able}."]
    came = rate(model.recent.offered_rows_per_second)
    return [f"{able}; {came} came lately, on average."]


def _load(model: ModelFacts) -> list[str]:
    load = model.recent
    if load is None or load.mean_batch_rows is None:
        return []
    said = []
    if model.bound_rows > 1:
        mean = f"{load.mean_batch_rows:.3g}"
        said.append(f"its batches had {mean} {'row' if mean == '1' else 'rows'} on average")
    if load.busy_share is not None:
        who = "its replica was" if model.replicas_ready == 1 else "its replicas were"
        said.append(f"{who} busy {percent(load.busy_share)} of the time")
    line = ", and ".join(said)
    return [f"{line[0].upper()}{line[1:]}."] if line else []


def _other_controller(model: ModelFacts, fit: Fit) -> list[str]:
    load = model.recent
    if model.controller in LEARNERS or load is None:
        return []
    if fit.largest_rows < 2:
        if (load.busy_share or 0.0) < BUSY:
            return []
        return [
            f"{model.model} is busy {percent(load.busy_share or 0.0)} of the time with "
            "batches of one row; whether larger ones would be faster, "
            'batching="aimd" would find out.'
        ]
    fits = _fitting(model, fit)
    if fit.per_row_us <= 0.0 or fits <= model.cap_rows or fit.fixed_ms <= 0.0:
        return []
    gain = (fits / fit.ms(fits)) / (model.cap_rows / fit.ms(model.cap_rows))
    if gain < GAIN:
        return []
    return [
        f"By these figures batches of {count(fits)} would be in time too and do "
        f'{gain:.2g} times as many rows/s: deploy {model.model} with batching="aimd".'
    ]
