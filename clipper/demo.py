"""``clipper demo``: a server, three models that read digits, and what they make of it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import quantiles
from time import monotonic
from typing import Any

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from clipper import runtime
from clipper.cli.common import done, print_table
from clipper.client import AsyncClipper
from clipper.errors import ClipperError, ConfigError, Conflict
from clipper.values import Prediction

SLO_MICROS = 200_000
CONCURRENCY = 32  # queries under way at once
ROUNDS = 2  # each digit is asked about so often, so that the cache has its part
_HELD_OUT = 400
_SHADES = " ░▒▓█"
_WIDTH, _GAP, _MARGIN = 16, "  ", 10  # of a drawn digit, between two, and before them


@dataclass
class Digits:
    """Models, trained, and the digits that they have not seen."""

    models: dict[str, Any]
    images: list[list[float]]  # 64 shades from 0 to 16 each
    labels: list[int]


@dataclass
class Score:
    """What came back from one model."""

    outputs: dict[int, Any] = field(default_factory=dict)  # by number of the digit
    seconds: list[float] = field(default_factory=list)
    defaults: int = 0


def run(*, port: int, admin_port: int, data_dir: str | None, leave: bool) -> None:
    """Run the demo until Ctrl-C, or with `leave` until its report is printed."""
    if port and runtime.find(port) is not None:
        raise ConfigError(
            f"A Clipper server runs at port {port} already. Use other ports for the demo, "
            "as in `clipper demo --port 8337 --admin-port 8338`, or end that server with "
            "`clipper stop`."
        )
    # The server is a process of its own and ends only if we end it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        asyncio.run(
            _demo(
                AsyncClipper(port=port, admin_port=admin_port, data_dir=data_dir),
                ephemeral=data_dir is None,
                leave=leave,
            )
        )
    except KeyboardInterrupt:
        click.echo()
    done("The server has stopped")


async def _demo(clipper: AsyncClipper, *, ephemeral: bool, leave: bool) -> None:
    async with clipper:
        click.echo("Three models learn to read handwritten digits, and answer over HTTP.")
        digits = await asyncio.to_thread(train)
        done(f"trained {', '.join(digits.models)} on scikit-learn's digits")
        await clipper.start(ephemeral=ephemeral)
        done(f"started a server at {clipper.query_url}")
        await _deploy(clipper, digits)
        before = monotonic()
        scores = await _ask(clipper, digits)
        _report(digits, scores, await clipper.metrics(), monotonic() - before)
        _invite(clipper, digits)
        if not leave:
            await _wait_for_the_end(clipper.port)


# -- models ----------------------------------------------------------------------------


def train() -> Digits:
    """Three classifiers that differ in kind, trained on three quarters of the digits."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import SGDClassifier
        from sklearn.model_selection import train_test_split
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError:
        raise ClipperError(
            "The demo needs scikit-learn: pip install 'clipper-serving[demo]'"
        ) from None
    images, labels = load_digits(return_X_y=True)
    train_images, images, train_labels, labels = train_test_split(
        images, labels, test_size=_HELD_OUT, random_state=0
    )
    models = {
        "linear": SGDClassifier(random_state=0),
        "forest": RandomForestClassifier(n_estimators=60, random_state=0),
        "neighbors": KNeighborsClassifier(3),
    }
    for model in models.values():
        model.fit(train_images, train_labels)
    return Digits(models, images.tolist(), labels.tolist())


async def _deploy(clipper: AsyncClipper, digits: Digits) -> None:
    """One application for each model, so that they can be compared."""
    for name, model in digits.models.items():
        with suppress(Conflict):  # an earlier demo has left it in the data directory
            await clipper.register_application(
                name, name, "doubles", default_output=-1, slo_micros=SLO_MICROS
            )
        try:
            await clipper.deploy_model(
                name, 1, model, "doubles", example=digits.images[0], progress=True
            )
        except Conflict:
            done(f"{name}:1 is there from an earlier demo")


# -- queries ---------------------------------------------------------------------------


async def _ask(clipper: AsyncClipper, digits: Digits) -> dict[str, Score]:
    """Every digit to every model, in random order, CONCURRENCY at a time."""
    queries = [(name, i) for name in digits.models for i in range(len(digits.images))]
    scores = {name: Score() for name in digits.models}

    async def one_client(queue: list[tuple[str, int]]) -> None:
        while queue:
            name, i = queue.pop()
            begun = monotonic()
            prediction = await clipper.predict(name, digits.images[i])
            _take(scores[name], i, prediction, monotonic() - begun)

    for _ in range(ROUNDS):
        random.Random(0).shuffle(queries)
        waiting = list(queries)
        async with asyncio.TaskGroup() as clients:
            for _ in range(CONCURRENCY):
                clients.create_task(one_client(waiting))
    return scores


