"""``clipper replay``: what other policies would have lost on an application's own log."""

from __future__ import annotations

import math
import shlex
import sys
from datetime import datetime
from itertools import compress
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.common import (
    Target,
    compact_json,
    json_option,
    print_json,
    print_table,
    print_wrapped,
    server_options,
    terminal_width,
)
from clipper.cli.learning import parse_option
from clipper.records import PolicySettings

if TYPE_CHECKING:
    from clipper.replay import Recording, Verdict
    from clipper.selection.estimators import Estimate
    from clipper.selection.offline import Evaluation

HEADS = ("POLICY", "MEAN LOSS", "95 %", "AGAINST THE LOG", "IPS", "SNIPS", "WORTH", "OF")
LEGEND = (
    "Against the log: the loss less that of what answered; below 0 is better, and certain "
    "where its whole interval is. Worth: how many decisions of the policy's own the log "
    "counts for, of how many it was judged on."
)
EVERY = 5000  # pieces of feedback between two signs of progress


def parse_time(text: str) -> float:
    """A date or a date and time, as in ISO 8601, in local time unless it says otherwise;
    or seconds since the epoch. In seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise click.BadParameter(
            f"{text[:60]!r} is no time: give 2026-01-31, 2026-01-31T18:00 (local time), "
            "2026-01-31T18:00Z, or seconds since 1970"
        )
    return seconds


@click.command()
@click.argument("app")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    metavar="POLICY",
    help="A policy to judge, with its options: 'hedge eta=0.1'. May be given several "
    "times.",
)
@click.option(
    "--after",
    type=parse_time,
    metavar="TIME",
    help="Judge on what was decided at this time or later: 2026-01-31, 2026-01-31T18:00, "
    "or seconds since 1970.",
)
@click.option(
    "--before", type=parse_time, metavar="TIME", help="And on what was decided earlier."
)
@click.option(
    "--warm",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Pieces of feedback to learn from before judging begins.",
)
@click.option(
    "--resamples", type=click.IntRange(1, 100_000), default=1000, show_default=True,
    help="Of the bootstrap that the intervals come from.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True)
@json_option
@server_options
def replay(
    target: Target,
    app: str,
    policies: tuple[str, ...],
    after: float | None,
    before: float | None,
    warm: int,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Judge policies on an application's log, before they go live.

    \b
    clipper replay digits --policy thompson --policy 'epsilon_greedy epsilon=0.1'

    Each policy is led through the logged decisions in order, learns from the feedback on
    them, and its mean loss is estimated, with 95 % intervals. What the log cannot support
    is refused; if all is, the exit code is 1. What users have in common is not known to
    replay: each new user starts as `prior` says.
    """
    from clipper.errors import NotFound
    from clipper.replay import Recording

    if after is not None and before is not None and after >= before:
        raise click.UsageError("--after must be earlier than --before.")
    settings = [parse_policy(text) for text in policies]
    progress = _Progress(sys.stderr.isatty() and not as_json)
    recording = Recording(
        -math.inf if after is None else after, math.inf if before is None else before
    )

    async def fetch(clipper: Any) -> dict[str, Any]:
        about: dict[str, Any] = await clipper.get_app_info(app)
        if not about:
            raise NotFound(f"No application with name '{app}' exists.")
        await _fetch(clipper, app, recording, progress)
        return about

    about = target.run(fetch)
    policy = about.get("policy") or {}
    verdicts = recording.judge(
        settings,
        loss=str(about.get("loss", "zero_one")),
        logged_by=str(policy.get("name", "") if isinstance(policy, dict) else policy),
        warm=warm,
        resamples=resamples,
        seed=seed,
        tell=lambda which: progress.say(f"judging {which.name} ..."),
    )
    progress.end()
    if as_json:
        found = {"app": app, "after": after, "before": before}
        print_json({**found, "feedback": len(recording), "policies": verdicts})
    else:
        _print(app, recording, verdicts)
    if all(verdict.refused is not None for verdict in verdicts):
        sys.exit(1)


