"""``clipper explain``: why an application answers as it does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import click

from clipper.cli.common import (
    Target,
    json_option,
    loss,
    print_json,
    print_table,
    print_wrapped,
    server_options,
    share,
    terminal_width,
)
from clipper.explanation.words import duration

BATCHES = (
    "MODEL", "CONTROLLER", "CAP", "MEAN", "BATCH TAKES", "FULL BATCH", "CAPACITY",
    "WAITING",
)  # fmt: skip

# Counters of a model version, and what they are called over a column.
SHED = (
    ("refused_rows", "REFUSED"),
    ("shed_rows", "GIVEN UP"),
    ("expired_rows", "EXPIRED"),
    ("abandoned_rows", "ABANDONED"),
    ("hedged_rows", "HEDGED"),
    ("retried_rows", "RETRIED"),
)


@click.command()
@click.argument("app")
@json_option
@server_options
def explain(target: Target, app: str, as_json: bool) -> None:
    """Say how an application does, and why.

    Batch sizes and the speeds they follow from, what was answered in time, what was
    given up, and what would help.
    """

    async def work(clipper: Any) -> dict[str, Any]:
        found: dict[str, Any] = await clipper.explain(app)
        return found

    found = target.run(work)
    if as_json:
        print_json(found)
        return
    for number, sentence in enumerate(found.get("sentences") or []):
        print_wrapped(sentence, first="• ", indent="  ", bold=number == 0)
    models = found.get("models") or []
    _print_arms(found.get("choosing") or {})
    if models:
        _section("Batches", BATCHES, [_batching(model) for model in models])
        titles = ("MODEL", "EVALUATED", *(title for _, title in SHED))
        rows = [_shed(model) for model in models]
        _section("Rows since the start, of all applications", titles, rows)
    replicas = [
        _replica(model, replica)
        for model in models
        if len(model.get("replicas") or []) > 1
        for replica in model["replicas"]
    ]
    if replicas:
        titles = ("MODEL", "REPLICA", "CAP", "BATCH TAKES", "VS OTHERS", "NOW")
        _section("Replicas", titles, replicas)


def _print_arms(choosing: dict[str, Any]) -> None:
    """The candidates, where there is a choice; columns that say nothing are left out."""
    arms = choosing.get("arms") or []
    if len(arms) < 2:
        return
    columns: dict[str, list[object]] = {
        "ARM": [arm.get("model") for arm in arms],
        "WEIGHT": [share(arm.get("weight")) for arm in arms],
        "FEEDBACK": [arm.get("feedback") for arm in arms],
        "MEAN LOSS": [loss(arm.get("mean_loss")) for arm in arms],
    }
    # a canary's arms are guarded, a shadow's are compared
    watched = [arm.get("guard") or arm.get("shadow") or {} for arm in arms]
    columns |= {
        "TOO LATE": [arm.get("missing") for arm in arms],
        "QUERIES": [each.get("queries") for each in watched],
        "AGREES": [share(each.get("agreement")) for each in watched],
        "COMPARED": [each.get("compared") for each in watched],
        "FAILED": [each.get("failures", each.get("failed")) for each in watched],
        "P95": [_ms(each.get("p95_ms")) for each in watched],
        "TAKEN OUT": ["yes" if arm.get("halted") else None for arm in arms],
    }
    _section(
        f"Arms of {choosing.get('policy')}",
        list(columns),
        list(zip(*columns.values(), strict=True)),
    )


def _section(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table under its title, as wide as the terminal. Columns behind the second that
    say nothing, or nothing but 0, are left out."""
    telling = [
        index < 2 or any(row[index] not in (None, 0) for row in rows)
        for index in range(len(heads))
    ]
    click.echo()
    click.secho(title, bold=True)
    print_table(
        list(compress(heads, telling)),
        [list(compress(row, telling)) for row in rows],
        indent="  ",
        width=terminal_width(),
    )


def _batching(model: dict[str, Any]) -> tuple[object, ...]:
    return (
        _name(model),
        model.get("controller"),
        _rows(model.get("cap_rows")),
        _rows(model.get("mean_batch_rows")),
        _line(model.get("fitted")),
        _full(model.get("full_batch_ms"), model.get("objective_ms")),
        _per_second(model.get("capacity_rows_per_second")),
        model.get("queue_rows"),
    )


def _shed(model: dict[str, Any]) -> tuple[object, ...]:
    shed = model.get("shed") or {}
    return (_name(model), model.get("rows"), *(shed.get(field) for field, _ in SHED))


def _replica(model: dict[str, Any], replica: dict[str, Any]) -> tuple[object, ...]:
    return (
        _name(model),
        replica.get("replica"),
        _rows(replica.get("cap_rows")),
        _line(replica.get("fitted")),
        _times(replica.get("times_as_long")),
        "busy" if replica.get("busy") else "idle",
    )


def _name(model: dict[str, Any]) -> str:
    return f"{'● ' if model.get('current') else '  '}{model.get('model')}"


def _line(fit: dict[str, Any] | None) -> str | None:
    if not fit:
        return None
    fixed, per_row = _ms(fit.get("fixed_ms", 0.0)), fit.get("per_row_us")
    return f"{fixed} + {_ms(per_row / 1e3)}/row" if per_row else fixed


def _rows(value: Any) -> str | None:
    return f"{value:g}" if isinstance(value, (int, float)) else None


def _full(taken: Any, allowed: Any) -> str | None:
    if not isinstance(taken, (int, float)) or not isinstance(allowed, (int, float)):
        return None
    return f"{taken:.3g} of {allowed:.3g} ms"


def _times(value: Any) -> str | None:
    return f"{value:.3g}x" if isinstance(value, (int, float)) else None


def _ms(value: Any) -> str | None:
    return duration(value) if isinstance(value, (int, float)) else None


def _per_second(value: Any) -> str | None:
    return f"{value:,.0f}/s" if isinstance(value, (int, float)) else None
