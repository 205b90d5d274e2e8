"""The command that queries an application."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from clipper.cli.common import (
    Target,
    compact_json,
    json_option,
    parse_json,
    print_json,
    server_options,
)


def parse_uid(text: str) -> int | str:
    """A user: a number, or any other text."""
    return int(text) if re.fullmatch(r"-?\d+", text, re.ASCII) else text


@click.command()
@click.argument("app")
@click.argument("input", type=parse_json, metavar="JSON")
@click.option("--uid", type=parse_uid, metavar="UID", help="Whose query it is.")
@click.option(
    "--context",
    type=parse_json,
    metavar="JSON",
    help="Features for a contextual policy.",
)
@click.option("--version", help="One version of the model.")
@click.option("--deadline-ms", type=click.FloatRange(min=0, min_open=True), metavar="MS")
@click.option("--no-cache", is_flag=True, help="Ask the model anew.")
@json_option
@server_options
def predict(
    target: Target,
    app: str,
    input: Any,
    uid: int | str | None,
    context: Any,
    version: str | None,
    deadline_ms: float | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Query an application.

    \b
    clipper predict hello_world '[1.1, 2.2, 3.3]'

    JSON is one input; - reads it from standard input. Prints the output as JSON; on a
    terminal also the query id.
    """
    answer = target.run(
        lambda clipper: clipper.predict(
            app,
            input,
            uid=uid,
            context=context,
            version=version,
            deadline_ms=deadline_ms,
            cache=not no_cache,
        )
    )
    if as_json:
        print_json(_as_dict(answer))
        return
    click.echo(compact_json(answer.output))
    if answer.default:
        explanation = f"default output: {answer.default_explanation}"
        click.secho(explanation, fg="yellow", err=True)
    if answer.confidence is not None:
        click.secho(f"confidence {answer.confidence:.2f}", dim=True, err=True)
    if answer.missing:
        late = f"without {', '.join(answer.missing)}, too late"
        click.secho(late, fg="yellow", err=True)
    if sys.stdout.isatty():
        if answer.model is not None:
            click.secho(f"answered by {answer.model}", dim=True, err=True)
        click.secho(f"query id {answer.query_id}", dim=True, err=True)


def _as_dict(answer: Any) -> dict[str, Any]:
    """The answer as it stood on the wire."""
    import dataclasses

    fields = dataclasses.asdict(answer)
    return {key: value for key, value in fields.items() if value not in (None, [])} | {
        "output": answer.output
    }
