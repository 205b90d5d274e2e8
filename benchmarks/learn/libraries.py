"""Clipper's policies of a single choice beside Vowpal Wabbit's and MABWiser's.

Both sides meet the same arms, contexts and losses, drawn beforehand, and are told of what
they chose alone. Options that mean the same are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import Goal
from benchmarks.learn import peers
from benchmarks.learn.estimate import difference_of, mean_of, standard_error
from benchmarks.learn.graded import SEED, Floats
from benchmarks.learn.peers import MABWISER, VW, MABWiser, VowpalWabbit, mabwiser_policy
from benchmarks.learn.play import Chooser, PolicyChooser, play
from benchmarks.learn.seeds import for_seeds
from benchmarks.learn.settings import Settings
from benchmarks.learn.streams import STREAMS, Stream
from benchmarks.plot import bar_plot
from benchmarks.results import unique
from benchmarks.tables import table

TITLE = "Beside Vowpal Wabbit and MABWiser: mean losses on the same streams"

DISCOUNT = 0.999  # what discounted_ucb has by default
EPSILON = 0.05  # the default of Vowpal Wabbit's and of Clipper's

Make = Callable[[Stream, int], Chooser]


def ours(name: str, **options: Any) -> Make:
    def make(stream: Stream, seed: int) -> Chooser:
        given = dict(options)
        if name in ("linucb", "squarecb"):
            given["features"] = features_of(stream) or 1
        chooser = PolicyChooser(name, stream.losses.shape[1], **given)
        return chooser if features_of(stream) or "features" not in given else Bare(chooser)

    return make


class Bare:
    """A contextual policy where there is no context: it is told of a 0 in its place."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self.learn = chooser.learn

    def choose(self, context: Any, u: float) -> int:
        return self._chooser.choose([0.0], u)


def vw(options: str) -> Make:
    return lambda stream, seed: VowpalWabbit(
        stream.losses.shape[1], features_of(stream), seed, options
    )


def mabwiser(name: str) -> Make:
    return lambda stream, seed: MABWiser(
        stream.losses.shape[1], seed, mabwiser_policy(name), rehearsal=name == "ucb1"
    )


def features_of(stream: Stream) -> int:
    return 0 if stream.contexts is None else stream.contexts.shape[1]


LANES: dict[str, Make] = {
    "ucb1": ours("ucb1"),
    "thompson": ours("thompson"),
    "epsilon_greedy": ours("epsilon_greedy", epsilon=EPSILON),
    "squarecb": ours("squarecb"),
    "linucb": ours("linucb"),
    "greedy linear": ours("linucb", alpha=0.0, epsilon=EPSILON),
    "discounted_ucb": ours("discounted_ucb"),
    f"thompson, {DISCOUNT}": ours("thompson", discount=DISCOUNT),
    f"squarecb, {DISCOUNT}": ours("squarecb", discount=DISCOUNT),
    f"linucb, {DISCOUNT}": ours("linucb", discount=DISCOUNT),
    "MABWiser UCB1": mabwiser("ucb1"),
    "MABWiser TS": mabwiser("thompson"),
    "MABWiser LinUCB": mabwiser("linucb"),
    "VW epsilon": vw(f"--epsilon {EPSILON}"),
    "VW squarecb": vw("--squarecb"),
}


@dataclass(frozen=True)
class Pair:
    stream: str
    own: str
    peer: str

    @property
    def package(self) -> str:
        return VW if self.peer.startswith("VW") else MABWISER


PAIRS = (
    Pair("bernoulli", "ucb1", "MABWiser UCB1"),
    Pair("bernoulli", "thompson", "MABWiser TS"),
    Pair("bernoulli", "epsilon_greedy", "VW epsilon"),
    Pair("bernoulli", "squarecb", "VW squarecb"),
    Pair("linear", "linucb", "MABWiser LinUCB"),
    Pair("linear", "greedy linear", "VW epsilon"),
    Pair("linear", "squarecb", "VW squarecb"),
    Pair("digits", "linucb", "MABWiser LinUCB"),
    Pair("digits", "greedy linear", "VW epsilon"),
    Pair("digits", "squarecb", "VW squarecb"),
    Pair("switching", "discounted_ucb", "MABWiser UCB1"),
    Pair("switching", f"thompson, {DISCOUNT}", "MABWiser TS"),
    Pair("switching", f"squarecb, {DISCOUNT}", "VW squarecb"),
    Pair("switching", "discounted_ucb", "VW epsilon"),
    Pair("turning", f"linucb, {DISCOUNT}", "MABWiser LinUCB"),
    Pair("turning", f"squarecb, {DISCOUNT}", "VW squarecb"),
    Pair("turning", f"squarecb, {DISCOUNT}", "VW epsilon"),
)


