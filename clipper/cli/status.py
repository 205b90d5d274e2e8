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
    if found.get("damaged"):
        _print_damaged(found["damaged"])


def _print_damaged(found: list[dict[str, Any]]) -> None:
    click.echo()
    click.secho("Damaged records", bold=True, fg="red")
    for one in found:
        click.echo(f"  {one['kind']} {one['name']}: {one['reason']}")
    click.echo("  Restore the data directory from a backup, or delete them, which is")
    click.echo("  `clipper undeploy` or `clipper apps delete`, or deploy them again.")


def _print_server(url: str, server: dict[str, Any]) -> None:
    version = f" {server['version']}" if "version" in server else ""
    state = click.style("draining", fg="yellow") if server.get("draining") else "running"
    click.echo(f"{click.style(f'Clipper{version}', bold=True)} is {state} at {url}")
    uptime, cache = server.get("uptime_seconds"), server.get("cache")
    if isinstance(uptime, (int, float)):
        click.echo(f"  up for {_duration(uptime)}")
    if isinstance(cache, dict):
        click.echo(f"  cache: {_cache(cache)}")


def _cache(cache: dict[str, Any]) -> str:
    saved = cache.get("hits", 0) + cache.get("joins", 0)
    asked = saved + cache.get("misses", 0)
    share = f", {100 * saved / asked:.0f} % of {asked} rows found in it" if asked else ""
    return f"{cache.get('entries', 0)} outputs{share}"


def _print_applications(found: list[dict[str, Any]]) -> None:
    print_table(
        ("APPLICATION", "INPUT", "SLO", "P50", "P99", "ANSWERED", "FAILED", "MODELS"),
        [
            (
                app["name"],
                app.get("input_type"),
                milliseconds(app.get("latency_slo_micros")),
                _latency(app.get("p50_ms")),
                _latency(app.get("p99_ms")),
                app.get("predictions"),
                app.get("failures"),
                _models(app),
            )
            for app in sorted(found, key=lambda app: str(app["name"]))
        ],
        indent="  ",
    )


def _latency(ms: Any) -> str | None:
    return f"{ms:.1f} ms" if isinstance(ms, (int, float)) else None


def _models(app: dict[str, Any]) -> str:
    """Its models, and how it chooses where there is a choice."""
    names = ", ".join(app.get("models") or ())
    policy = app.get("policy")
    return f"{names} ({policy})" if policy not in (None, "static") else names


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{days:.1f} days"
