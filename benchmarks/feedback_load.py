"""Feedback from keep-alive connections, each sending its next request upon the last answer.

    python -m benchmarks.feedback_load PORT APPLICATION --rows FILE --ids 20000 ...

A program of its own. First it asks for predictions, so that it has query ids, of which
each is used once; then it makes all requests beforehand; then it writes one line and
sends them; and it ends with a line of what it saw, as JSON. With --input feedback is by
input and label. A piece counts where the answer says that it was accepted and is no
duplicate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from benchmarks.load import JSON, LoadError, make_request, parse_answer, percentile, post
from benchmarks.process import ROOT, no_collector

ROWS_PER_ASK = 100  # rows of one input_batch: one decision is taken for all of them
SETTLE = (
    0.8  # seconds from the last prediction to the first feedback: decisions are written
)

ACCEPTED = b'"accepted":true,"duplicate":false'
DUPLICATE = b'"accepted":true,"duplicate":true'
ERROR = b'"error":'
_IDS = re.compile(rb'"query_id":"([^"]+)"')


@dataclass(frozen=True)
class FeedbackSeen:
    """What one run saw. Latencies in seconds, of requests."""

    accepted: int  # pieces
    duplicates: int
    refused: int
    seconds: float
    p50: float
    p99: float
    cpu: float  # CPU seconds of the generator while it sent
    exhausted: bool  # it ended because everything was sent


# -- what is sent ----------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """Inputs as JSON, and what is said of each: its label."""

    inputs: list[str]
    labels: list[int]

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def ask(port: int, application: str, said: Said, start: int, count: int) -> list[bytes]:
    """Query ids of `count` predictions, for the inputs from number `start` on, in turn."""
    size = len(said.inputs)
    inputs = ",".join(said.inputs[number % size] for number in range(start, start + count))
    status, answer = post(
        port, f"/{application}/predict", f'{{"input_batch":[{inputs}]}}'.encode()
    )
    found = _IDS.findall(answer)
    if status != 200 or len(found) != count or b'"default":true' in answer:
        raise LoadError(f"predictions were not answered: {status} {answer[:300]!r}")
    return found


def pieces_by_id(
    port: int, application: str, said: Said, count: int, reward: bool
) -> Iterator[bytes]:
    """`count` pieces, each on a prediction of its own."""
    labels = said.labels
    for start in range(0, count, ROWS_PER_ASK):
        rows = min(ROWS_PER_ASK, count - start)
        for number, query_id in enumerate(ask(port, application, said, start, rows), start):
            label = labels[number % len(labels)]
            what = b'"reward":%d' if reward else b'"label":%d'
            yield b'{"query_id":"%b",%b}' % (query_id, what % label)


def pieces_by_input(port: int, application: str, said: Said, count: int) -> Iterator[bytes]:
    """`count` pieces on inputs that were all predicted for before."""
    for start in range(0, len(said.inputs), ROWS_PER_ASK):
        rows = min(ROWS_PER_ASK, len(said.inputs) - start)
        ask(port, application, said, start, rows)
    bodies = [
        f'{{"input":{row},"label":{label}}}'.encode()
        for row, label in zip(said.inputs, said.labels, strict=True)
    ]
    for number in range(count):
        yield bodies[number % len(bodies)]


def requests_of(
    host: str, path: str, pieces: Iterator[bytes], each: int
) -> Iterator[bytes]:
    """Requests with `each` pieces; one alone is no list. What is left over is not sent."""
    while len(group := list(islice(pieces, each))) == each:
        body = group[0] if each == 1 else b'{"feedback":[%b]}' % b",".join(group)
        yield make_request(host, path, body, JSON)


# -- sending ---------------------------------------------------------------------------


class Generator:
    """Sends every request once, until all are sent or the time is over.

    Mutable: requests that are left, the counters, the moment of the end, all touched on
    the event loop only.
    """

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests[::-1]
        self._connections: list[Connection] = []
        self._over = asyncio.Event()
        self.latencies: list[float] = []
        self.accepted = self.duplicates = self.refused = 0
        self.ended = 0.0
        self.exhausted = False

    @property
    def going(self) -> bool:
        return not self.ended

    def next_request(self) -> bytes | None:
        if self._requests:
            return self._requests.pop()
        self.exhausted = True
        self.end()
        return None

    def end(self) -> None:
        if not self.ended:
            self.ended = time.perf_counter()
            self._over.set()

    def answered(self, body: bytes, latency: float) -> None:
        self.latencies.append(latency)
        self.accepted += body.count(ACCEPTED)
        self.duplicates += body.count(DUPLICATE)
        self.refused += body.count(ERROR)

    async def run(self, port: int, connections: int, seconds: float) -> FeedbackSeen:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", port
            )
            self._connections.append(connection)
        with no_collector():
            print("begin", flush=True)
            cpu, begun = time.process_time(), time.perf_counter()
            for connection in self._connections:
                connection.send()
            timer = loop.call_later(seconds, self.end)
            await self._over.wait()
            timer.cancel()
            cpu = time.process_time() - cpu
        ordered = sorted(self.latencies)
        seen = FeedbackSeen(
            accepted=self.accepted,
            duplicates=self.duplicates,
            refused=self.refused,
            seconds=self.ended - begun,
            p50=percentile(ordered, 50),
            p99=percentile(ordered, 99),
            cpu=cpu,
            exhausted=self.exhausted,
        )
        return seen

    async def close(self) -> None:
        for connection in self._connections:
            connection.transport.abort()
        await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """One request out, one answer with a Content-Length in, again and again."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        request = self._generator.next_request()
        if request is not None:
            self._sent = time.perf_counter()
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        generator = self._generator
        if not generator.going:
            return
        if self._buffer:
            data = self._buffer + data
        _, end = parse_answer(data)
        if end == 0 or len(data) < end:
            self._buffer = data
            return
        self._buffer = b""
        generator.answered(
            data[data.index(b"\r\n\r\n") + 4 :], time.perf_counter() - self._sent
        )
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._generator.going:
            self._generator.refused += 1


