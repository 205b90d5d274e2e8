"""``clipper status``: the server at a glance."""

from __future__ import annotations

from typing import Any

import click

from clipper.cli.common import (
    Target,
    json_option,
    milliseconds,
    print_json,
    print_table,
    server_options,
)
from clipper.cli.models import print_models


@click.command()
@json_option
@server_options
def status(target: Target, as_json: bool) -> None:
    """Show the server, its applications and its models."""

    async def work(clipper: Any) -> tuple[str, dict[str, Any]]:
        return clipper.query_url, await clipper.status()

    url, found = target.run(work)
    if as_json:
        print_json(found)
        return
    _print_server(url, found.get("server") or {})
    for title in ("applications", "models"):
        click.echo()
        click.secho(title.capitalize(), bold=True)
        if not found.get(title):
            click.echo("  none")
        elif title == "models":
            print_models(found[title], indent="  ")
        else:
            _print_applications(found[title])


def _print_server(url: str, server: dict[str, Any]) -> None:
    state = str(server.get("status") or server.get("state") or "running")
    version = f" {server['version']}" if "version" in server else ""
    click.echo(f"{click.style(f'Clipper{version}', bold=True)} is {state} at {url}")
    uptime = server.get("uptime_seconds")
    if isinstance(uptime, (int, float)):
        click.echo(f"  up {_duration(uptime)}")


def _print_applications(found: list[dict[str, Any]]) -> None:
    print_table(
        ("APPLICATION", "INPUT", "SLO", "POLICY", "MODELS"),
        [
            (
                app["name"],
                app.get("input_type"),
                milliseconds(app.get("latency_slo_micros", app.get("slo_micros"))),
                _policy(app.get("policy")),
                app.get("linked_models", app.get("models")),
            )
            for app in sorted(found, key=lambda app: str(app["name"]))
        ],
        indent="  ",
    )


def _policy(policy: Any) -> object:
    return policy.get("name") if isinstance(policy, dict) else policy


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{days:.1f} days"
