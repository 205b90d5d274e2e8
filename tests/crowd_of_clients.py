"""Clients that ask without a pause, each in its own way, and check every answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress

from polling import eventually


class Crowd:
    """Asks `app`, a model of doubles whose versions each add a number of their own to the
    first of a row. `live` are the numbers of those that may answer at present. What went
    wrong is in `failures`, with why; `slowest` answer in seconds."""

    def __init__(self, port: int, app: str, live: set[int]) -> None:
        self.port = port
        self.app = app
        self.live = live
        self.asked = 0
        self.failures: Counter[str] = Counter()
        self.slowest = 0.0
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def failed(self) -> int:
        return self.failures.total()

    def keep_alive(self, count: int, pause: float = 0.0, **how: bool) -> None:
        """Clients that keep their connection; one that the server closes is a failure."""
        for number in range(count):
            work = self._stay(number, pause, **how)
            self._tasks.append(asyncio.create_task(work))

    def one_each(self, count: int, pause: float = 0.0) -> None:
        """Clients that open a connection for each request."""
        for number in range(count):
            self._tasks.append(asyncio.create_task(self._come_and_go(number, pause)))

    async def until(self, asked: int, seconds: float = 60.0) -> None:
        await eventually(lambda: self.asked >= asked, seconds)

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        """Each has its last answer."""
        self._over = True
        _, late = await asyncio.wait(self._tasks, timeout=30 if error is None else 1)
        for task in late:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None:
            assert not late, "a client has no answer"
            for outcome in outcomes:
                assert not isinstance(outcome, BaseException), outcome

    # -- ways to ask --------------------------------------------------------------------

    async def _stay(
        self, number: int, pause: float, chunked: bool = False, slow: bool = False
    ) -> None:
        """`chunked` bodies go to the other lane; `slow` ones come in two pieces."""
        value = 1000.0 * number
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._over:
            value += 1.0
            try:
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", self.port)
                closes = await self._ask(*connection, value, False, chunked, slow)
                if closes:
                    connection[1].close()
                    connection = None
            except (OSError, EOFError, ValueError) as error:
                self.failures[f"keep-alive: {error!r}"] += 1
                if connection is not None:
                    connection[1].close()
                connection = None
                await asyncio.sleep(0.05)
            if pause:
                await asyncio.sleep(pause)
        if connection is not None:
            connection[1].close()

    async def _come_and_go(self, number: int, pause: float) -> None:
        value = 1_000_000.0 * (number + 1)
        while not self._over:
            value += 1.0
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    await self._ask(reader, writer, value, True, False, False)
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
            except (OSError, EOFError, ValueError) as error:
                self.failures[f"new connection: {error!r}"] += 1
                await asyncio.sleep(0.05)
            if pause:
                await asyncio.sleep(pause)

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        value: float,
        close: bool,
        chunked: bool,
        slow: bool,
    ) -> bool:
        """One question; whether the server closes the connection after it."""
        began, live = time.monotonic(), set(self.live)
        body = json.dumps({"input": [value], "cache": False}).encode()
        head = (
            f"POST /{self.app}/predict HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/json\r\n"
        )
        if close:
            head += "Connection: close\r\n"
        if chunked:
            head += "Transfer-Encoding: chunked\r\n\r\n"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            head += f"Content-Length: {len(body)}\r\n\r\n"
        data = head.encode() + body
        middle = value % len(data) if slow else len(data)
        writer.write(data[: int(middle)])
        if slow:
            await asyncio.sleep(0.02)
            writer.write(data[int(middle) :])
        status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
        answer = await reader.readexactly(int(headers["content-length"]))
        self.asked += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        if status != 200:
            self.failures[f"status {status}: {answer[:200]!r}"] += 1
        else:
            parsed = json.loads(answer)
            # it may be of a version that was live at any time since it was asked
            if parsed["default"] or parsed["output"] - value not in live | self.live:
                self.failures[f"wrong: {answer[64:200]!r}"] += 1
        return headers.get("connection") == "close"


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode().split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {k.lower(): v.strip().lower() for k, _, v in pairs}
