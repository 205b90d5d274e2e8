"""The cases under load: one model, several servers, the same bodies.

A round measures every lane once at every number of connections, so that a drift of the
machine meets all lanes alike and ratios within a round are fair.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.command import progress
from benchmarks.load import JSON, NPY, LoadError, Target, post, run_load, write_bodies
from benchmarks.process import busy_seconds
from benchmarks.results import Results, Sample
from benchmarks.servers import ClipperServer, FloorServer, PeerServer, Server

CHECKED = 8  # bodies whose answers are compared with the model's before any load


@dataclass(frozen=True)
class Case:
    """Lanes: "clipper" (cache off), "cached" (cache on), "refused" (an objective that few
    can be served within, and a default output), "floor", "mosec", "litserve"."""

    name: str
    title: str
    work: str
    lanes: tuple[str, ...]
    rows: int = 1  # in one request
    bodies: int = 256  # different ones, sent in turn
    connections: tuple[int, ...] | None = None  # None: those of the command line
    content_type: str = JSON


ALL = ("clipper", "floor", "mosec", "litserve")

CASES = (
    Case("sum", "sum of 10 doubles", "sum", ALL),
    Case("svm", "linear SVM, 784 doubles", "svm", ALL, bodies=128),
    Case("forest", "random forest, 100 trees of depth 10, 64 doubles", "forest", ALL),
    Case(
        "batch64",
        "sum of 10 doubles, input_batch of 64 rows",
        "sum",
        ("clipper", "floor"),
        rows=64,
        bodies=64,
        connections=(128,),
    ),
    Case(
        "npy256",
        "sum of 10 doubles, npy bodies of 256 rows",
        "sum",
        ("clipper",),
        rows=256,
        bodies=32,
        connections=(32,),
        content_type=NPY,
    ),
    Case(
        "refused",
        "1 ms and 0.4 ms a row, far more asked than it can do: the default output",
        "sleep",
        ("refused", "floor"),
        connections=(128,),
    ),
    Case(
        "cached",
        "sum of 10 doubles, 16 bodies repeated, cache on",
        "sum",
        ("cached", "clipper", "floor"),
        bodies=16,
        connections=(128,),
    ),
)


@dataclass
class Bench:
    """The options of one run, its scratch directory and what it has found so far."""

    scratch: Path
    results: Results
    runs: int = 5
    seconds: int = 3
    warm_seconds: int = 1
    idle_seconds: float = 5.0
    connections: Sequence[int] = (1, 32, 128, 512)
    generator: str = "own"
    slo_seconds: float = 0.1
    peers: dict[str, str] = field(default_factory=dict)  # name -> interpreter
    against: Path | None = None  # another checkout to compare with
    failed: bool = False

    def fail(self, text: str) -> None:
        """Note that something that was asked for could not be measured."""
        self.failed = True
        self.results.notes.append(text)
        progress(text)

    def directory(self, name: str) -> Path:
        path = self.scratch / name
        path.mkdir()
        return path


@dataclass(frozen=True)
class Lane:
    name: str
    server: Server
    target: Target


def run_case(bench: Bench, case: Case) -> None:
    """Start the servers, check their answers, warm them, measure them, stop them.

    A server that fails leaves the case with a note, and the others go on.
    """
    scratch = bench.directory(case.name)
    rows = work.make_rows(case.work, case.bodies * case.rows)
    bodies = make_bodies(case, rows)
    listing = write_bodies(bodies, scratch / "bodies")
    expected = work.predict(work.make_model(case.work), rows[: CHECKED * case.rows])
    connections = case.connections or bench.connections
    with ExitStack() as stack:
        lanes: list[Lane] = []
        for server in choose_servers(bench, case, bodies[0], scratch):
            try:
                with ExitStack() as starting:
                    starting.enter_context(server)
                    for name, path in prepare(bench, case, server):
                        target = Target(
                            server.port, path, bodies, listing, case.content_type
                        )
                        lane = Lane(name, server, target)
                        if not isinstance(server, FloorServer):
                            check_answers(lane, case.rows, expected)
                        warm(bench, lane, max(connections))
                        lanes.append(lane)
                        progress(f"{case.name}: {name} is up")
                    server.pause()
                    stack.push(starting.pop_all())
            except LoadError as error:
                bench.fail(f"{case.name}: {error}")
                lanes = [lane for lane in lanes if lane.server is not server]
        run_rounds(bench, case, connections, lanes)


def run_rounds(
    bench: Bench, case: Case, connections: Sequence[int], lanes: list[Lane]
) -> None:
    for round_ in range(bench.runs):
        for count in connections:
            for lane in list(lanes):
                try:
                    sample = measure(bench, case, lane, count, round_)
                except LoadError as error:
                    bench.fail(f"{case.name}: {error}")
                    lanes.remove(lane)
                else:
                    bench.results.samples.append(sample)
                    progress(describe(sample, bench.runs))


def make_bodies(case: Case, rows: Sequence[work.Row]) -> list[bytes]:
    groups = [rows[i : i + case.rows] for i in range(0, len(rows), case.rows)]
    if case.content_type == NPY:
        return [work.to_npy(group) for group in groups]
    if case.rows > 1:
        return [work.to_json(input_batch=group) for group in groups]
    return [work.to_json(input=group[0]) for group in groups]


def choose_servers(
    bench: Bench, case: Case, body: bytes, scratch: Path
) -> Iterator[Server]:
    """The servers of a case that can be had here, in the order of its table."""
    yield ClipperServer(scratch)
    if bench.against is not None:
        name = f"clipper@{bench.against.name}"
        yield ClipperServer(scratch, name=name, checkout=bench.against)
    if "floor" in case.lanes:
        yield FloorServer(scratch)
    for name in case.lanes:
        if name in bench.peers:
            yield PeerServer(name, bench.peers[name], case.work, body, scratch)


def prepare(bench: Bench, case: Case, server: Server) -> list[tuple[str, str]]:
    """Names and paths of the lanes on a started server, its model deployed."""
    if not isinstance(server, ClipperServer):
        return [(server.name, server.path)]
    server.deploy(case.work, work.make_model(case.work))
    if "refused" in case.lanes:
        server.register(
            "refused", case.work, cache=False, slo_seconds=0.02, default_output="-1"
        )
        return [(server.name.replace("clipper", "refused"), server.path_of("refused"))]
    server.register("plain", case.work, cache=False, slo_seconds=bench.slo_seconds)
    lanes = [(server.name, server.path_of("plain"))]
    if "cached" in case.lanes:
        server.register("cached", case.work, cache=True, slo_seconds=bench.slo_seconds)
        name = server.name.replace("clipper", "cached")
        lanes.insert(0, (name, server.path_of("cached")))
    return lanes


def check_answers(lane: Lane, rows: int, expected: Sequence[Any]) -> None:
    """LoadError unless the server predicts what the model does."""
    target = lane.target
    for index, body in enumerate(target.bodies[:CHECKED]):
        status, answer = post(target.port, target.path, body, target.content_type)
        if status != 200:
            raise LoadError(f"{lane.name} answered {status}: {answer[:300]!r}")
        outputs = read_outputs(answer)
        wanted = list(expected[index * rows : (index + 1) * rows])
        if len(outputs) != len(wanted) or not all(map(same, outputs, wanted)):
            raise LoadError(
                f"{lane.name} answered {outputs[:4]}, the model says {wanted[:4]}"
            )


def read_outputs(answer: bytes) -> list[Any]:
    """The outputs in one answer, of one row or of many; None where there is none."""
    document = json.loads(answer)
    predictions = document.get("batch_predictions", [document])
    return [each.get("output") for each in predictions if not each.get("default")]


def same(output: Any, wanted: Any) -> bool:
    return isinstance(output, (int, float)) and math.isclose(output, wanted, rel_tol=1e-9)


def warm(bench: Bench, lane: Lane, connections: int) -> None:
    if bench.warm_seconds:
        run_load(bench.generator, lane.target, connections, bench.warm_seconds)


def measure(bench: Bench, case: Case, lane: Lane, connections: int, round_: int) -> Sample:
    """One load on one lane, with the CPU it took."""
    process = lane.server.process
    assert process is not None
    lane.server.resume()
    busy, begun, cpu = busy_seconds(), time.monotonic(), process.cpu()
    load = run_load(bench.generator, lane.target, connections, bench.seconds)
    used = process.cpu().since(cpu)
    took = time.monotonic() - begun
    other = busy_seconds() - busy - used.front - used.workers - load.cpu
    lane.server.pause()
    if not process.alive:
        raise LoadError(f"{lane.name} ended under load:\n{process.log_tail()}")
    answers = max(1, load.answers)
    return Sample(
        case=case.name,
        lane=lane.name,
        connections=connections,
        round=round_,
        rate=load.good / load.seconds,
        rows=case.rows,
        p50=load.p50,
        p99=load.p99,
        front_cpu=used.front / answers,
        worker_cpu=used.workers / answers,
        errors=load.refused + load.broken,
        other_cores=max(0.0, other / took),
    )


def describe(sample: Sample, runs: int) -> str:
    errors = f", {sample.errors} errors" if sample.errors else ""
    return (
        f"{sample.case} round {sample.round + 1}/{runs}, "
        f"{sample.connections:3} connections, {sample.lane:9} "
        f"{sample.rate:9,.0f}/s  p50 {sample.p50 * 1e3:.2f} ms  "
        f"{sample.front_cpu * 1e6:.1f} us{errors}"
    )
