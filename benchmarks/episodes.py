"""What is measured otherwise than under load: an embedded server, one miss shared by a
thousand clients, the start, and the cost of doing nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import work
from benchmarks.cases import Bench, read_outputs, same
from benchmarks.command import progress
from benchmarks.load import JSON, LoadError, make_request, parse_answer, post
from benchmarks.process import ROOT
from benchmarks.servers import ClipperServer

MISSES = 1000
MISS_SECONDS = 0.2  # one evaluation of the counting model: time for all to arrive
SETTLE_SECONDS = 1.0  # from the last request to what is called idle


def run_embedded(bench: Bench) -> None:
    """Series "embedded tasks" and "embedded gather", predictions per second."""
    command = [sys.executable, "-m", "benchmarks.embedded"]
    command += ["--seconds", str(bench.seconds)]
    for round_ in range(bench.runs):
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=6 * bench.seconds + 120,
            check=False,
        )
        if done.returncode != 0:
            raise LoadError(f"the embedding program failed:\n{done.stderr[-2000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        for name, value in found.items():
            bench.results.add(f"embedded {name}", value)
        progress(
            f"embedded round {round_ + 1}/{bench.runs}, "
            f"tasks {found['tasks']:,.0f}/s, gather {found['gather']:,.0f}/s"
        )


# -- a thousand equal misses -----------------------------------------------------------


def make_counter() -> Callable[[Any], list[int]]:
    """A slow model that answers with the number of rows it has evaluated so far."""
    evaluated = 0
    seconds = MISS_SECONDS

    def count_rows(rows: Any) -> list[int]:
        import time

        nonlocal evaluated
        time.sleep(seconds)
        evaluated += len(rows)
        return [evaluated] * len(rows)

    return count_rows


def run_misses(bench: Bench) -> None:
    """Series "evaluations" of a thousand simultaneous identical misses."""
    with ClipperServer(bench.directory("misses")) as server:
        server.deploy("counter", make_counter())
        server.register("counter", "counter", cache=True, slo_seconds=10.0)
        path = server.path_of("counter")
        for round_ in range(bench.runs):
            before = _count(server, [round_, 1.0])
            body = work.to_json(input=[round_, 2.0])
            request = make_request(f"127.0.0.1:{server.port}", path, body, JSON)
            answers = asyncio.run(burst(server.port, request, MISSES))
            after = _count(server, [round_, 3.0])
            for status, answer in answers:
                if status != 200 or read_outputs(answer) != [before + 1]:
                    raise LoadError(f"a miss was answered {status}: {answer[:300]!r}")
            bench.results.add("evaluations", after - before - 1)
            progress(
                f"misses round {round_ + 1}/{bench.runs}, {MISSES:,} at once: "
                f"{after - before - 1} evaluated"
            )


def _count(server: ClipperServer, row: list[float]) -> int:
    """The rows evaluated so far, `row` included, which must be a new one."""
    body = work.to_json(input=row)
    status, answer = post(server.port, server.path_of("counter"), body)
    if status != 200:
        raise LoadError(f"the counting model answered {status}: {answer[:300]!r}")
    return int(read_outputs(answer)[0])


async def burst(port: int, request: bytes, count: int) -> list[tuple[int, bytes]]:
    """`request` sent on `count` connections at once: status and body of each answer."""
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        for _, writer in streams:
            writer.write(request)
        reads = (_read_answer(reader) for reader, _ in streams)
        async with asyncio.timeout(60):
            return await asyncio.gather(*reads)
    except TimeoutError:
        raise LoadError("not every miss was answered within a minute") from None
    finally:
        for _, writer in streams:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    data = b""
    while True:
        status, end = parse_answer(data)
        if 0 < end <= len(data):
            return status, data[data.index(b"\r\n\r\n") + 4 :]
        more = await reader.read(65_536)
        if not more:
            raise LoadError(f"a connection was closed after {data[:200]!r}")
        data += more


# -- starting and idling ---------------------------------------------------------------


def run_start(bench: Bench) -> None:
    """Series "start", seconds from spawning `clipper serve` to the first correct answer,
    with one deployed numpy function to restore."""
    [row] = work.make_rows("sum", 1)
    body = work.to_json(input=row)
    server = ClipperServer(bench.directory("start"))

    def correct() -> bool:
        status, answer = post(server.port, server.path_of("sum"), body)
        return status == 200 and same(read_outputs(answer)[0], sum(row))

    with server:
        _deploy_sum(bench, server)
    for round_ in range(bench.runs):
        begun = time.monotonic()
        try:
            server.spawn()
            server.wait(correct, pause=0.002)
            took = time.monotonic() - begun
        finally:
            server.stop()
        bench.results.add("start", took)
        progress(f"start round {round_ + 1}/{bench.runs}, {took:.3f} s")


def run_idle(bench: Bench) -> None:
    """Series "pss" and "rss" (bytes) of the server with one worker, and "idle cpu"
    (cores), once nothing is asked of it."""
    with ClipperServer(bench.directory("idle")) as server:
        _deploy_sum(bench, server)
        [row] = work.make_rows("sum", 1)
        post(server.port, server.path_of("sum"), work.to_json(input=row))
        time.sleep(SETTLE_SECONDS)
        assert server.process is not None
        memory = server.process.memory()
        begun, before = time.monotonic(), server.process.cpu()
        time.sleep(bench.idle_seconds)
        used = server.process.cpu().since(before)
        cores = (used.front + used.workers) / (time.monotonic() - begun)
    bench.results.add("pss", memory.pss)
    bench.results.add("rss", memory.rss)
    bench.results.add("idle cpu", cores)
    progress(f"idle: PSS {memory.pss / 1e6:.1f} MB, {cores:.2%} of a core")


def _deploy_sum(bench: Bench, server: ClipperServer) -> None:
    server.deploy("sum", work.make_model("sum"))
    server.register("sum", "sum", cache=False, slo_seconds=bench.slo_seconds)
