"""``clipper explain``: why an application answers as it does."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

import click

from clipper.cli.common import (
    Target,
    json_option,
    print_json,
    print_table,
    server_options,
)

WIDEST = 100  # columns of text; longer lines are hard to read

BATCHES = (
    "MODEL", "CONTROLLER", "CAP", "MEAN", "A BATCH TAKES", "FULL BATCH", "CAPACITY",
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
    _print_sentences(found.get("sentences") or [])
    models = found.get("models") or []
    if models:
        _section("Batches")
        print_table(BATCHES, [_batching(model) for model in models], indent="  ")
        _section("Rows since the start")
        print_table(
            ("MODEL", "EVALUATED", *(title for _, title in SHED)),
            [_shed(model) for model in models],
            indent="  ",
        )
    _print_arms(found.get("choosing") or {})
    replicas = [(m, r) for m in models for r in m.get("replicas") or []]
    if len(replicas) > 1:
        _section("Replicas")
        print_table(
            ("MODEL", "REPLICA", "CAP", "A BATCH TAKES", "VS OTHERS", "NOW"),
            [_replica(model, replica) for model, replica in replicas],
            indent="  ",
        )


def _print_sentences(sentences: list[str]) -> None:
    width = min(WIDEST, shutil.get_terminal_size().columns)
    for number, sentence in enumerate(sentences):
        text = textwrap.fill(
            sentence, width, initial_indent="• ", subsequent_indent="  ",
            break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
        click.secho(text, bold=number == 0)


def _print_arms(choosing: dict[str, Any]) -> None:
    """The candidates, where there is a choice; columns that say nothing are left out."""
    arms = choosing.get("arms") or []
    if len(arms) < 2:
        return
    columns: list[tuple[str, list[object]]] = [
        ("ARM", [arm.get("model") for arm in arms]),
        ("WEIGHT", [_percent(arm.get("weight")) for arm in arms]),
        ("FEEDBACK", [arm.get("feedback") for arm in arms]),
        ("MEAN LOSS", [_loss(arm.get("mean_loss")) for arm in arms]),
    ]
    guards, shadows = (
        [arm.get(kind) or {} for arm in arms] for kind in ("guard", "shadow")
    )
    said = [
        ("TOO LATE", [arm.get("missing") or None for arm in arms]),
        ("QUERIES", [guard.get("queries") for guard in guards]),
        ("FAILED", [guard.get("failures") for guard in guards]),
        ("P95", [_ms(guard.get("p95_ms")) for guard in guards]),
        ("AGREES", [_percent(shadow.get("agreement")) for shadow in shadows]),
        ("COMPARED", [shadow.get("compared") for shadow in shadows]),
        ("SHADOW FAILED", [shadow.get("failed") for shadow in shadows]),
        ("SHADOW P95", [_ms(shadow.get("p95_ms")) for shadow in shadows]),
        ("TAKEN OUT", ["yes" if arm.get("halted") else None for arm in arms]),
    ]
    columns += [
        (title, cells) for title, cells in said if any(c is not None for c in cells)
    ]
    _section(f"Arms of {choosing.get('policy')}")
    titles = [title for title, _ in columns]
    rows = zip(*(cells for _, cells in columns), strict=True)
    print_table(titles, rows, indent="  ")


def _section(title: str) -> None:
    click.echo()
    click.secho(title, bold=True)


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
    fixed, per_row = fit.get("fixed_ms", 0.0), fit.get("per_row_us", 0.0)
    return f"{fixed:.3g} ms + {per_row:.3g} µs/row"


def _rows(value: Any) -> str | None:
    return f"{value:g}" if isinstance(value, (int, float)) else None


def _full(taken: Any, allowed: Any) -> str | None:
    if not isinstance(taken, (int, float)) or not isinstance(allowed, (int, float)):
        return None
    return f"{taken:.3g} of {allowed:.3g} ms"


def _times(value: Any) -> str | None:
    return f"{value:.3g}x" if isinstance(value, (int, float)) else None


def _percent(value: Any) -> str | None:
    return f"{100 * value:.1f} %" if isinstance(value, (int, float)) else None


def _loss(value: Any) -> str | None:
    return f"{value:.4f}" if isinstance(value, (int, float)) else None


def _ms(value: Any) -> str | None:
    if not isinstance(value, (int, float)):
        return None
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1e3:.3g} s"


def _per_second(value: Any) -> str | None:
    return f"{value:,.0f}/s" if isinstance(value, (int, float)) else None
