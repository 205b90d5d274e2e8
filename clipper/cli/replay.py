"""``clipper replay``: what other policies would have lost on an application's own log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.common import Target, json_option, print_json, print_table, server_options
from clipper.cli.learning import parse_option
from clipper.records import PolicySettings

if TYPE_CHECKING:
    from clipper.replay import Recording, Verdict

HEADS = ("POLICY", "MEAN LOSS", "95 %", "AGAINST THE LOG", "IPS", "SNIPS", "WORTH", "LOG")
EVERY = 5000  # pieces of feedback between two signs of progress


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
    is refused.
    """
    from clipper.errors import NotFound

    settings = [parse_policy(text) for text in policies]
    progress = _Progress(sys.stderr.isatty() and not as_json)

    async def fetch(clipper: Any) -> tuple[Recording, dict[str, Any]]:
        about = await clipper.get_app_info(app)
        if not about:
            raise NotFound(f"No application with name '{app}' exists.")
        return await _fetch(clipper, app, progress), about

    recording, about = target.run(fetch)
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
        print_json({"app": app, "feedback": len(recording), "policies": verdicts})
    else:
        _print(recording, verdicts)


def parse_policy(text: str) -> PolicySettings:
    """A policy in one line: its name, then its options as `policy --option` takes them."""
    name, *words = text.split() or [""]
    return PolicySettings(name, dict(map(parse_option, words)))


async def _fetch(clipper: Any, app: str, progress: _Progress) -> Recording:
    from clipper.replay import Recording

    recording = Recording()
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
    return recording


def _print(recording: Recording, verdicts: list[Verdict]) -> None:
    from clipper.replay import best

    click.echo(f"{len(recording):,} pieces of feedback")
    judged = [verdict for verdict in verdicts if verdict.evaluation is not None]
    if judged:
        logged = judged[0].evaluation.logged if judged[0].evaluation else None
        if logged is not None:
            click.echo(f"what answered lost {_interval(logged)} on average")
        click.echo()
        print_table(HEADS, [_row(verdict) for verdict in judged])
    for verdict in verdicts:
        if verdict.refused is not None:
            click.echo()
            click.secho(f"{verdict.policy}: ", fg="yellow", nl=False)
            click.echo(verdict.refused)
    if judged:
        click.echo()
        winner = best(judged)
        if winner is None:
            click.echo(
                "The log does not show that any of them is better than what answered."
            )
        else:
            click.secho(f"{_named(winner)} ", bold=True, nl=False)
            click.echo("would have been better than what answered.")


def _named(verdict: Verdict) -> str:
    options = [f"{key}={value}" for key, value in verdict.options.items()]
    return " ".join([verdict.policy, *options])


def _row(verdict: Verdict) -> list[object]:
    found = verdict.evaluation
    assert found is not None
    main = found.exact or found.dr
    return [
        _named(verdict),
        "-" if main is None else f"{main.mean:.4f}",
        "-" if main is None else f"{main.low:.4f} to {main.high:.4f}",
        "-" if found.difference is None else _signed(found.difference),
        "-" if found.ips is None else f"{found.ips.mean:.4f}",
        "-" if found.snips is None else f"{found.snips.mean:.4f}",
        "all" if found.effective_size is None else f"{found.effective_size:,.0f}",
        f"{found.records:,}",
    ]


def _interval(estimate: Any) -> str:
    return f"{estimate.mean:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _signed(estimate: Any) -> str:
    return f"{estimate.mean:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"


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
