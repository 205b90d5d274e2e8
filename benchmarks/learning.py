"""Learning: what the selection policies are worth, on streams whose every loss is known.

failing     the Clipper paper's figure 8: the best of five models fails for a while
libraries   Vowpal Wabbit and MABWiser on the same streams, stationary and drifting
personal    figure 10: users with a way of writing of their own
confidence  figure 7: which answers of an ensemble can be relied on

Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System" (NSDI 2017).
No server runs: policies are asked and told by the interface by which the server does it.
Everything follows from the seeds. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import mnist
from benchmarks.batching import count, some_of
from benchmarks.learn.estimate import goal_table
from benchmarks.learn.settings import Settings
from benchmarks.results import describe_machine

PARTS = ("failing", "libraries", "personal", "confidence")
SEEDS, QUICK_SEEDS = 50, 2


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    missing = mnist.missing_package()
    if missing is None and chosen.plots is not None and find_spec("matplotlib") is None:
        missing = "matplotlib"
    if missing is not None:
        print(
            f"error: {missing} is not installed; the benchmark needs the extra `bench`: "
            "pip install '.[bench]'",
            file=sys.stderr,
        )
        return 2
    settings = Settings(range(chosen.seeds), chosen.short, chosen.processes)
    about = {**describe_machine(), "seeds": chosen.seeds, "quick": chosen.short}
    found: dict[str, Any] = {"about": about, "parts": {}}
    for name in chosen.only:
        begun = time.perf_counter()
        found["parts"][name] = part(name).measure(settings)
        took = time.perf_counter() - begun
        print(f"[{time.strftime('%H:%M:%S')}] {name}: {took:.0f} s", flush=True)
    print(f"\n{make_report(found)}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    if chosen.plots is not None:
        chosen.plots.mkdir(parents=True, exist_ok=True)
        for name, one in found["parts"].items():
            part(name).draw(one, chosen.plots)
    return 0


def part(name: str) -> ModuleType:
    return import_module(f"benchmarks.learn.{name}")


def make_report(found: dict[str, Any]) -> str:
    about = found["about"]
    texts = [
        f"{about['processor']}, {about['cores']} cores, {about['system']}\n"
        f"Python {about['python']}, {about['when']}\n"
        f"Seeds: {about['seeds']}; means with 95 % intervals over the seeds."
    ]
    goals = []
    for name, one in found["parts"].items():
        texts.append(f"{part(name).TITLE}\n\n{part(name).report(one)}")
        goals += part(name).goals(one)
    texts.append(f"Targets\n\n{goal_table(goals)}")
    return "\n\n".join(texts)


def parse(arguments: list[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--seeds", type=count, help=f"how many ({SEEDS})")
    add("--only", type=some_of(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)}")
    add("--processes", type=count, help="at once (as many as cores; 1 if --short)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--plots", type=Path, metavar="DIRECTORY", help="write the plots there")
    add("--short", action="store_true", help="short streams, few seeds: does it work")
    chosen = options.parse_args(arguments)
    if chosen.seeds is None:
        chosen.seeds = QUICK_SEEDS if chosen.short else SEEDS
    if chosen.processes is None:
        chosen.processes = 1 if chosen.short else os.cpu_count() or 1
    return chosen
