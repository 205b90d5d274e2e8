"""The command `clipper`, with the batch controllers of baselines.py beside its own.

    BENCH_PICK=NAME python -m benchmarks.clipper_app serve ...

The variable puts another way to choose a replica, one of PICKS, in the place of Clipper's.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from benchmarks.baselines import PaperAIMD, PlainAIMD
from clipper.batching.controller import Backlog
from clipper.batching.fleet import Fleet
from clipper.batching.hedging import Hedging
from clipper.batching.load import ReplicaLoad
from clipper.batching.registry import CONTROLLERS, Factory
from clipper.cli import main

BASELINES: dict[str, Factory] = {"plain_aimd": PlainAIMD, "paper_aimd": PaperAIMD}

PICK_VARIABLE = "BENCH_PICK"


def pick_by_two_choices() -> None:
    """Of two replicas with room, drawn by lot, the one with fewer batches in flight, as
    the Clipper paper has it (section 4.4.1); and no hedging."""

    def choose(fleet: Fleet, now: float, queue: Backlog) -> ReplicaLoad | None:
        free = [load for load in fleet.loads if load.replica.room]
        drawn = random.sample(free, min(2, len(free)))
        return min(drawn, key=lambda load: len(load.flights), default=None)

    Fleet.choose = choose  # type: ignore[method-assign]
    Fleet.neglected = lambda fleet, now: None  # type: ignore[method-assign]
    Hedging.watch = lambda hedging, loads, now: None  # type: ignore[method-assign]


# name -> what puts it in place
PICKS: dict[str, Callable[[], None]] = {"p2c": pick_by_two_choices}


def prepare() -> None:
    CONTROLLERS.update(BASELINES)
    pick = os.environ.get(PICK_VARIABLE)
    if pick is not None:
        PICKS[pick]()


if __name__ == "__main__":
    prepare()
    main()