# -- measuring -------------------------------------------------------------------------


def measure(settings: Settings) -> dict[str, Any]:
    versions = peers.installed()
    chosen = [pair for pair in PAIRS if pair.package in versions]
    left_out = [name for name in peers.PACKAGES if name not in versions]
    losses: dict[str, dict[str, list[float]]] = {}
    rounds = {}
    for name, kind in STREAMS.items():
        lanes = unique(
            lane
            for pair in PAIRS
            if pair.stream == name
            for lane in ([pair.own, pair.peer] if pair in chosen else [pair.own])
        )
        rounds[name] = kind.quick_rounds if settings.quick else kind.rounds
        work = for_seeds(
            run, settings.seeds, settings.processes, name, rounds[name], tuple(lanes)
        )
        losses[name] = {lane: [found[lane] for found in work] for lane in lanes}
    return {
        "peers": versions,
        "left_out": left_out,
        "rounds": rounds,
        "losses": losses,
        "pairs": [[pair.stream, pair.own, pair.peer] for pair in chosen],
    }


def run(name: str, rounds: int, lanes: tuple[str, ...], seed: int) -> dict[str, float]:
    """The mean loss of each lane on the stream of one seed."""
    number = list(STREAMS).index(name)
    stream = STREAMS[name].make(np.random.default_rng([SEED, seed, number]), rounds)
    found = {}
    for lane in lanes:
        index = list(LANES).index(lane)
        draws: Floats = np.random.default_rng([SEED, seed, number, index]).random(
            len(stream.losses)
        )
        chooser = LANES[lane](stream, seed)
        found[lane] = float(play(chooser, stream.losses, stream.contexts, draws).mean())
    return found


# -- showing ---------------------------------------------------------------------------


def goals(found: dict[str, Any]) -> list[Goal]:
    return [goal_of(found, Pair(*names)) for names in found["pairs"]]


def goal_of(found: dict[str, Any], pair: Pair) -> Goal:
    """Where nothing drifts, at most one standard error worse; where something does,
    better, by more than chance explains."""
    losses = found["losses"][pair.stream]
    own, peer = losses[pair.own], losses[pair.peer]
    more = difference_of(own, peer)
    text = f"{pair.stream}: {pair.own} less {pair.peer}"
    if STREAMS[pair.stream].drifts:
        text = f"{text}, upper bound"
        return Goal(text, "<", 0.0, more.high, more.text(), "{:+.4f}")
    error = standard_error(np.subtract(own, peer).tolist())
    return Goal(text, "<=", error, more.value, more.text(), "{:+.4f}")


def report(found: dict[str, Any]) -> str:
    lines: list[list[str]] = []
    for name, lanes in found["losses"].items():
        if lines:
            lines.append([""] * 3)
        for lane, values in lanes.items():
            lines.append([STREAMS[name].title, lane, mean_of(values).text()])
    text = table(["stream", "policy", "mean loss"], lines, left={0, 1})
    rounds = ", ".join(f"{name} {count:,}" for name, count in found["rounds"].items())
    words = [f"Rounds: {rounds}."]
    words += [f"{name} {version}." for name, version in found["peers"].items()]
    words += [
        f"{name} is not installed and was left out; it comes with the extra `bench`."
        for name in found["left_out"]
    ]
    return f"{' '.join(words)}\n\n{text}"


def draw(found: dict[str, Any], directory: Path) -> None:
    pairs = [Pair(*names) for names in found["pairs"]]
    for name in unique(pair.stream for pair in pairs):
        chosen = [pair for pair in pairs if pair.stream == name]
        losses = found["losses"][name]
        series = {
            "the library": [float(np.mean(losses[pair.peer])) for pair in chosen],
            "Clipper's counterpart": [float(np.mean(losses[pair.own])) for pair in chosen],
        }
        groups = [pair.peer for pair in chosen]
        title = f"Beside libraries: {STREAMS[name].title}"
        bar_plot(directory / f"libraries-{name}.svg", title, "mean loss", groups, series)
