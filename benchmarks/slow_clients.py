"""A crowd of idle clients: connections that ask once and then say nothing.

    python -m benchmarks.slow_clients PORT --count 5000

A program of its own. It writes how many connections stand once they do, opens again those
that the server closes, and ends when its input does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from types import TracebackType
from typing import Self

from benchmarks.load import LoadError
from benchmarks.process import ROOT, raise_descriptor_limit

ASK = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
AT_ONCE = 200  # connections that are being opened
REOPEN_SECONDS = 0.1


class Idle(asyncio.Protocol):
    """Asks once; `answered` is set by the first bytes, `closed` by the end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(ASK)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.answered, self.closed):
            if not future.done():
                future.set_result(None)


async def keep(port: int, opening: asyncio.Semaphore, stands: asyncio.Event) -> None:
    """Keep one connection open for good."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError):
            async with opening:
                _, idle = await loop.create_connection(Idle, "127.0.0.1", port)
                await idle.answered
            stands.set()
            await idle.closed
        await asyncio.sleep(REOPEN_SECONDS)


async def stand(port: int, count: int) -> None:
    opening = asyncio.Semaphore(AT_ONCE)
    events = [asyncio.Event() for _ in range(count)]
    keepers = [asyncio.create_task(keep(port, opening, event)) for event in events]
    for event in events:
        await event.wait()
    print(count, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)


class Crowd:
    """The program at work; entering the context waits until all connections stand."""

    def __init__(self, port: int, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.slow_clients", str(port)]
        self._process = subprocess.Popen(
            [*command, "--count", str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.__exit__(None, None, None)
            raise LoadError("the crowd does not stand")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.slow_clients", description=__doc__
    )
    options.add_argument("port", type=int)
    options.add_argument("--count", type=int, default=5000)
    chosen = options.parse_args(arguments)
    raise_descriptor_limit()

    async def bounded() -> None:
        await stand(chosen.port, chosen.count)

    asyncio.run(bounded())


if __name__ == "__main__":
    main(sys.argv[1:])
