"""Thousands of small worlds, each from one seed."""

from __future__ import annotations

import os

import pytest

from .invariants import Invariants
from .scenario import random_scenario
from .world import World

SEEDS = 2000
PER_TEST = 100
MANY = 100_000


def run(seed: int) -> World:
    """One world from its first request to its last. Says how to see it again."""
    world = World(random_scenario(seed))
    try:
        world.run()
        watch = world.watch
        assert isinstance(watch, Invariants)
        watch.at_rest()
    except BaseException as error:
        lines = "\n".join(world.trace)
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


@pytest.mark.skipif("CLIPPER_SEED" not in os.environ, reason="runs the seed CLIPPER_SEED")
def test_one_seed() -> None:
    run(int(os.environ["CLIPPER_SEED"]))
