"""What the trials of the overload benchmark say."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import work
from benchmarks.outcome import BUCKET, Outcome, Part
from benchmarks.results import Series, unique
from benchmarks.trials import Trial, Trials

ALL_GOOD = 0.99  # of what is offered, at a load that is within the capacity
CAPACITY_LOAD = 0.9  # of the bound, where capacity is looked for
WINDOW = 2  # buckets
RECOVERED, STEADY = 0.95, 0.9
STEP_SECONDS = 0.5  # after a step in the load
SETTLED_SECONDS = 2.0  # after the model became slower

# Explanations that say something which the generator can disprove.
TOO_LATE = "Failed to retrieve a prediction response within the specified latency SLO"
NO_MODEL = "No connected models found for query"


def find_capacity(trials: Sequence[Trial]) -> Series:
    """Best goodput of each round at a load within CAPACITY_LOAD of the bound at which
    nearly all that is offered is good; where there is none, the best goodput there."""
    found = []
    for round_ in unique(trial.round for trial in trials):
        parts = [
            trial.outcome.part
            for trial in trials
            if trial.round == round_ and trial.load <= CAPACITY_LOAD
        ]
        fine = [part for part in parts if part.good_share >= ALL_GOOD]
        if parts:
            found.append(max(part.goodput for part in fine or parts))
    return found


def peak(bench: Trials, lane: str) -> float:
    """The best goodput of a lane at any load, in any round."""
    trials = bench.of("sweep", lane) + bench.of("overload", lane)
    return max((trial.outcome.part.goodput for trial in trials), default=0.0)


def untrue(part: Part) -> int:
    """Default answers whose explanation was not so: no model, though there was one, or
    an objective that had not passed yet."""
    told = part.explanations
    late = told[TOO_LATE].premature if TOO_LATE in told else 0
    return late + (told[NO_MODEL].count if NO_MODEL in told else 0)


def truly_told(part: Part) -> float | None:
    """Of what was not good, the share that got the default in time and truly explained."""
    rest = part.offered - part.good
    return max(0, part.told - untrue(part)) / rest if rest else None


def settled_in_time(part: Part) -> float | None:
    """The same with the model's answers of up to GRACE after the objective: the server
    may have sent them in time."""
    rest = part.offered - part.good
    return max(0, part.told + part.barely - untrue(part)) / rest if rest else None


def share_from(outcome: Outcome, begin: int, buckets: int) -> float:
    """The good share of what was due in so many buckets."""
    good = sum(outcome.good[begin : begin + buckets])
    return good / max(1, sum(outcome.offered[begin : begin + buckets]))


def seconds_until(outcome: Outcome, begin: float, share: float) -> float | None:
    """From `begin` to the first window in which so large a share was good."""
    first = round(begin / BUCKET)
    for bucket in range(first, len(outcome.good) - WINDOW + 1):
        if share_from(outcome, bucket, WINDOW) >= share:
            return (bucket - first) * BUCKET
    return None


def recovery(trial: Trial) -> float | None:
    return seconds_until(trial.outcome, trial.outcome.parts[0].seconds, RECOVERED)


def steady(outcome: Outcome) -> float:
    """The good share in the second half of the last load."""
    buckets = round(outcome.parts[-1].seconds / BUCKET) // 2
    total = round(sum(part.seconds for part in outcome.parts) / BUCKET)
    return share_from(outcome, total - buckets, buckets)


def warming(trial: Trial) -> float | None:
    """Seconds from the first query to 90 % of the steady goodput."""
    return seconds_until(trial.outcome, 0.0, STEADY * steady(trial.outcome))


def after_step(trial: Trial) -> float:
    """The good share in the first half second after the load stepped up."""
    first = round(sum(part.seconds for part in trial.outcome.parts[:-1]) / BUCKET)
    return share_from(trial.outcome, first, round(STEP_SECONDS / BUCKET))


@dataclass(frozen=True)
class Settling:
    """The cap beside the most rows whose batch lasts the objective, as the model was and
    at half its speed. `seconds`: from that moment until the cap was right again."""

    before: float  # cap / ideal, median of the last second
    after: float  # median of what was read up to SETTLED_SECONDS after, and its half before
    seconds: float | None

    NEAR = 0.15


def ideal_rows(objective: float, slowness: float) -> float:
    return (objective / slowness - work.SLEEP_BATCH) / work.SLEEP_ROW


def settling(trial: Trial, objective: float) -> Settling | None:
    slow = trial.facts.get("slow")
    if slow is None:
        return None
    whole, half = ideal_rows(objective, 1.0), ideal_rows(objective, 2.0)
    before = [cap for at, cap in trial.caps if slow - 1.0 <= at < slow]
    end = slow + SETTLED_SECONDS
    after = [cap for at, cap in trial.caps if end - 0.5 <= at < end + 0.5]
    right = [
        at - slow
        for at, cap in trial.caps
        if at >= slow and abs(cap / half - 1.0) <= Settling.NEAR
    ]
    if not before or not after:
        return None
    return Settling(
        statistics.median(before) / whole,
        statistics.median(after) / half,
        min(right, default=None),
    )
