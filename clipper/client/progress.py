"""What a user sees while a model is deployed: one changing line on a terminal, plain
lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Any, TextIO


def describe(event: dict[str, Any]) -> str:
    """One line of a deploy's progress, in words."""
    stage = event.get("stage")
    if stage == "ready":
        return f"{event.get('replicas', '?')} of {event.get('of', '?')} replicas ready"
    if stage == "uploading":
        return f"uploading {format_bytes(event['bytes'])}{_carried(event['by_value'])}"
    return _STAGES.get(str(stage), str(stage))


_STAGES = {
    "packaging": "packaging the function",
    "received": "received",
    "environment": "preparing the environment",
    "loading": "loading the function",
    "example": "running the example",
    "live": "live",
}


def _carried(modules: list[str]) -> str:
    return f" (takes along {', '.join(modules)})" if modules else ""


def format_bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


class Progress:
    """Silent progress, and the base of the visible kinds. A context manager around one
    deploy; `stage` takes the events in order."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.live = False
        self._begun = monotonic()

    @property
    def seconds(self) -> float:
        return monotonic() - self._begun

    def stage(self, event: dict[str, Any]) -> None:
        self.live = event.get("stage") == "live"
        self.show(describe(event))

    def show(self, text: str) -> None:
        pass

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class Lines(Progress):
    """A line for each stage, for pipes and log files."""

    def __init__(self, title: str, out: TextIO) -> None:
        super().__init__(title)
        self._out = out

    def show(self, text: str) -> None:
        ending = f" after {self.seconds:.1f} s" if self.live else ""
        self._out.write(f"{self.title}: {text}{ending}\n")
        self._out.flush()


class Spinner(Progress):
    """One line that changes, and a last one that stays. Needs rich."""

    def __init__(self, title: str, out: TextIO) -> None:
        super().__init__(title)
        from rich.console import Console

        self._console = Console(file=out, highlight=False)
        self._status = self._console.status(f"[bold]{title}[/]", spinner="dots")

    def show(self, text: str) -> None:
        self._status.update(f"[bold]{self.title}[/]  [dim]{_escape(text)}[/]")

    def __enter__(self) -> Progress:
        self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._status.stop()
        if error is None and self.live:
            mark, end = "[green]✓[/]", f"live  [dim]{self.seconds:.1f} s[/]"
        else:
            mark, end = "[red]✗[/]", "[red]not live[/]"
        self._console.print(f"{mark} [bold]{self.title}[/]  {end}")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def make_progress(title: str, wanted: bool | None, out: TextIO | None = None) -> Progress:
    """Progress on `out` (standard error). None: only where that is a terminal."""
    out = out or sys.stderr
    terminal = out.isatty()
    if wanted is False or (wanted is None and not terminal):
        return Progress(title)
    if terminal:
        try:
            return Spinner(title, out)
        except ImportError:
            pass
    return Lines(title, out)