# -- the program -----------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    import uvloop

    chosen = parse(arguments)
    said = Said.read(chosen.rows)
    port, application = chosen.port, chosen.application
    if chosen.input:
        pieces = pieces_by_input(port, application, said, chosen.ids)
    else:
        pieces = pieces_by_id(port, application, said, chosen.ids, chosen.reward)
    path = f"/{application}/update"
    requests = list(requests_of(f"127.0.0.1:{port}", path, pieces, chosen.pieces))
    time.sleep(SETTLE)

    async def run() -> None:
        generator = Generator(requests)
        seen = await generator.run(port, chosen.connections, chosen.seconds)
        print(json.dumps(asdict(seen)), flush=True)
        await generator.close()

    uvloop.run(run())


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.feedback_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("port", type=int)
    add("application")
    add("--rows", type=Path, required=True, help="inputs and labels, of Said.write")
    add("--ids", type=int, required=True, help="pieces at most")
    add("--pieces", type=int, default=1, help="in one request")
    add("--connections", type=int, default=64)
    add("--seconds", type=float, default=2.0)
    add("--reward", action="store_true", help="a reward, not a label")
    add("--input", action="store_true", help="by input, not by query id")
    return options.parse_args(arguments)


class FeedbackLoad:
    """A generator at work; entering the context waits until it sends, leaving ends it."""

    def __init__(self, port: int, application: str, rows: Path, options: list[Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.feedback_load", str(port), application]
        self._command = [*command, "--rows", str(rows), *map(str, options)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._line()
        return self

    def seen(self) -> FeedbackSeen:
        """Wait for its end."""
        return FeedbackSeen(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.kill()
            _, error = self._process.communicate()
            raise LoadError(f"the generator failed: {error[-500:]}")
        return line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.communicate(timeout=10 if kind is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


if __name__ == "__main__":
    main(sys.argv[1:])
