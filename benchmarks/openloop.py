"""Open-loop load: requests are sent when they are due, answered or not.

    python -m benchmarks.openloop URL --load 2000:5 --load 500:3 --bodies LIST ...

Arrivals are a Poisson process, drawn beforehand from a seed. An arrival that is due takes
an idle connection, or waits for one. Latencies count from the moment it was due, so that
no stall, of the server or of the generator, hides what it did to those behind it; how
late the generator itself was is told as its lag. A program of its own, that writes first
when the load begins, on the clock of time.monotonic(), and then what it saw, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from benchmarks.arrivals import BROKEN, MODEL, UNSENT, Arrivals, classify, draw_arrivals
from benchmarks.load import JSON, LoadError, make_request, parse_answer
from benchmarks.process import no_collector

PATIENCE = 1.0  # seconds that an arrival waits for a connection, and the end for answers
LEAD = 0.02  # seconds from the last preparation to the first moment of the load
PACE = 100e-6  # seconds between two looks at what is due: arrivals in between go together
REOPEN_SECONDS = 0.02  # from a lost connection to the next one in its place


# -- sending and receiving -------------------------------------------------------------


class Generator:
    """Keeps `connections` open and sends `requests` in turn as arrivals are due.

    Mutable: the arrivals, `_next` (the first that is not due yet), idle connections (the
    one used last first, which keeps few of them warm), arrivals that wait for one, the
    number that is settled, how often each may be asked again, the tasks that keep the
    connections, and whether it is over.
    """

    def __init__(
        self, requests: Sequence[bytes], arrivals: Arrivals, retries: int = 0
    ) -> None:
        self.requests = requests
        self.arrivals = arrivals
        self._left = bytearray([retries]) * len(arrivals)
        self._next = 0
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()
        self._settled = 0
        self._keepers: list[asyncio.Task[None]] = []
        self._over = False
        self.refused = 0  # connections that could not be opened again
        self.most_waiting = 0
        self.cpu = 0.0

    async def run(
        self, host: str, port: int, connections: int, seconds: float, announce: Any
    ) -> float:
        """Make the load, `seconds` long; the moment at which it began."""
        for _ in range(connections):
            opened = asyncio.get_running_loop().create_future()
            keeper = asyncio.create_task(self._keep(host, port, opened))
            self._keepers.append(keeper)
            await asyncio.wait([opened, keeper], return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                keeper.result()
        with no_collector():
            return await self._send_all(seconds, announce)

    async def _send_all(self, seconds: float, announce: Any) -> float:
        begin = time.monotonic() + LEAD
        self.arrivals.shift(begin)
        self._timer = Timer(self._tick)
        announce(begin)
        used = time.process_time()
        try:
            self._timer.arm(begin)
            await self._finish(begin + seconds)
        finally:
            self._over = True
            self._timer.close()
            self.cpu = time.process_time() - used
            for keeper in self._keepers:
                keeper.cancel()
            await asyncio.gather(*self._keepers, return_exceptions=True)
        return begin

    async def _finish(self, end: float) -> None:
        """Until every arrival is settled, or has had its time."""
        total = len(self.arrivals)
        while time.monotonic() < end or self._settled < total:
            if time.monotonic() > end + PATIENCE:
                break
            self._give_up(time.monotonic() - PATIENCE)
            await asyncio.sleep(0.01)
        self._give_up(float("inf"))

    def _tick(self) -> None:
        """Send what is due."""
        arrivals, due, lag = self.arrivals, self.arrivals.due, self.arrivals.lag
        index, now = self._next, time.monotonic()
        while index < len(due) and due[index] <= now:
            lag[index] = now - due[index]
            if self._idle:
                self._idle.pop().send(index)
            else:
                self._waiting.append(index)
            index += 1
            now = time.monotonic()
        self._next = index
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        if index < len(arrivals):
            self._timer.arm(max(due[index], now + PACE))

    def _give_up(self, before: float) -> None:
        while self._waiting and self.arrivals.due[self._waiting[0]] < before:
            self.settle(self._waiting.popleft(), UNSENT)

    def answered(self, index: int, status: int, answer: bytes) -> None:
        kind = classify(status, answer)
        if kind != MODEL and self._left[index] and not self._over:
            # once more, at once and on this connection, which is free the next moment
            self._left[index] -= 1
            self._waiting.appendleft(index)
            return
        self.arrivals.answered[index] = time.monotonic()
        self.settle(index, kind)

    def settle(self, index: int, kind: str | int | bytes) -> None:
        self._settled += 1
        self.arrivals.settle(index, kind)

    def free(self, connection: Connection) -> None:
        """The connection has room for the next request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        if self._over:
            return
        if connection.arrival >= 0:
            self.settle(connection.arrival, BROKEN)
        elif connection in self._idle:
            self._idle.remove(connection)

    async def _keep(self, host: str, port: int, opened: asyncio.Future[None]) -> None:
        """Keep one connection open. Raises OSError if there is none the first time."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self), host, port
                )
            except OSError:
                if not opened.done():
                    raise
                self.refused += 1
            else:
                if not opened.done():
                    opened.set_result(None)
                try:
                    await connection.closed
                finally:
                    connection.transport.abort()
            await asyncio.sleep(REOPEN_SECONDS)


class Connection(asyncio.Protocol):
    """One request out, one answer with a Content-Length in. `arrival` is the one that
    waits for its answer here, -1 for none."""

    __slots__ = ("_buffer", "_generator", "arrival", "closed", "transport")

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._buffer = b""
        self.arrival = -1
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._generator.free(self)

    def send(self, arrival: int) -> None:
        generator = self._generator
        self.arrival = arrival
        generator.arrivals.sent[arrival] = time.monotonic()
        self.transport.write(generator.requests[arrival % len(generator.requests)])

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        try:
            status, end = parse_answer(data)
        except (LoadError, ValueError):
            self.transport.abort()
            return
        if end == 0 or len(data) < end:
            self._buffer = data
            return
        self._buffer = b""
        arrival, self.arrival = self.arrival, -1
        if arrival < 0 or len(data) > end:  # an answer to nothing
            self.arrival = arrival
            self.transport.abort()
            return
        generator = self._generator
        generator.answered(arrival, status, data)
        generator.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)


class Timer:
    """Calls `fire` at a moment of the monotonic clock, to some tens of microseconds: a
    timerfd, because the timers of uvloop count whole milliseconds."""

    def __init__(self, fire: Callable[[], None]) -> None:
        self._fire = fire
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._when = (ctypes.c_long * 4)()  # interval and moment: seconds, nanoseconds
        self._loop.add_reader(self._fd, self._fired)

    def arm(self, moment: float) -> None:
        seconds = int(moment)
        self._when[2], self._when[3] = seconds, int((moment - seconds) * 1e9)
        absolute = 1
        self._libc.timerfd_settime(self._fd, absolute, self._when, None)

    def _fired(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._fire()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


# -- the program -----------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    from benchmarks.outcome import dump, make_outcome

    chosen = parse(arguments)
    url = urlsplit(chosen.url)
    assert url.hostname is not None and url.port is not None
    host = f"{url.hostname}:{url.port}"
    requests = [
        make_request(host, url.path, Path(name).read_bytes(), chosen.content_type)
        for name in chosen.bodies.read_text().splitlines()
    ]
    arrivals = Arrivals(draw_arrivals(chosen.load, chosen.seed))
    generator = Generator(requests, arrivals, chosen.retries)
    seconds = sum(seconds for _, seconds in chosen.load)
    run = generator.run(url.hostname, url.port, chosen.connections, seconds, announce)
    try:
        import uvloop
    except ImportError:
        begun = asyncio.run(run)
    else:
        begun = uvloop.run(run)
    outcome = make_outcome(arrivals, begun, chosen.load, chosen.slo_ms / 1e3, generator.cpu)
    print(dump(outcome))


def announce(begin: float) -> None:
    """Tell the process that started this one when the load begins."""
    print(json.dumps({"begin": begin}), flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.openloop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("url")
    add("--load", type=parse_load, action="append", required=True, metavar="RATE:SECONDS")
    add("--bodies", type=Path, required=True, help="a list of files, sent in turn")
    add("--content-type", default=JSON)
    add("--connections", type=int, default=512)
    add("--slo-ms", type=float, default=20.0)
    add("--seed", type=int, default=1)
    add("--retries", type=int, default=0, help="of what the model did not answer")
    return options.parse_args(arguments)


def parse_load(text: str) -> tuple[float, float]:
    """RATE:SECONDS, the rate per second."""
    rate, _, seconds = text.partition(":")
    return float(rate), float(seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
