"""The command `clipper`, with the batch controllers of baselines.py beside its own.

    BENCH_PICK=NAME python -m benchmarks.clipper_app serve ...

The variable puts another way to choose a replica, one of PICKS, in the place of Clipper's.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from benchmarks.baselines import PaperAIMD, PlainAIMD
from clipper.batching.registry import CONTROLLERS, Factory
from clipper.cli import main

BASELINES: dict[str, Factory] = {"plain_aimd": PlainAIMD, "paper_aimd": PaperAIMD}

PICK_VARIABLE = "BENCH_PICK"
PICKS: dict[str, Callable[[], None]] = {}  # name -> what puts it in place


def prepare() -> None:
    CONTROLLERS.update(BASELINES)
    pick = os.environ.get(PICK_VARIABLE)
    if pick is not None:
        PICKS[pick]()


if __name__ == "__main__":
    prepare()
    main()
