"""Commands that run a server: serve, start, stop, restart, demo."""

from __future__ import annotations

import logging
import logging.handlers
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.common import (
    Target,
    admin_port_option,
    done,
    parse_port,
    port_option,
    server_options,
)
from clipper.errors import ConfigError
from clipper.logs import make_safe
from clipper.version import __version__

if TYPE_CHECKING:
    from clipper.server import Server

_LOG_BYTES = 4 * 1024 * 1024  # a log file is turned over at this size; one old one is kept


@click.command()
@click.option(
    "--config", "config_file", metavar="FILE", help="A clipper.toml; flags go over it."
)
@click.option("--host", help="Address for queries.  [127.0.0.1]")
@click.option("--port", type=parse_port, metavar="PORT", help="Query port.  [1337]")
@click.option("--admin-host", help="Address of the admin port.  [127.0.0.1]")
@click.option("--admin-port", type=parse_port, metavar="PORT", help="Admin port.  [1338]")
@click.option(
    "--data-dir", help="Where everything is kept.  [$CLIPPER_DATA_DIR, or in your home]"
)
@click.option("--ephemeral", is_flag=True, default=None, help="Keep nothing on disk.")
@click.option(
    "--recover", is_flag=True, default=None,
    help="Go on with what can be read of a damaged database, and keep the damaged one.",
)  # fmt: skip
@click.option(
    "--no-auth", is_flag=True, help="Ask for no token. Only for a server on loopback."
)
@click.option(
    "--require-token", is_flag=True, default=None, help="Ask for it on queries, too."
)
@click.option(
    "--allowed-hosts", metavar="NAMES", help="Host names to answer to, with commas."
)
@click.option(
    "--fd", "descriptors", metavar="N[,M]",
    help="Take listening sockets that were opened already: queries, admin.",
)  # fmt: skip
@click.option("--log-file", metavar="FILE", help="Log there and not to standard error.")
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
def serve(
    config_file: str | None,
    no_auth: bool,
    allowed_hosts: str | None,
    descriptors: str | None,
    log_file: str | None,
    verbose: bool,
    **flags: Any,
) -> None:
    """Run a server until Ctrl-C or SIGTERM. SIGUSR2 has a new process take over."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until it can be heard: it would end us

    from clipper.config import load_settings

    if no_auth:
        flags["auth"] = False
    if allowed_hosts is not None:
        flags["allowed_hosts"] = [name.strip() for name in allowed_hosts.split(",")]
    settings = load_settings(config_file, flags)
    _log_to(log_file, logging.DEBUG if verbose else logging.INFO)

    from clipper.serving import passed_sockets, run

    sys.exit(run(settings, _say_ready, passed_sockets(descriptors), _say_end))


def _say_ready(server: Server) -> None:
    from clipper.runtime import base_url

    settings = server.settings
    click.secho(f"Clipper {__version__} is running", bold=True)
    click.echo(f"  queries  {base_url(settings.host, server.port)}")
    click.echo(f"  admin    {base_url(settings.admin_host, server.admin_port)}")
    kept = server.data_dir or "nowhere: all is forgotten at the end (--ephemeral)"
    click.echo(f"  data     {kept}")
    if not settings.auth:
        click.secho(
            "  Every user of this machine can deploy code here (--no-auth).",
            fg="yellow",
        )
    if sys.stdin.isatty():
        click.secho("Ctrl-C ends it.", dim=True)
    sys.stdout.flush()


def _say_end(followed_by: int | None) -> None:
    if followed_by is None:
        click.echo("Clipper has stopped.")
    else:
        click.echo(f"Process {followed_by} serves now.")


def _log_to(log_file: str | None, level: int) -> None:
    handler: logging.Handler
    if log_file is None:
        handler = logging.StreamHandler()
    else:
        try:
            handler = logging.handlers.RotatingFileHandler(
                log_file, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"cannot write {log_file}: {error.strerror}") from None
    logging.basicConfig(level=logging.WARNING, handlers=[make_safe(handler)])
    logging.getLogger("clipper").setLevel(level)


@click.command()
@click.option("--data-dir", help="Where everything is kept, if not at the usual place.")
@click.option("--ephemeral", is_flag=True, help="Keep nothing on disk.")
@port_option
@admin_port_option
def start(data_dir: str | None, ephemeral: bool, port: int, admin_port: int) -> None:
    """Start a server in the background, unless one runs."""
    import asyncio

    from clipper import runtime
    from clipper.client import AsyncClipper

    async def work() -> tuple[bool, str, int]:
        clipper = AsyncClipper(port=port, admin_port=admin_port, data_dir=data_dir)
        try:
            begun = await clipper.start(ephemeral=ephemeral)
            return begun, clipper.query_url, clipper.port
        finally:
            await clipper.close()

    begun, url, bound = asyncio.run(work())
    done(f"Clipper {'is running' if begun else 'was running already'} at {url}")
    if begun:
        click.echo(f"  its log is {runtime.log_path(bound)}")


@click.command()
@server_options
def stop(target: Target) -> None:
    """End the server on this machine, whoever started it."""
    if target.run(lambda clipper: clipper.stop()):
        done("Clipper has stopped")
    else:
        click.echo(f"No server runs at port {target.port}.")


@click.command()
@port_option
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600.0, show_default=True,
    metavar="SECONDS", help="Wait this long for the new process.",
)  # fmt: skip
def restart(port: int, timeout: float) -> None:
    """Have a new process take over, without a gap.

    No request fails: the models come up in the new process first, and what comes while
    it takes over waits. It runs what is installed and configured now.
    """
    import asyncio

    from clipper.client.local import restart_server

    found = asyncio.run(restart_server(port, seconds=timeout))
    done(f"Process {found.pid} serves at port {found.port} now")


@click.command()
@click.option("--data-dir", help="Keep what the demo makes. By default nothing is kept.")
@click.option("--exit", "leave", is_flag=True, help="End after the report.")
@port_option
@admin_port_option
def demo(port: int, admin_port: int, data_dir: str | None, leave: bool) -> None:
    """Start a server, put three models on it, and query them."""
    from clipper.demo import run

    run(port=port, admin_port=admin_port, data_dir=data_dir, leave=leave)
