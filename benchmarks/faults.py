"""Faults: what each costs, done to a real server under load.

    python -m benchmarks faults                   # every part, some seconds each
    python -m benchmarks faults --long kills      # one part with the numbers of its goal

Servers are `clipper serve` on loopback ports, the load is open and made by processes of
its own. Prints a table of figures beside their goals; the status is 1 when a goal is
missed or a part fails. In a short run durations may be ten times as long. Nothing else
should run on the machine during a long one. Linux only.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.command import (
    end_on_signals,
    make_options,
    progress,
    run_parts,
)
from benchmarks.faults_run import FaultRun
from benchmarks.load import LoadError
from benchmarks.process import raise_descriptor_limit
from benchmarks.results import describe_machine
from clipper.errors import ClipperError

PARTS = {
    "kills": "workers are killed, with and without a warm spare",
    "rows": "one row that raises, segfaults or hangs in a batch of 32",
    "operations": "deploys, good and failing, roll backs, scaling, policies, links",
    "server_kills": "the server is killed and must lose nothing; how soon it is back",
    "handover": "a new server takes over the sockets",
    "slow": "idle and slow clients, by the thousand",
    "soak": "mixed requests by the million: memory, descriptors, tasks",
}
RESULTS = Path("results")


def run_part(run: FaultRun, name: str) -> None:
    progress(f"{name}: {PARTS[name]}")
    begun = time.monotonic()
    part: Callable[[FaultRun], None] = import_module(f"benchmarks.faults_{name}").run
    try:
        part(run)
    except (OSError, ClipperError) as error:
        raise LoadError(f"{type(error).__name__}: {error}") from error
    progress(f"{name}: {time.monotonic() - begun:.0f} s")


# -- the command line ------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    end_on_signals()
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="clipper-faults-") as scratch:
        run = FaultRun(Path(scratch), describe_machine(), chosen.long, chosen.seed)
        run_parts(chosen.parts, lambda name: run_part(run, name), run.fail)
    print(f"\n{run.report()}")
    if not chosen.long:
        print("\nA short run: its figures mean little, and durations may be tenfold.")
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    run.write(chosen.json)
    return 1 if run.failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parts = "\n".join(f"  {name:13} {about}" for name, about in PARTS.items())
    options = make_options("faults", f"{__doc__}\nParts:\n{parts}")
    add = options.add_argument
    add("parts", nargs="*", metavar="PART", help="all, if none is named")
    add("--long", action="store_true", help="with the numbers of the goals")
    add("--seed", type=int, help="of everything that is drawn; else a new one")
    add("--json", type=Path, default=RESULTS / "faults.json", help="[%(default)s]")
    chosen = options.parse_args(arguments)
    for name in chosen.parts:
        if name not in PARTS:
            options.error(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    chosen.parts = chosen.parts or list(PARTS)
    if chosen.seed is None:
        chosen.seed = random.randrange(2**32)
    progress(f"seed {chosen.seed}")
    return chosen
