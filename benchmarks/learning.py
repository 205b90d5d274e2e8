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
import os
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import mnist
from benchmarks.command import (
    SHORT,
    count,
    fill,
    make_options,
    missing_extra,
    progress,
    refuse,
    some_of,
    write_json,
)
from benchmarks.goals import goal_table
from benchmarks.learn.settings import Settings
from benchmarks.results import describe_machine

PARTS = ("failing", "libraries", "personal", "confidence")
SEEDS, QUICK_SEEDS = 50, 2


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    missing = missing_extra(mnist.missing_package(), chosen.plots)
    if missing is not None:
        return refuse(missing)
    settings = Settings(range(chosen.seeds), chosen.short, chosen.processes)
    about = {**describe_machine(), "seeds": chosen.seeds, "quick": chosen.short}
    found: dict[str, Any] = {"about": about, "parts": {}}
    for name in chosen.only:
        begun = time.perf_counter()
        found["parts"][name] = part(name).measure(settings)
        took = time.perf_counter() - begun
        progress(f"{name}: {took:.0f} s")
    print(f"\n{make_report(found)}")
    if chosen.json is not None:
        write_json(chosen.json, found)
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
    texts.append(f"Targets\n\n{goal_table(goals, beside='95 % interval')}")
    if about["quick"]:
        texts.append(f"Note: {SHORT}")
    return "\n\n".join(texts)


def parse(arguments: list[str]) -> argparse.Namespace:
    options = make_options("learning", __doc__)
    add = options.add_argument
    add("--seeds", type=count, help=f"how many ({SEEDS})")
    add("--only", type=some_of(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)}")
    add("--processes", type=count, help="at once (as many as cores; 1 if --short)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--plots", type=Path, metavar="DIRECTORY", help="write the plots there")
    add("--short", action="store_true", help="short streams, few seeds: does it work")
    chosen = options.parse_args(arguments)
    short = chosen.short
    seeds, processes = QUICK_SEEDS if short else SEEDS, 1 if short else os.cpu_count() or 1
    fill(chosen, seeds=seeds, processes=processes)
    return chosen
