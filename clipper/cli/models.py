"""Commands for models: deploy, list, scale, roll back, take down, read their output."""

from __future__ import annotations

import re
from math import inf, nan
from typing import Any

import click

from clipper.cli.common import (
    ModelSpec,
    Target,
    done,
    json_option,
    parse_json,
    parse_model,
    print_json,
    print_table,
    server_options,
)

_REASON_WIDTH = 60  # of the column that says why a version does not answer
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}

# As in clipper.batching.registry, which would bring numpy along; a test holds them
# together. The server may know more, and says so if it does not.
_CONTROLLERS = "aimd, goodput, quantile, fixed, none"


def parse_bytes(text: str) -> int:
    """A number of bytes, as 512M or 2G."""
    found = re.fullmatch(r"(\d+)([KMG]?)B?", text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; say 512M or 2G")
    return int(found[1]) * _UNITS[found[2]]


def parse_wait(text: str) -> float | str:
    """Milliseconds that a batch may wait, or `auto`."""
    if text == "auto":
        return text
    try:
        wait = float(text)
    except ValueError:
        wait = nan
    if not 0.0 <= wait < inf:
        raise click.BadParameter(f"{text!r} is neither auto nor milliseconds, 0 or more")
    return wait


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--name", help="Name of the model; the function's by default.")
@click.option("--version", default="1", show_default=True, help="Version of the model.")
@click.option("--input-type", default="doubles", show_default=True)
@click.option(
    "--replicas", type=click.IntRange(min=1), metavar="N", default=1, show_default=True
)
@click.option(
    "--example",
    type=parse_json,
    metavar="JSON",
    help="An input to answer before it goes live.",
)
@click.option(
    "--batching",
    default="aimd",
    show_default=True,
    metavar="CONTROLLER",
    help=f"What sizes the batches: {_CONTROLLERS}.",
)
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=1),
    metavar="ROWS",
    help="Bound of every controller; with fixed, the size itself.",
)
@click.option(
    "--batch-wait",
    type=parse_wait,
    metavar="auto|MS",
    default="auto",
    show_default=True,
    help="How long a batch may wait to become fuller.",
)
@click.option("--label", "labels", multiple=True, help="A label; several are allowed.")
@click.option(
    "--env", "environment", multiple=True, metavar="KEY=VALUE", help="For its workers."
)
@click.option(
    "--memory-limit",
    type=parse_bytes,
    metavar="SIZE",
    help="For each worker, as 512M or 2G.",
)
@click.option(
    "--spares",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Workers that stand by, to follow at once one that ends.",
)
@click.option(
    "--recycle-after",
    type=click.IntRange(min=1),
    metavar="BATCHES",
    help="Replace a worker after about so many batches.",
)
@click.option(
    "--recycle-memory",
    type=parse_bytes,
    metavar="SIZE",
    help="Replace a worker that has grown to so much memory.",
)
@click.option("--no-retry", is_flag=True, help="Never give it the same input twice.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@server_options
def deploy(
    target: Target,
    function: str,
    name: str | None,
    version: str,
    input_type: str,
    replicas: int,
    example: Any,
    batching: str,
    max_batch_size: int | None,
    batch_wait: float | str,
    labels: tuple[str, ...],
    environment: tuple[str, ...],
    memory_limit: int | None,
    spares: int,
    recycle_after: int | None,
    recycle_memory: int | None,
    no_retry: bool,
    quiet: bool,
) -> None:
    """Deploy a function, or an object with a predict method.

    MODULE may also be a file, as in models/digits.py:predict. The function gets a list
    of inputs and returns one output for each.
    """
    from clipper.cli.loading import load_function

    variables = _variables(environment)
    loaded = load_function(function)
    model = name or function.rpartition(":")[2].rpartition(".")[2]
    target.run(
        lambda clipper: clipper.deploy_predict_function(
            model,
            version,
            loaded,
            input_type,
            list(labels),
            num_replicas=replicas,
            batching={"controller": batching, "batch_wait": batch_wait},
            max_batch_size=max_batch_size,
            example=example,
            retry=not no_retry,
            environment=variables,
            memory_limit=memory_limit,
            spares=spares,
            recycle_after=recycle_after,
            recycle_memory=recycle_memory,
            progress=not quiet,
        )
    )


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if pair.partition("=")[1] == "":
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--env")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


@click.command()
@json_option
@server_options
def models(target: Target, as_json: bool) -> None:
    """List the model versions."""
    if as_json:
        print_json(target.run(lambda clipper: clipper.get_all_models(verbose=True)))
        return
    found = target.run(lambda clipper: clipper.status())["models"]
    if found:
        print_models(found)
    else:
        click.echo("No models yet. `clipper deploy MODULE:FUNCTION` puts one here.")


def print_models(found: list[dict[str, Any]], indent: str = "") -> None:
    """A table of the models of a status; the version that answers has a mark."""
    ordered = sorted(found, key=lambda model: str(model["model_name"]))
    headers = ["", "MODEL", "STATE", "REPLICAS", "BATCH CAP", "MEAN BATCH", "WAITING"]
    rows: list[tuple[object, ...]] = [_model_row(model) for model in ordered]
    if any(model.get("reason") for model in found):
        headers.append("WHY")
        rows = [(*row, _reason(model)) for row, model in zip(rows, ordered, strict=True)]
    print_table(headers, rows, indent=indent)


def _model_row(model: dict[str, Any]) -> tuple[object, ...]:
    replicas, mean = model.get("replicas") or {}, model.get("mean_batch_rows")
    return (
        click.style("●", fg="green") if model.get("current") else " ",
        f"{model['model_name']}:{model['model_version']}",
        _state(str(model.get("state", "")).lower()),
        _replica_count(replicas),
        model.get("batch_cap"),
        f"{mean:.1f}" if isinstance(mean, (int, float)) else None,
        model.get("queue_rows"),
    )


def _replica_count(replicas: dict[str, Any]) -> str:
    text = f"{replicas.get('live', '?')} of {replicas.get('target', '?')}"
    spares = replicas.get("spares")
    return f"{text}, {spares} spare" if replicas.get("spares_target") else text


def _reason(model: dict[str, Any]) -> str:
    lines = str(model.get("reason") or " ").splitlines()
    return lines[0][:_REASON_WIDTH]


def _state(state: str) -> str:
    return click.style(state, fg="red") if "fail" in state else state


@click.command()
@json_option
@server_options
def replicas(target: Target, as_json: bool) -> None:
    """List the worker processes."""
    found = target.run(lambda clipper: clipper.get_all_model_replicas(verbose=True))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("MODEL", "REPLICA", "INPUT"),
            [(r["model_id"], r["model_replica_id"], r["input_type"]) for r in found],
        )
    else:
        click.echo("No replicas run.")


