"""Commands for applications: list, register, link, unlink, delete."""

from __future__ import annotations

from typing import Any

import click

from clipper.cli.common import (
    Target,
    done,
    json_option,
    milliseconds,
    print_json,
    print_table,
    server_options,
)
from clipper.cli.learning import check_options, parse_option

# As in clipper.inputs, which would bring numpy along; a test holds them together.
_INPUT_TYPES = "ints, floats, doubles, strings, bytes, json"


@click.command()
@json_option
@server_options
def apps(target: Target, as_json: bool) -> None:
    """List the applications."""
    found = target.run(lambda clipper: clipper.get_all_apps(verbose=True))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("APPLICATION", "INPUT", "SLO", "DEFAULT", "MODELS"),
            [_row(app) for app in sorted(found, key=lambda app: str(app["name"]))],
        )
    else:
        click.echo("No applications yet. `clipper register NAME --model M` makes one.")


def _row(app: dict[str, Any]) -> tuple[object, ...]:
    return (
        app["name"],
        app["input_type"],
        milliseconds(app["latency_slo_micros"]),
        app.get("default_output"),
        app.get("linked_models"),
    )


@click.command()
@click.argument("app")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model to query; may be deployed later, and given several times.",
)
@click.option(
    "--input-type", default="doubles", show_default=True, help=f"One of {_INPUT_TYPES}."
)
@click.option(
    "--slo-ms",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Latency objective in milliseconds.",
)
@click.option(
    "--default",
    "default_output",
    help="Output where no model answers in time. Without one that is an error.",
)
@click.option(
    "--policy",
    default="static",
    show_default=True,
    help="How to choose among several models.",
)
@click.option(
    "--policy-option",
    "options",
    multiple=True,
    type=parse_option,
    callback=check_options,
    metavar="KEY=VALUE",
    help="An option of the policy; may be given several times.",
)
@click.option(
    "--loss",
    default="zero_one",
    show_default=True,
    help="How far an output is from a label: zero_one, absolute, absolute(SCALE), "
    "squared, squared(SCALE) or log.",
)
@click.option("--no-cache", is_flag=True, help="Ask the model for equal inputs anew.")
@click.option(
    "--cache-ttl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Ask the model anew after so long. Without it, when the answer was evicted.",
)
@click.option(
    "--raw-output", is_flag=True, help="Give strings as they are, JSON text or not."
)
@click.option(
    "--on-overload",
    type=click.Choice(["default", "reject"]),
    default="default",
    show_default=True,
    help="Under overload, give the default output or 503.",
)
@server_options
def register(
    target: Target,
    app: str,
    models: tuple[str, ...],
    input_type: str,
    slo_ms: float,
    default_output: str | None,
    policy: str,
    options: dict[str, Any],
    loss: str,
    no_cache: bool,
    cache_ttl: float | None,
    raw_output: bool,
    on_overload: str,
) -> None:
    """Register an application: an endpoint /APP/predict."""

    async def work(clipper: Any) -> str:
        await clipper.register_application(
            app,
            input_type=input_type,
            default_output=default_output,
            slo_micros=round(slo_ms * 1000),
            models=models,
            policy={"name": policy, "options": options} if options else policy,
            loss=loss,
            cache=not no_cache,
            cache_ttl_seconds=cache_ttl,
            parse_output=not raw_output,
            on_overload=on_overload,
        )
        return str(clipper.query_url)

    url = target.run(work)
    done(f"{app} answers at {url}/{app}/predict")


@click.command()
@click.argument("app")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@server_options
def link(target: Target, app: str, models: tuple[str, ...]) -> None:
    """Let an application query models too."""

    async def work(clipper: Any) -> None:
        for model in models:
            await clipper.link_model_to_app(app, model)

    target.run(work)
    done(f"{app} is linked to {', '.join(models)}")


@click.command()
@click.argument("app")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@server_options
def unlink(target: Target, app: str, models: tuple[str, ...]) -> None:
    """Let an application query models no longer."""

    async def work(clipper: Any) -> None:
        for model in models:
            await clipper.unlink_model_from_app(app, model)

    target.run(work)
    done(f"{app} is no longer linked to {', '.join(models)}")


@click.command()
@click.argument("app")
@server_options
def delete(target: Target, app: str) -> None:
    """Delete an application. Its models stay."""
    target.run(lambda clipper: clipper.unregister_application(app))
    done(f"{app} is deleted")
