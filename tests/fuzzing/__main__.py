"""`python -m tests.fuzzing`: each search for faults, for as long as one likes."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))


@click.group()
def main() -> None:
    """Look for faults that nobody thought of."""


@main.command()
@click.option("--minutes", default=20.0, show_default=True)
def api(minutes: float) -> None:
    """Requests made from the OpenAPI documents of a running server."""
    from fuzzing.api import run_for

    with tempfile.TemporaryDirectory() as directory:
        runs = asyncio.run(run_for(Path(directory), minutes))
    for run in runs:
        click.echo(str(run) if run.code else f"{run.name} port, seed {run.seed}: nothing")
    found = sum(run.code != 0 for run in runs)
    click.echo(f"{len(runs)} runs, {found} with findings")
    sys.exit(found > 0)


@main.command()
@click.option("--steps", default=10_000, show_default=True)
def machine(steps: int) -> None:
    """Operations on a server and on a model of it."""
    from fuzzing.machine import run

    run(examples=max(1, steps // 100), steps=min(steps, 100))
    click.echo(f"{steps} steps, and the server is as the model")


@main.command(name="bytes")
@click.argument("target")
@click.option("--seconds", default=600, show_default=True)
def search_bytes(target: str, seconds: int) -> None:
    """Bytes at one of the decoders."""
    from fuzzing.bytes import search

    search(target, seconds)


@main.command()
@click.argument("group")
@click.option("--folder", type=click.Path(path_type=Path), help="Kept, to go on later.")
@click.option("--only", multiple=True, help="Names of mutants, to run them again.")
@click.option("--children", default=1, show_default=True, help="Mutants at once.")
def mutants(group: str, folder: Path | None, only: tuple[str, ...], children: int) -> None:
    """Which small changes of the modules of a group its tests notice."""
    from fuzzing.mutants import GROUPS, prepare, run, scores, table

    if group not in GROUPS:
        raise click.BadParameter(f"one of {', '.join(GROUPS)}")
    place = folder or Path(tempfile.mkdtemp(prefix="mutants-"))
    prepare(group, place)
    code = run(place, only, children)
    click.echo(table(list(scores(place))))
    click.echo(f"in {place}: python -m mutmut show NAME")
    sys.exit(code)


main()