def _take(score: Score, i: int, prediction: Prediction, seconds: float) -> None:
    score.seconds.append(seconds)
    if prediction.default:
        score.defaults += 1
    else:
        score.outputs[i] = prediction.output


# -- the report ------------------------------------------------------------------------


def _report(digits: Digits, scores: dict[str, Score], metrics: str, seconds: float) -> None:
    shown = _interesting(digits, scores)
    click.echo()
    click.secho("Held-out digits, and what the models answered", bold=True)
    click.echo(draw([digits.images[i] for i in shown]))
    labels = [digits.labels[i] for i in shown]
    for name, score in scores.items():
        click.echo(_answers(name, [score.outputs.get(i) for i in shown], labels))
    click.secho(_answers("truth", labels, labels), dim=True)
    total = sum(len(score.seconds) for score in scores.values())
    click.echo()
    click.secho(
        f"{total} queries over HTTP, {CONCURRENCY} at a time, "
        f"in {seconds:.1f} s: {total / seconds:.0f} a second",
        bold=True,
    )
    counted = count(metrics)
    print_table(
        ("MODEL", "ACCURACY", "P50", "P95", "P99", "ROWS PER BATCH"),
        [
            (name, *_numbers(digits, score), counted.rows_per_batch(name))
            for name, score in scores.items()
        ],
    )
    click.echo(
        f"{counted.from_cache} answers came from the cache, the others from "
        f"{sum(counted.batches.values())} batches."
    )
    if late := sum(score.defaults for score in scores.values()):
        click.echo(
            f"{late} got the default output, no answer; the accuracy leaves them out."
        )


def _numbers(digits: Digits, score: Score) -> tuple[str, ...]:
    right = sum(out == digits.labels[i] for i, out in score.outputs.items())
    cuts = quantiles(score.seconds, n=100)
    latencies = (f"{cuts[at - 1] * 1000:.1f} ms" for at in (50, 95, 99))
    return (f"{100 * right / max(1, len(score.outputs)):.1f} %", *latencies)


def _interesting(digits: Digits, scores: dict[str, Score], count: int = 4) -> list[int]:
    """Some digits on which the models do not agree, and some on which they do."""

    def opinions(i: int) -> int:
        return len({str(score.outputs.get(i)) for score in scores.values()})

    order = sorted(range(len(digits.labels)), key=opinions, reverse=True)
    return [*order[:2], *order[2 - count :]]


def draw(images: Sequence[Sequence[float]]) -> str:
    """Digits of 8 by 8 shades side by side, in characters."""
    lines = []
    for row in range(8):
        cells = (
            "".join(_SHADES[round(shade / 4)] * 2 for shade in image[row * 8 : row * 8 + 8])
            for image in images
        )
        lines.append((" " * _MARGIN + _GAP.join(cells)).rstrip())
    return "\n".join(lines)


def _answers(name: str, outputs: Sequence[Any], labels: Sequence[int]) -> str:
    """One model's answers, each under its digit; wrong ones in red."""
    cells = []
    for output, label in zip(outputs, labels, strict=True):
        text = ("-" if output is None else str(output)).center(_WIDTH)
        cells.append(text if output == label else click.style(text, fg="red", bold=True))
    return f"{name:{_MARGIN}}" + _GAP.join(cells)


@dataclass
class Counted:
    """What the server counted."""

    batches: dict[str, int] = field(default_factory=dict)  # by model
    rows: dict[str, int] = field(default_factory=dict)
    from_cache: int = 0

    def rows_per_batch(self, model: str) -> str:
        batches = self.batches.get(model, 0)
        return f"{self.rows[model] / batches:.1f}" if batches else "-"


def count(metrics: str) -> Counted:
    """The counters of a server from its metrics in Prometheus' text format."""
    counted = Counted()
    for family in text_string_to_metric_families(metrics):
        for name, labels, value, *_ in family.samples:
            if name == "clipper_model_batches_total":
                counted.batches[labels["model"]] = int(value)
            elif name == "clipper_model_rows_total":
                counted.rows[labels["model"]] = int(value)
            elif name in ("clipper_cache_hits_total", "clipper_cache_joins_total"):
                counted.from_cache += int(value)
    return counted


def _invite(clipper: AsyncClipper, digits: Digits) -> None:
    body = msgspec.json.encode({"input": [int(shade) for shade in digits.images[0]]})
    click.echo()
    click.secho("Try it", bold=True)
    click.echo(
        f"curl -H 'Content-Type: application/json' -d '{body.decode()}' "
        f"{clipper.query_url}/forest/predict"
    )
    click.echo(f"clipper status --port {clipper.port}")
    click.echo()


async def _wait_for_the_end(port: int) -> None:
    click.secho("Ctrl-C ends the demo.", dim=True)
    while runtime.find(port) is not None:  # noqa: ASYNC110 - another process's end
        await asyncio.sleep(0.5)