@click.command()
@click.argument("model", type=parse_model, metavar="MODEL[:VERSION]")
@click.argument("count", type=click.IntRange(min=0), metavar="REPLICAS")
@server_options
def scale(target: Target, model: ModelSpec, count: int) -> None:
    """Run so many worker processes of MODEL[:VERSION]."""
    target.run(lambda clipper: clipper.set_num_replicas(model.name, count, model.version))
    done(f"{model} runs {count} replica{'' if count == 1 else 's'}")


@click.command()
@click.argument("model", type=parse_model)
@click.argument("version", required=False)
@server_options
def rollback(target: Target, model: ModelSpec, version: str | None) -> None:
    """Go back to the version before, or to VERSION."""
    to = model.at(version)

    async def work(clipper: Any) -> str:
        if to.version is None:
            return str(await clipper.rollback(to.name))
        await clipper.set_model_version(to.name, to.version)
        return to.version

    done(f"{to.name}:{target.run(work)} answers now")


@click.command()
@click.argument("model", type=parse_model)
@click.argument("version", required=False)
@server_options
def undeploy(target: Target, model: ModelSpec, version: str | None) -> None:
    """Remove a version and end its workers."""
    gone = model.at(version).need_version()
    target.run(lambda clipper: clipper.undeploy(model.name, gone))
    done(f"{model.name}:{gone} is removed")


@click.command()
@click.argument("model", type=parse_model)
@click.argument("version", required=False)
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the last so many lines.",
)
@server_options
def logs(target: Target, model: ModelSpec, version: str | None, lines: int | None) -> None:
    """Show what the workers of a model have printed."""
    shown = model.at(version)
    text = target.run(lambda clipper: clipper.logs(shown.name, shown.version))
    if lines is not None:
        text = "".join(text.splitlines(keepends=True)[-lines:])
    click.echo(text, nl=bool(text) and not text.endswith("\n"))
