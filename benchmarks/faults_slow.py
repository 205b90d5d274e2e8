"""Idle and slow clients by the thousand: what others notice of them.

A steady client asks 200 times a second, alone and beside each crowd. Idle connections are
held by two processes; the slow ones are those of slowhttptest, if it is installed: heads
and bodies that come drop by drop, and answers that are hardly read.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import work
from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, wait_for
from benchmarks.load import LoadError, Target, write_bodies
from benchmarks.outcome import OpenLoad, Part
from benchmarks.slow_clients import Crowd

RATE = 200.0  # requests per second of the client that is watched
SLO = 2.0  # seconds: no deadline cuts what is compared
MODEL = "sum"
MARGIN, LEAST = 0.2, 0.002  # what the p99 may grow by: a part of it, or seconds
RSS_BYTES = 15_000  # for each idle connection
OPENED = 1000  # slow connections per second
SLOW_SECONDS = 10  # between two drops, so that they stand while they are measured

# slowhttptest's own names of what it does slowly, and what it asks for.
SLOW = {
    "heads": ["-H"],
    "bodies": ["-B", "-s", "8192", "-f", "application/json", "-t", "POST"],
    "readers": ["-X", "-n", "1", "-w", "512", "-y", "1024", "-z", "32", "-k", "3"],
}


def run(run: FaultRun) -> None:
    with ExitStack() as stack:
        watch = Watch(run, stack.enter_context(FaultServer(run.directory("slow"))))
        watch.server.deploy(MODEL, work.make_model(MODEL))
        watch.server.register(MODEL, MODEL, cache=False, slo_seconds=SLO)
        watch.measure("warm")
        idle(run, watch)
        if shutil.which("slowhttptest") is None:
            run.note("slowhttptest is not installed: heads, bodies and readers left out")
            return
        for name in SLOW:
            slow(run, watch, name)


class Watch:
    """The steady client of one server."""

    def __init__(self, run: FaultRun, server: FaultServer) -> None:
        bodies = [work.to_json(input=row) for row in work.make_rows(MODEL, 64)]
        listing = write_bodies(bodies, run.scratch / "slow-bodies")
        self.server = server
        self._target = Target(server.port, server.path_of(MODEL), bodies, listing)
        self._seconds = float(run.pick(30, 1))
        self._seed = run.seed

    def measure(self, what: str) -> Part:
        """One load; LoadError if a request was not answered by the model."""
        self._seed += 1
        loads = [(RATE, self._seconds)]
        with OpenLoad(
            self._target, loads, slo=SLO, seed=self._seed, connections=16
        ) as load:
            outcome = load.outcome()
        part = outcome.part
        late = ", GENERATOR TOO LATE" if outcome.limited else ""
        progress(f"slow: {what}: p99 {1e3 * (part.p99_all or 0):.2f} ms{late}")
        return part

    @property
    def connections(self) -> float:
        return self.server.total("clipper_http_connections")


def idle(run: FaultRun, watch: Watch) -> None:
    count = run.pick(10_000, 1000)
    rounds = []
    for number in range(run.pick(3, 1)):
        alone = watch.measure("alone")
        before = watch.server.resident()
        with ExitStack() as stack:
            crowds = [Crowd(watch.server.port, count // 2) for _ in range(2)]
            for crowd in crowds:
                stack.enter_context(crowd)
            if watch.connections < count:
                raise LoadError("the server has let go of idle connections")
            each = (watch.server.resident() - before) / count
            rounds.append((alone, watch.measure(f"beside {count} idle connections")))
        wait_for("the end of idle connections", lambda: watch.connections < 100)
        if number == 0:
            text = "memory of an idle connection, bytes"
            run.found("slow", "N1", f"{count:,} idle", text, "<=", RSS_BYTES, each)
    judge(run, "N1", f"{count:,} idle connections", rounds)


def slow(run: FaultRun, watch: Watch, name: str) -> None:
    count = run.pick(4000, 400)
    rounds = []
    for _ in range(run.pick(3, 1)):
        alone = watch.measure("alone")
        with dripping(watch, name, count, run.pick(90, 30)):
            rounds.append((alone, watch.measure(f"beside {count} slow {name}")))
        wait_for(f"the end of slow {name}", lambda: watch.connections < 100)
    judge(run, "N2", f"{count:,} slow {name}", rounds)


@contextmanager
def dripping(watch: Watch, name: str, count: int, seconds: int) -> Iterator[None]:
    """slowhttptest at work, once most of its connections are there."""
    path = "/docs" if name == "readers" else watch.server.path_of(MODEL)
    url = f"http://127.0.0.1:{watch.server.port}{path}"
    command = ["slowhttptest", *SLOW[name], "-c", str(count), "-r", str(OPENED)]
    command += ["-i", str(SLOW_SECONDS), "-l", str(seconds), "-p", "10", "-u", url]
    with open(watch.server.log.with_name(f"{name}.log"), "ab") as log:
        tool = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 20
        while watch.connections < 0.8 * count and time.monotonic() < end:
            if tool.poll() is not None:
                raise LoadError(f"slowhttptest ended with status {tool.returncode}")
            time.sleep(0.05)
        progress(f"slow: {watch.connections:,.0f} connections")
        yield
    finally:
        tool.kill()
        tool.wait()


def judge(run: FaultRun, row: str, crowd: str, rounds: list[tuple[Part, Part]]) -> None:
    """What the crowd cost the steady client."""
    failed = sum(part.offered - part.good for pair in rounds for part in pair)
    run.found("slow", row, crowd, "others' requests that failed", "<=", 0, failed)
    beyond = []
    for alone, beside in rounds:
        one, other = (part.p99_all or float("inf") for part in (alone, beside))
        beyond.append(1e3 * (other - one - max(MARGIN * one, LEAST)))
    text = "others' p99 beyond 20 % or 2 ms more, ms"
    alone_ms = statistics.median(1e3 * (a.p99_all or 0) for a, _ in rounds)
    beside_ms = statistics.median(1e3 * (b.p99_all or 0) for _, b in rounds)
    run.found(
        "slow",
        row,
        crowd,
        text,
        "<=",
        0.0 if run.long else 100.0,
        statistics.median(beyond),
        beside=f"p99 {alone_ms:.2f} ms alone, {beside_ms:.2f} ms beside",
        form="{:,.2f}",
    )
