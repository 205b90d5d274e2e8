"""The Clipper paper's figure 7: which answers of an ensemble can be relied on.

The paper calls an answer confident if at least k of the members agree on it. Here that is
compared with the confidence that Clipper's ensembles give, for as many of the answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import Goal
from benchmarks.learn.estimate import mean_of, ratio_of
from benchmarks.learn.graded import SEED, Answers, Floats, fit_models, load_digits
from benchmarks.learn.play import play_ensemble
from benchmarks.learn.seeds import for_seeds
from benchmarks.learn.settings import Settings
from benchmarks.plot import line_plot
from benchmarks.tables import table

TITLE = "Confident answers: k members agree, or the ensemble says so (figure 7)"
QUERIES, QUICK_QUERIES = 3_000, 500
AGREEING = (3, 4, 5)
GOALS = (4, 5)
TARGET = 0.5
LANES = ("hedge", "log_pool")
COVERAGES = np.linspace(0.05, 1.0, 20)


def measure(settings: Settings) -> dict[str, Any]:
    queries = QUICK_QUERIES if settings.quick else QUERIES
    answers = fit_models(*load_digits())
    found = for_seeds(run, settings.seeds, settings.processes, answers, queries)
    curves = {
        lane: np.mean([one["curves"][lane] for one in found], axis=0).tolist()
        for lane in LANES
    }
    agree = {str(k): [one["agree"][k] for one in found] for k in AGREEING}
    return {"queries": queries, "agree": agree, "curves": curves}


def run(answers: Answers, queries: int, seed: int) -> dict[str, Any]:
    """Queries drawn with replacement from those that no model was fitted to; ensembles
    learn from each, after their answer."""
    rng = np.random.default_rng([SEED, seed, 7])
    stream = answers.take(rng.integers(0, len(answers.labels), queries))
    errors, votes = play_ensemble("majority", stream)
    members = np.rint(votes * len(stream.p))
    played = {lane: play_ensemble(lane, stream) for lane in LANES}
    agree = {}
    for k in AGREEING:
        sure = members >= k
        line = {
            "coverage": float(sure.mean()),
            "error": float(errors[sure].mean()),
            "rest": float(errors[~sure].mean()),
        }
        for lane, (wrong, confidence) in played.items():
            line[lane] = error_of(wrong, confidence, int(sure.sum()))
        agree[k] = line
    curves = {
        lane: [error_of(*one, round(share * queries)) for share in COVERAGES]
        for lane, one in played.items()
    }
    return {"agree": agree, "curves": curves}


def error_of(errors: Floats, confidences: Floats, count: int) -> float:
    """Of the `count` most confident answers; of equal ones the first."""
    order = np.argsort(-confidences, kind="stable")
    return float(errors[order[:count]].mean())


# -- showing ---------------------------------------------------------------------------


def series(found: dict[str, Any], k: int, key: str) -> list[float]:
    return [one[key] for one in found["agree"][str(k)]]


def goals(found: dict[str, Any]) -> list[Goal]:
    made = []
    for k in GOALS:
        ratio = ratio_of(series(found, k, "log_pool"), series(found, k, "error"))
        text = f"log_pool: error of {k}-agree's, as many answers"
        made.append(Goal(text, "<=", TARGET, ratio.value, ratio.text("{:.3f}")))
    return made


def report(found: dict[str, Any]) -> str:
    lines = []
    for k in AGREEING:
        line = [f"{k}-agree", f"{np.mean(series(found, k, 'coverage')):.1%}"]
        keys = ("error", "rest", *LANES)
        line += [mean_of(series(found, k, key)).text() for key in keys]
        lines.append(line)
    heads = ["", "of all answers", "error", "of the rest"]
    heads += [f"{lane}'s, as many" for lane in LANES]
    return f"{found['queries']:,} queries.\n\n{table(heads, lines, left={0})}"


def draw(found: dict[str, Any], directory: Path) -> None:
    xs = COVERAGES.tolist()
    lines = {lane: (xs, found["curves"][lane]) for lane in LANES}
    points = [(k, np.mean(series(found, k, "coverage")).item()) for k in reversed(AGREEING)]
    lines["k agree, k = 5, 4, 3"] = (
        [coverage for _, coverage in points],
        [np.mean(series(found, k, "error")).item() for k, _ in points],
    )
    line_plot(
        directory / "confidence.svg",
        "The most confident answers of five models",
        "share of the answers",
        "error among them",
        lines,
    )
