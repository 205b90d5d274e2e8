"""The ``clipper`` command.

Exit codes: 0 done, 1 the server said no, 2 wrong usage, 3 no server or no usable data
directory. Modules here import the client, rich and the server where they are needed and
not before: ``clipper --help`` should be there at once.
"""

from __future__ import annotations

from typing import Any

import click

from clipper.cli import (
    applications,
    explain,
    learning,
    models,
    queries,
    replay,
    serving,
    status,
)
from clipper.cli.common import exit_code
from clipper.errors import ClipperError
from clipper.version import __version__

SECTIONS: dict[str, list[click.Command]] = {
    "A server on this machine": [
        serving.serve,
        serving.start,
        serving.stop,
        serving.restart,
        serving.demo,
    ],
    "Applications": [
        applications.apps,
        applications.register,
        applications.link,
        applications.unlink,
        applications.delete,
    ],
    "Models": [
        models.deploy,
        models.models,
        models.replicas,
        models.scale,
        models.rollback,
        models.undeploy,
        models.logs,
    ],
    "Queries": [queries.predict, status.status, explain.explain],
    "Learning": [
        learning.update,
        learning.policy,
        learning.state,
        learning.feedback,
        replay.replay,
        learning.forget,
    ],
}


class Main(click.Group):
    """A group whose help is in sections, and whose errors are one sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.commands)
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        ((c.name or "").ljust(width), c.get_short_help_str(limit=60))
                        for c in commands
                    ]
                )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClipperError as error:
            click.secho("Error: ", fg="red", bold=True, err=True, nl=False)
            click.echo(error.cause, err=True)
            ctx.exit(exit_code(error))


@click.group(
    cls=Main,
    commands=[command for section in SECTIONS.values() for command in section],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 92},
)
@click.version_option(__version__, message="clipper %(version)s")
def main() -> None:
    """Serve predictions of your models over HTTP.

    \b
    clipper demo                                  see it work
    clipper serve                                 run a server
    clipper deploy my_module:predict --name m     put a function on it
    """
