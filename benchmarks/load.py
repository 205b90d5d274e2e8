"""Load from keep-alive connections, each sending its next request upon the last answer.

wrk does it where it is installed. Else this file does, as a program of its own:

    python -m benchmarks.load URL --connections 32 --seconds 3 --bodies LIST
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from benchmarks.process import ROOT, no_collector

SCRIPT = Path(__file__).with_name("bodies.lua")

JSON, NPY = "application/json", "application/x-npy"


class LoadError(Exception):
    """The load could not be made, or the answers are not what they must be."""


@dataclass(frozen=True)
class Load:
    """What one run of a generator saw. Latencies in seconds."""

    good: int  # answers with a status below 400
    refused: int  # answers with any other status
    broken: int  # failures and timeouts of connections
    seconds: float
    p50: float
    p99: float
    cpu: float = 0.0  # CPU seconds of the generator itself

    @property
    def answers(self) -> int:
        return self.good + self.refused


@dataclass(frozen=True)
class Target:
    """Where requests go and what they carry."""

    port: int
    path: str
    bodies: Sequence[bytes]
    listing: Path  # a file that names a file per body, for the generators
    content_type: str = JSON

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


def write_bodies(bodies: Sequence[bytes], directory: Path) -> Path:
    """One file per body and the listing that names them, in order."""
    directory.mkdir(parents=True)
    paths = [directory / f"{index:04}" for index in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    listing = directory / "listing"
    listing.write_text("".join(f"{path}\n" for path in paths))
    return listing


def post(
    port: int,
    path: str,
    body: bytes,
    content_type: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request: status and body. OSError when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {"Content-Type": content_type, **(headers or {})}
    try:
        connection.request("POST", path, body, sent)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"broken answer: {error!r}") from error
    finally:
        connection.close()


def find_generator(wanted: str) -> str:
    """The generator to use, "wrk" or "own", of `wanted` "auto", "wrk" or "own"."""
    have = shutil.which("wrk") is not None
    if wanted == "wrk" and not have:
        raise LoadError("wrk is not installed")
    return "wrk" if have and wanted != "own" else "own"


def run_load(generator: str, target: Target, connections: int, seconds: int) -> Load:
    """Load on `target` for `seconds`, from a process of its own."""
    before = os.times()
    if generator == "wrk":
        load = _run_wrk(target, connections, seconds)
    else:
        load = _run_own(target, connections, seconds)
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Load(**{**asdict(load), "cpu": cpu})


def _run_wrk(target: Target, connections: int, seconds: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    environment = {
        **os.environ,
        "BODIES": str(target.listing),
        "CONTENT_TYPE": target.content_type,
    }
    output = _run([*command, "-s", str(SCRIPT), target.url], seconds, environment)
    _, _, line = output.rpartition("RESULT ")
    try:
        seen = json.loads(line)
    except ValueError:
        raise LoadError(f"wrk said: {output[-500:]}") from None
    return Load(
        good=seen["answers"] - seen["refused"],
        refused=seen["refused"],
        broken=seen["broken"],
        seconds=seen["microseconds"] / 1e6,
        p50=seen["p50"] / 1e6,
        p99=seen["p99"] / 1e6,
    )


def _run_own(target: Target, connections: int, seconds: int) -> Load:
    command = [sys.executable, "-m", "benchmarks.load", target.url]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += ["--bodies", str(target.listing), "--content-type", target.content_type]
    return Load(**json.loads(_run(command, seconds, dict(os.environ))))


def _run(command: list[str], seconds: int, environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"{command[0]} did not come to an end") from None
    if done.returncode != 0:
        raise LoadError(f"{command[0]} failed: {done.stdout[-500:]}")
    return done.stdout


# -- the generator of our own ----------------------------------------------------------


class Generator:
    """Connections that send prepared requests in turn until the time is over.

    Mutable: the counters, `_next` (index of the next request), `_open` (connections
    still in use) and `_stopping`, all touched on the event loop only.
    """

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._next = 0
        self._open: set[Connection] = set()
        self._stopping = False
        self.latencies: list[float] = []
        self.refused = 0
        self.broken = 0

    def next_request(self) -> bytes:
        self._next = (self._next + 1) % len(self._requests)
        return self._requests[self._next]

    def answered(self, status: int, latency: float) -> None:
        if status < 400:
            self.latencies.append(latency)
        else:
            self.refused += 1

    def lost(self, connection: Connection) -> None:
        if connection in self._open and not self._stopping:
            self._open.discard(connection)
            self.broken += 1

    async def run(self, host: str, port: int, connections: int, seconds: float) -> Load:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self), host, port
            )
            self._open.add(connection)
        with no_collector():
            begin = time.perf_counter()
            for connection in self._open:
                connection.send()
            await asyncio.sleep(seconds)
            took = time.perf_counter() - begin
        load = self._result(took)
        self._stopping = True
        for connection in self._open:
            connection.transport.abort()
        await asyncio.sleep(0)  # let the transports close
        return load

    def _result(self, seconds: float) -> Load:
        ordered = sorted(self.latencies)
        return Load(
            good=len(ordered),
            refused=self.refused,
            broken=self.broken,
            seconds=seconds,
            p50=percentile(ordered, 50),
            p99=percentile(ordered, 99),
        )


class Connection(asyncio.Protocol):
    """One request out, one answer with a Content-Length in, again and again."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(self._generator.next_request())

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        status, end = parse_answer(data)
        if end == 0 or len(data) < end:
            self._buffer = data
            return
        self._buffer = b""
        self._generator.answered(status, time.perf_counter() - self._sent)
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self)


def parse_answer(data: bytes) -> tuple[int, int]:
    """Status and total length of the answer at the head of `data`; (0, 0) if its head
    is not complete. Answers must tell their Content-Length."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return 0, 0
    head = data[:head_end].lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if not found:
        raise LoadError(f"an answer without Content-Length: {data[:200]!r}")
    length = int(rest.split(b"\r\n", 1)[0])
    return int(head[9:12]), head_end + 4 + length


def make_request(host: str, path: str, body: bytes, content_type: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of `ordered` do not exceed; else 0."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def main() -> None:
    options = argparse.ArgumentParser(description="a load generator; prints JSON")
    options.add_argument("url")
    options.add_argument("--connections", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--bodies", type=Path, required=True, help="a list of files")
    options.add_argument("--content-type", default=JSON)
    chosen = options.parse_args()
    url = urlsplit(chosen.url)
    assert url.hostname is not None and url.port is not None
    host = f"{url.hostname}:{url.port}"
    requests = [
        make_request(host, url.path, Path(name).read_bytes(), chosen.content_type)
        for name in chosen.bodies.read_text().splitlines()
    ]
    run = Generator(requests).run(
        url.hostname, url.port, chosen.connections, chosen.seconds
    )
    try:
        import uvloop
    except ImportError:
        load = asyncio.run(run)
    else:
        load = uvloop.run(run)
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