def parse_policy(text: str) -> PolicySettings:
    """A policy in one line: its name, then its options as `policy --option` takes them."""
    name, *words = text.split() or [""]
    return PolicySettings(name, dict(map(parse_option, words)))


async def _fetch(clipper: Any, app: str, recording: Recording, progress: _Progress) -> None:
    count = 0
    async for line in clipper.export_feedback(app, kind="decisions"):
        recording.add_decision(line)
        count += 1
        if count % EVERY == 0:
            progress.say(f"{count:,} decisions ...")
    async for line in clipper.export_feedback(app):
        recording.add_feedback(line)
        if len(recording) % EVERY == 0:
            progress.say(f"{len(recording):,} pieces of feedback ...")


def _print(app: str, recording: Recording, verdicts: list[Verdict]) -> None:
    click.echo(f"{len(recording):,} pieces of feedback")
    judged = [found for verdict in verdicts if (found := verdict.evaluation) is not None]
    if judged:
        _print_log(judged[0])
        click.echo()
        rows = [_row(verdict) for verdict in verdicts if verdict.evaluation is not None]
        said = [any(cells) for cells in zip(*rows, strict=True)]  # no IPS of what is exact
        print_table(
            list(compress(HEADS, said)),
            [list(compress(row, said)) for row in rows],
            width=terminal_width(),
        )
        click.echo()
        print_wrapped(LEGEND, dim=True)
    for verdict in verdicts:
        if verdict.refused is not None:
            click.echo()
            click.secho(f"{_named(verdict)} cannot be judged:", fg="yellow")
            print_wrapped(verdict.refused, indent="  ")
    if judged:
        click.echo()
        _print_best(app, verdicts)


def _print_log(found: Evaluation) -> None:
    """What is the same for all that were judged."""
    if found.one_arm:
        print_wrapped(
            f"{found.one_arm:,} of them are left out: one arm alone could answer then, so "
            "they tell nothing of a choice"
        )
    if found.left_out:
        print_wrapped(
            f"{found.left_out:,} of them are left out: they do not tell what was chosen, "
            "or what it lost"
        )
    if (logged := found.logged) is not None:
        mean, low, high = logged.mean, logged.low, logged.high
        click.echo(f"what answered lost {mean:.3f} on average ({low:.3f} to {high:.3f})")


def _print_best(app: str, verdicts: list[Verdict]) -> None:
    from clipper.replay import best

    winner = best(verdicts)
    if winner is None:
        print_wrapped(
            "The log does not show that any of them is better than what answered."
        )
        return
    click.secho(f"{_named(winner)} ", bold=True, nl=False)
    click.echo("would have been better than what answered.")
    words = ["clipper", "policy", app, winner.policy]
    for key, value in winner.options.items():
        text = value if isinstance(value, str) else compact_json(value)
        words += ["--option", f"{key}={text}"]
    click.echo(f"It goes live by: {shlex.join(words)}")


def _named(verdict: Verdict) -> str:
    options = [
        f"{key}={value if isinstance(value, str) else compact_json(value)}"
        for key, value in verdict.options.items()
    ]
    return " ".join([verdict.policy, *options])


def _row(verdict: Verdict) -> list[object]:
    found = verdict.evaluation
    assert found is not None
    main, against = found.exact or found.dr, found.difference
    return [
        _named(verdict),
        _loss(main),
        main and f"{main.low:.3f} to {main.high:.3f}",
        against and f"{against.mean:+.3f} ({against.low:+.3f} to {against.high:+.3f})",
        _loss(found.ips),
        _loss(found.snips),
        "all" if found.effective_size is None else f"{found.effective_size:,.0f}",
        f"{found.records:,}",
    ]


def _loss(estimate: Estimate | None) -> str | None:
    return None if estimate is None else f"{estimate.mean:.3f}"


class _Progress:
    """One line that is written over, on a terminal."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def say(self, text: str) -> None:
        if self._shown:
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
