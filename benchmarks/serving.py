"""Serving speed: Clipper beside a bare HTTP floor, Mosec and LitServe on the same work.

Each case starts its servers on loopback, compares their answers with the model's, and
loads them in turn, round after round; medians over the rounds are printed as tables,
beside the targets. Peers are found in ~/.cache/clipper-peers/NAME (a virtual environment
with the peer, numpy and scikit-learn) or on the interpreter at work. Nothing else should
run on the machine. Linux only.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.cases import CASES, Bench, run_case
from benchmarks.command import (
    SHORT,
    count,
    end_on_signals,
    fill,
    make_options,
    refuse,
    run_parts,
    some_of,
)
from benchmarks.episodes import run_embedded, run_idle, run_misses, run_start
from benchmarks.load import LoadError, find_generator
from benchmarks.process import raise_descriptor_limit
from benchmarks.report import make_report
from benchmarks.results import Results, describe_machine
from benchmarks.servers import PEERS, add_peer_options, find_peers, peer_versions

PARTS: dict[str, Callable[[Bench], None]] = {
    **{case.name: partial(run_case, case=case) for case in CASES},
    "embedded": run_embedded,
    "misses": run_misses,
    "start": run_start,
    "idle": run_idle,
}
SHORT_PARTS = ("sum", "misses", "start")


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    end_on_signals()
    raise_descriptor_limit()
    try:
        peers = find_peers(chosen)
        versions = peer_versions(peers)
        generator = find_generator(chosen.generator)
    except LoadError as error:
        return refuse(str(error))
    about = {
        **describe_machine(),
        "runs": chosen.runs,
        "seconds": chosen.seconds,
        "generator": generator
        if generator == "wrk"
        else "the generator in benchmarks/load.py",
        "slo_ms": chosen.slo_ms,
        "peers": versions,
    }
    results = Results(about)
    if chosen.short:
        results.notes.append(SHORT)
    for name in PEERS:
        if name not in peers and not chosen.short:
            results.notes.append(f"{name} is not installed and was left out.")
    with tempfile.TemporaryDirectory(prefix="clipper-bench-") as scratch:
        bench = Bench(
            scratch=Path(scratch),
            results=results,
            runs=chosen.runs,
            seconds=chosen.seconds,
            warm_seconds=chosen.warm,
            idle_seconds=1.0 if chosen.short else 5.0,
            connections=chosen.connections,
            generator=generator,
            slo_seconds=chosen.slo_ms / 1e3,
            peers=peers,
            against=chosen.against,
        )
        run_parts(chosen.only, lambda name: PARTS[name](bench), bench.fail)
    print(f"\n{make_report(results)}")
    if chosen.json is not None:
        results.write(chosen.json)
    return 1 if bench.failed else 0


# -- the command line ------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    options = make_options("serving", __doc__)
    add = options.add_argument
    add("--runs", type=count, help="rounds (5)")
    add("--seconds", type=count, help="of each load (3)")
    add(
        "--warm", type=int, help="seconds of load on each server before the first round (1)"
    )
    add("--connections", type=counts, help="comma-separated (1,32,128,512)")
    add("--only", type=some_of(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add("--short", action="store_true", help="some seconds in all, no peers: does it work")
    add("--generator", choices=("auto", "wrk", "own"), default="auto")
    add("--slo-ms", type=float, default=100.0, help="Clipper's objective (100)")
    add_peer_options(options)
    add("--against", type=checkout, metavar="DIR", help="another checkout to load in turn")
    chosen = options.parse_args(arguments)
    short = chosen.short
    fill(
        chosen,
        runs=1 if short else 5,
        seconds=1 if short else 3,
        warm=0 if short else 1,
        connections=(1, 128) if short else (1, 32, 128, 512),
        only=list(SHORT_PARTS if short else PARTS),
    )
    return chosen


def counts(text: str) -> tuple[int, ...]:
    return tuple(count(part) for part in text.split(","))


def checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "clipper" / "__main__.py").exists():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of Clipper")
    return path
