"""The Clipper paper's figure 8: the best of five models fails for a quarter of the time.

Every policy meets the same 20,000 queries of a seed. Ensembles are told the loss of every
model, single choices and the paper's policies that of what they answered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import Goal
from benchmarks.learn.estimate import Estimate, difference_of, mean_of, ratio_of
from benchmarks.learn.graded import (
    SEED,
    TITLES,
    Answers,
    Floats,
    failure,
    fit_models,
    load_digits,
    with_failure,
)
from benchmarks.learn.paper import PaperExp3, PaperExp4
from benchmarks.learn.play import PolicyChooser, play, play_ensemble
from benchmarks.learn.seeds import for_seeds
from benchmarks.learn.settings import Settings
from benchmarks.plot import line_plot
from benchmarks.tables import table

TITLE = "The best of five models fails from a quarter to a half (figure 8)"
QUERIES, QUICK_QUERIES = 20_000, 2_000
POINTS = 200  # of a curve
WINDOW = 0.025  # of the queries, in the figure of the error at the time

DISCOUNT = 0.999  # what discounted_ucb has by default
EXP3, EXP4 = "exp3 (paper)", "exp4 (paper)"
BEST, ORACLE = "best model", "piecewise best"
THOMPSON = f"thompson, {DISCOUNT}"
SHOWN = ("hedge", "log_pool", "discounted_ucb", EXP3, EXP4, ORACLE)
RATIO = "hedge: regret of exp4's (paper)"

Lane = Callable[[Answers, Floats], Floats]


def single(name: str, **options: Any) -> Lane:
    def run(stream: Answers, draws: Floats) -> Floats:
        chooser = PolicyChooser(name, len(stream.p), **options)
        return play(chooser, stream.losses.T, None, draws)

    return run


def ensemble(name: str) -> Lane:
    return lambda stream, draws: play_ensemble(name, stream)[0]


def paper_exp3(stream: Answers, draws: Floats) -> Floats:
    policy = PaperExp3(len(stream.p))
    found = []
    for losses, u in zip(stream.losses.T.tolist(), draws.tolist(), strict=True):
        arm = policy.choose(u)
        policy.learn(arm, losses[arm])
        found.append(losses[arm])
    return np.array(found)


def paper_exp4(stream: Answers, draws: Floats) -> Floats:
    policy = PaperExp4(len(stream.p))
    found = []
    labels, rows = stream.labels.tolist(), stream.guesses.T.tolist()
    for label, advice, u in zip(labels, rows, draws.tolist(), strict=True):
        answer = policy.choose(advice, u)
        loss = float(answer != label)
        policy.learn(advice, answer, loss)
        found.append(loss)
    return np.array(found)


def piecewise_best(stream: Answers) -> Floats:
    """The losses of the model that was best, looking back, before, during and after."""
    begin, end = failure(len(stream.labels))
    parts = np.split(stream.losses, [begin, end], axis=1)
    return np.concatenate([part[part.sum(axis=1).argmin()] for part in parts])


LANES: dict[str, Lane] = {
    "hedge": ensemble("hedge"),
    "log_pool": ensemble("log_pool"),
    "majority": ensemble("majority"),
    "discounted_ucb": single("discounted_ucb"),
    THOMPSON: single("thompson", discount=DISCOUNT),
    "exp3_ix": single("exp3_ix"),
    EXP3: paper_exp3,
    EXP4: paper_exp4,
    BEST: lambda stream, draws: stream.losses[-1],
    ORACLE: lambda stream, draws: piecewise_best(stream),
}


# -- measuring -------------------------------------------------------------------------


def measure(settings: Settings) -> dict[str, Any]:
    queries = QUICK_QUERIES if settings.quick else QUERIES
    answers = fit_models(*load_digits())
    found = for_seeds(run, settings.seeds, settings.processes, answers, queries)
    begin, end = failure(queries)
    lanes = {}
    for name in LANES:
        losses = [each[name] for each in found]
        lanes[name] = {
            "error": [one["error"] for one in losses],
            "after_failure": [one["after_failure"] for one in losses],
            "after_recovery": [one["after_recovery"] for one in losses],
            "curve": np.mean([one["curve"] for one in losses], axis=0).tolist(),
            "window": np.mean([one["window"] for one in losses], axis=0).tolist(),
        }
    accuracies = dict(zip(TITLES, (1 - answers.losses.mean(axis=1)).tolist(), strict=True))
    return {
        "queries": queries,
        "failure": [begin, end],
        "accuracies": accuracies,
        "lanes": lanes,
    }


def run(answers: Answers, queries: int, seed: int) -> dict[str, dict[str, Any]]:
    """What each policy's errors were on one seed's stream."""
    stream = with_failure(answers, queries, seed)
    found = {}
    for index, (name, lane) in enumerate(LANES.items()):
        draws = np.random.default_rng([SEED, seed, index]).random(queries)
        found[name] = summary(lane(stream, draws))
    return found


def summary(losses: Floats) -> dict[str, Any]:
    queries = len(losses)
    begin, end = failure(queries)
    soon, width = max(1, queries // 20), max(1, round(WINDOW * queries))
    at = points(queries) - 1
    sums = np.concatenate([[0.0], losses.cumsum()])
    return {
        "error": float(losses.mean()),
        "after_failure": float(losses[begin : begin + soon].mean()),
        "after_recovery": float(losses[end : end + soon].mean()),
        "curve": (losses.cumsum()[at] / (at + 1)).tolist(),
        "window": [
            float((sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width))
            for i in at.tolist()
        ],
    }


def points(queries: int) -> Any:
    """After how many queries the curves have their points."""
    return np.linspace(queries / POINTS, queries, POINTS).astype(int)


# -- showing ---------------------------------------------------------------------------


def regret(found: dict[str, Any], lane: str) -> list[float]:
    """By seed: the error beyond that of the piecewise best model."""
    lanes = found["lanes"]
    own, best = np.array(lanes[lane]["error"]), np.array(lanes[ORACLE]["error"])
    return (own - best).tolist()  # type: ignore[no-any-return]


def regret_ratio(found: dict[str, Any]) -> Estimate:
    return ratio_of(regret(found, "hedge"), regret(found, EXP4))


def goals(found: dict[str, Any]) -> list[Goal]:
    lanes = found["lanes"]
    to_exp4 = regret_ratio(found)
    own, exp3 = lanes["discounted_ucb"]["error"], lanes[EXP3]["error"]
    to_exp3, less = ratio_of(own, exp3), difference_of(exp3, own)
    return [
        Goal(RATIO, "<=", 0.2, to_exp4.value, to_exp4.text("{:.3f}")),
        Goal(
            "discounted_ucb: error of exp3's (paper)",
            "<=",
            0.95,
            to_exp3.value,
            to_exp3.text("{:.3f}"),
        ),
        Goal(
            "exp3's (paper) error less discounted_ucb's, lower bound",
            ">=",
            0.0,
            less.low,
            less.text(),
            "{:.4f}",
        ),
    ]


def report(found: dict[str, Any]) -> str:
    lines = []
    for name, lane in found["lanes"].items():
        beyond = regret(found, name)
        lines.append(
            [
                name,
                mean_of(lane["error"]).text(),
                mean_of(beyond).text(),
                f"{np.mean(lane['after_failure']):.3f}",
                f"{np.mean(lane['after_recovery']):.3f}",
            ]
        )
    heads = ["policy", "error", "regret to the piecewise best"]
    heads += ["after the failure", "after the recovery"]
    right = [f"{name} {share:.1%}" for name, share in found["accuracies"].items()]
    text = (
        f"Right: {', '.join(right)}. {found['queries']:,} queries; errors after the "
        "failure and the recovery are those of the next twentieth of them."
    )
    return f"{text}\n\n{table(heads, lines, left={0})}"


def draw(found: dict[str, Any], directory: Path) -> None:
    xs = points(found["queries"]).tolist()
    begin, end = found["failure"]
    marks = {"fails": begin, "recovers": end}
    for key, title, label in (
        ("curve", "The best of five models fails", "cumulative average error"),
        ("window", "The best of five models fails", "error of the last 2.5 % of queries"),
    ):
        lines = {name: (xs, found["lanes"][name][key]) for name in SHOWN}
        line_plot(
            directory / f"failing-{key}.svg", title, "queries", label, lines, marks=marks
        )
