"""Thousands of small worlds, each from one seed."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from clipper.values import FailureKind

from .invariants import Invariants
from .scenario import random_scenario
from .world import World

SEEDS = 1000
PER_TEST = 100
MANY = 100_000


def run(seed: int) -> World[Invariants]:
    """One world from its first request to its last. Says how to see it again."""
    world = World(random_scenario(seed), Invariants)
    try:
        world.run()
        world.watch.at_rest()
    except BaseException as error:
        lines = "\n".join(world.trace.lines)
        error.add_note(
            f"{lines}\n{world.scenario}\nagain: CLIPPER_SEED={seed} "
            "pytest tests/simulation/test_simulation.py -k test_one_seed"
        )
        raise
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_seeds(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        run(seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_seeds() -> None:
    for seed in range(SEEDS, MANY):
        run(seed)


@pytest.mark.skipif("CLIPPER_SEED" not in os.environ, reason="runs the seed CLIPPER_SEED")
def test_one_seed() -> None:
    run(int(os.environ["CLIPPER_SEED"]))


def test_a_seed_decides_all() -> None:
    for seed in range(20):
        assert run(seed).trace.fingerprint == run(seed).trace.fingerprint
    assert run(0).trace.fingerprint != run(1).trace.fingerprint


def test_seeds_lead_everywhere() -> None:
    """Every way that a row can end, every fault, and rows that go before others for the
    sake of fairness occur among few seeds."""
    outcomes: Counter[str] = Counter()
    copied = retried = abandoned = shed = refused = fair = 0
    failures: Counter[str] = Counter()
    for seed in range(100):
        world = run(seed)
        outcomes.update(world.watch.outcomes)
        fair += any(shares.rows for shares in world.watch.shares.values())
        for model in world.models:
            stats = model.dispatcher.stats
            copied += stats.hedged_rows
            retried += stats.retried_rows
            abandoned += stats.abandoned_rows
            shed += stats.shed_rows
            refused += stats.refused_rows
            failures.update({k.value: n for k, n in stats.failed_batches.items()})
    assert set(outcomes) == {
        "output", "gone", "deadline_exceeded", "overloaded", "no_model", "unavailable",
        "model_failed", "model_crashed", "model_hung",
    }  # fmt: skip
    assert all(failures[kind.value] for kind in FailureKind)
    assert min(copied, retried, abandoned, shed, refused) > 10
    assert fair > 20
