"""What the commands share: finding the server, printing tables and JSON, exit codes."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from clipper.errors import ClipperError, ConfigError, ServerUnreachable, StoreError
from clipper.values import check_name

if TYPE_CHECKING:
    from clipper.client import AsyncClipper

P = ParamSpec("P")
T = TypeVar("T")

WIDEST = 100  # columns of text; longer lines are hard to read

_NO_SERVER = (ServerUnreachable, ConfigError, StoreError)


def exit_code(error: ClipperError) -> int:
    return 3 if isinstance(error, _NO_SERVER) else 1


# -- options ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The server that a command speaks to."""

    host: str
    port: int
    admin_port: int

    def client(self) -> AsyncClipper:
        from clipper.client import AsyncClipper

        return AsyncClipper(self.host, port=self.port, admin_port=self.admin_port)

    def run(self, work: Callable[[AsyncClipper], Coroutine[Any, Any, T]]) -> T:
        """The result of `work` with a client that is closed afterwards."""

        async def session() -> T:
            async with self.client() as client:
                return await work(client)

        return asyncio.run(session())


def server_options(
    command: Callable[Concatenate[Target, P], None],
) -> Callable[..., None]:
    """--host, --port and --admin-port, handed to the command as one Target."""

    def wrapped(
        host: str, port: int, admin_port: int, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        command(Target(host, port, admin_port), *args, **kwargs)

    update_wrapper(wrapped, command)
    for option in (admin_port_option, port_option, host_option):
        wrapped = option(wrapped)
    return wrapped


def parse_port(text: str | int) -> int:
    if not str(text).isdecimal() or not 0 <= int(text) <= 65535:
        raise click.BadParameter(f"{text!r} is not a port from 0 to 65535")
    return int(text)


host_option = click.option(
    "--host",
    default="localhost",
    show_default=True,
    envvar="CLIPPER_HOST",
    help="Machine of the server. Another than this needs CLIPPER_TOKEN.",
)
port_option = click.option(
    "--port",
    type=parse_port,
    metavar="PORT",
    default=1337,
    show_default=True,
    envvar="CLIPPER_PORT",
    help="Query port of the server.",
)
admin_port_option = click.option(
    "--admin-port",
    type=parse_port,
    metavar="PORT",
    default=1338,
    show_default=True,
    envvar="CLIPPER_ADMIN_PORT",
    help="Admin port, where a server on this machine does not announce it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


# -- values on the command line --------------------------------------------------------


def parse_json(text: str) -> Any:
    """A JSON value; `-` reads it from standard input."""
    import msgspec

    if text == "-":
        text = sys.stdin.read()
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise click.BadParameter(
            f"{text.strip()[:60]!r} is not JSON: {error}. "
            """A string needs its quotes, as in '"text"'."""
        ) from None


@dataclass(frozen=True)
class ModelSpec:
    """A model, or one version of it where `version` is not None."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"

    def at(self, version: str | None) -> ModelSpec:
        """The same with the version that was given as a word of its own, if any."""
        return self if version is None else parse_model(f"{self.name}:{version}")

    def need_version(self) -> str:
        if self.version is None:
            raise click.UsageError(
                f"Which version of {self.name}? Say {self.name}:VERSION; "
                "`clipper models` lists them."
            )
        return self.version


def parse_model(text: str) -> ModelSpec:
    """`name` or `name:version`."""
    name, colon, version = text.partition(":")
    try:
        return ModelSpec(
            check_name("a model's name", name),
            check_name("a version", version) if colon else None,
        )
    except ClipperError as error:
        raise click.BadParameter(error.cause) from None


# -- output ----------------------------------------------------------------------------


def print_json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def compact_json(value: Any) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


def done(sentence: str) -> None:
    """Say that something was done."""
    click.secho("✓ ", fg="green", nl=False)
    click.echo(sentence)


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(40, shutil.get_terminal_size().columns)


def print_wrapped(text: str, *, indent: str = "", first: str = "", **style: Any) -> None:
    """A paragraph no wider than the terminal, and than is easily read; its first line
    begins with `first` in place of `indent`."""
    filled = textwrap.fill(
        text, min(WIDEST, terminal_width()), initial_indent=first or indent,
        subsequent_indent=indent, break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    click.secho(filled, **style)


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    indent: str = "",
    width: int | None = None,
) -> None:
    """Aligned columns: numbers to the right, no lines around. Columns that would pass
    `width` go below, behind the first column again."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        bool(cells) and all(row[i] == "-" or _is_number(row[i]) for row in cells)
        for i in range(len(headers))
    ]
    widths = [
        max(len(click.unstyle(row[i])) for row in [list(headers), *cells])
        for i in range(len(headers))
    ]

    def line(values: Sequence[str], columns: Sequence[int]) -> str:
        padded = []
        for i in columns:
            space = " " * (widths[i] - len(click.unstyle(values[i])))
            padded.append(space + values[i] if numeric[i] else values[i] + space)
        return (indent + "  ".join(padded)).rstrip()

    for number, columns in enumerate(_blocks(widths, len(indent), width)):
        if number:
            click.echo()
        click.secho(line(headers, columns), dim=True)
        for row in cells:
            click.echo(line(row, columns))


def _blocks(widths: Sequence[int], indent: int, width: int | None) -> list[list[int]]:
    """The columns, as many side by side as fit."""
    blocks, used = [[0]], indent + widths[0]
    for index in range(1, len(widths)):
        used += 2 + widths[index]
        if width is not None and used > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = indent + widths[0] + 2 + widths[index]
        blocks[-1].append(index)
    return blocks


def _cell(value: object) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+<>]?[\d,]+(\.\d+)?( ms| µs| s| %|/s|x)?", text) is not None


def share(value: object) -> str | None:
    """A share of 1 in per cent: ``12.5 %``."""
    if not isinstance(value, (int, float)):
        return None
    if 0 < value < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 < value < 1 else f"{100 * value:.1f} %"


def loss(value: object) -> str | None:
    """A mean loss, to as many digits as feedback can tell."""
    return f"{value:.3f}" if isinstance(value, (int, float)) else None


def milliseconds(micros: object) -> str:
    """A latency objective in words: ``100 ms``."""
    return f"{micros / 1000:g} ms" if isinstance(micros, (int, float)) else "-"
