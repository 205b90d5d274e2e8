"""Whole servers without end: `PYTHONPATH=tests python -m simulation.endless [first]`.

With `--one SEED` that world alone, with all that happens in it; with `--fingerprints` and
seeds, what each comes to.
"""

from __future__ import annotations

import sys
import time
import traceback

from .core import Core
from .plot import random_plot


def replay(seed: int) -> str:
    """The command that runs this seed again."""
    return f"PYTHONPATH=tests python -m simulation.endless --one {seed}"


def run(seed: int, lines: int = 80) -> Core:
    """One world from its first request to its last. Says how to see it again."""
    world = Core(random_plot(seed), lines)
    try:
        world.run()
    except BaseException as error:
        trace = "\n".join(world.trace.lines)
        error.add_note(f"{trace}\n{world.plot}\nagain: {replay(seed)}")
        raise
    return world


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def forever(first: int) -> None:
    """Every seed from the first on; those that fail are told, and it goes on."""
    begun, seed, failed = time.monotonic(), first, 0
    while True:
        try:
            run(seed)
        except Exception as error:
            failed += 1
            say(f"seed {seed}: {type(error).__name__}: {error}\nagain: {replay(seed)}")
        seed += 1
        if (seed - first) % 100 == 0:
            speed = (seed - first) / (time.monotonic() - begun)
            say(f"{seed - first} seeds, {failed} failed, {speed:.1f} per second")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--fingerprints"]:
        say(" ".join(run(int(seed)).trace.fingerprint for seed in arguments[1:]))
    elif arguments[:1] == ["--one"]:
        try:
            say("\n".join(run(int(arguments[1]), lines=1_000_000).trace.lines))
        except BaseException:
            traceback.print_exc()
            return 1
    else:
        forever(int(arguments[0]) if arguments else 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
