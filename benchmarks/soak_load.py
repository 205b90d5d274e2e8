"""Mixed requests by the million, over connections that each send upon the last answer.

    python -m benchmarks.soak_load PORT --requests 5000000 --report 100000

A program of its own. Predictions that are cached and that are not, of several applications
and users, feedback on what was answered, nonsense, and clients that go away in the middle.
It writes a line of JSON after every so many requests. The server and the mix decide the
rate, so this is the one load here that is not open: it looks for what piles up, and waits
for nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import cast

from benchmarks.load import JSON, LoadError, make_request, parse_answer

CONNECTIONS = 64
CACHED = 64  # bodies that come again and again
USERS = 4_000
MOST_IDS = 5_000  # answers that feedback may yet be given on

# Applications of faults_soak.py: one model, several under a bandit, all of an ensemble.
PLAIN, BANDIT, ENSEMBLE = "plain", "bandit", "ensemble"

_ID = re.compile(rb'"query_id":"([^"]+)"')


class Mix:
    """Makes requests, and judges the answers.

    Mutable: the generator of chance, answers to give feedback on, and counters.
    """

    def __init__(self, host: str, seed: int) -> None:
        self._host = host
        self._rng = random.Random(seed)
        self._ids: deque[tuple[str, bytes]] = deque(maxlen=MOST_IDS)
        self._number = 0
        self.sent: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self._cached = [
            self._request(PLAIN, "predict", f'{{"input":[{number},1.0,2.0]}}')
            for number in range(CACHED)
        ]
        makers: list[tuple[float, str, Callable[[], bytes]]] = [
            (0.36, "cached", self._same),
            (0.20, "uncached", self._new),
            (0.12, BANDIT, self._bandit),
            (0.06, ENSEMBLE, self._ensemble),
            (0.02, "rows", self._rows),
            (0.18, "feedback", self._feedback),
            (0.03, "nonsense", self._nonsense),
            (0.02, "nowhere", self._nowhere),
            (0.01, "leaves", self._new),
        ]
        self._weights = [weight for weight, _, _ in makers]
        self._makers = {name: make for _, name, make in makers}
        self._names = list(self._makers)
        self._plan: list[str] = []

    def next(self) -> tuple[str, bytes]:
        """The kind of a request, and its bytes."""
        if not self._plan:
            self._plan = self._rng.choices(self._names, self._weights, k=10_000)
        kind = self._plan.pop()
        if kind == "feedback" and not self._ids:
            kind = "uncached"
        self.sent[kind] += 1
        return kind, self._makers[kind]()

    def take(self, kind: str, status: int, answer: bytes) -> None:
        wanted = {"nonsense": 400, "nowhere": 404}.get(kind, 200)
        if status != wanted or (status == 200 and b'"default":true' in answer):
            self.odd[f"{kind}: {status} {answer[-150:].decode(errors='replace')}"] += 1
            if len(self.odd) > 100:
                raise LoadError(f"too much goes wrong: {self.odd.most_common(3)}")
        elif kind in (BANDIT, ENSEMBLE):
            match = _ID.search(answer)
            if match is not None:
                self._ids.append((kind, match[1]))

    # -- requests --------------------------------------------------------------------------

    def _request(self, application: str, verb: str, body: str) -> bytes:
        return make_request(self._host, f"/{application}/{verb}", body.encode(), JSON)

    def _same(self) -> bytes:
        return self._cached[self._rng.randrange(CACHED)]

    def _new(self) -> bytes:
        self._number += 1
        return self._request(PLAIN, "predict", f'{{"input":[{self._number},0.5,0.5]}}')

    def _bandit(self) -> bytes:
        return self._personal(BANDIT)

    def _ensemble(self) -> bytes:
        return self._personal(ENSEMBLE)

    def _personal(self, application: str) -> bytes:
        self._number += 1
        uid = int(USERS * self._rng.random() ** 2)
        body = f'{{"input":[{self._number},1.5,0.5],"uid":"u{uid}"}}'
        return self._request(application, "predict", body)

    def _rows(self) -> bytes:
        self._number += 16
        rows = ",".join(f"[{self._number + at},2.5,0.5]" for at in range(16))
        return self._request(PLAIN, "predict", f'{{"input_batch":[{rows}]}}')

    def _feedback(self) -> bytes:
        application, query_id = self._ids.popleft()
        reward = self._rng.randrange(2)
        body = f'{{"query_id":"{query_id.decode()}","reward":{reward}}}'
        return self._request(application, "update", body)

    def _nonsense(self) -> bytes:
        self._number += 1
        bodies = [
            '{"input":',
            f'{{"input":"{self._number}"}}',
            f'{{"inputs":[{self._number}]}}',
            f'{{"input":[{self._number}],"uid":[]}}',
        ]
        return self._request(PLAIN, "predict", self._rng.choice(bodies))

    def _nowhere(self) -> bytes:
        self._number += 1
        return self._request(f"nobody-{self._number}", "predict", '{"input":[1.0]}')


class Soak:
    """Keeps the connections busy until enough was asked.

    Mutable: how many requests were answered or given up, and when the last line was told.
    """

    def __init__(self, mix: Mix, port: int, requests: int, report: int) -> None:
        self.mix = mix
        self._port = port
        self._requests = requests
        self._report = report
        self._done = 0
        self._begun = time.monotonic()
        self._over = asyncio.Event()
        self._error: BaseException | None = None

    async def run(self) -> None:
        keepers = [asyncio.create_task(self._keep()) for _ in range(CONNECTIONS)]
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait([over, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for keeper in keepers:
            keeper.cancel()
        ends = await asyncio.gather(*keepers, return_exceptions=True)
        over.cancel()
        for end in [self._error, *ends]:
            if isinstance(end, Exception):
                raise end

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            _, connection = await loop.create_connection(
                lambda: Client(self), "127.0.0.1", self._port
            )
            try:
                await connection.closed
            finally:
                connection.transport.abort()

    def count(self) -> bool:
        """One more is done; false once it is enough."""
        self._done += 1
        if self._done % self._report == 0:
            line = {
                "done": self._done,
                "seconds": time.monotonic() - self._begun,
                "sent": self.mix.sent,
                "odd": self.mix.odd,
            }
            print(json.dumps(line), flush=True)
        if self._done >= self._requests:
            self._over.set()
        return not self._over.is_set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._over.set()


class Client(asyncio.Protocol):
    """One request out, one answer in, and the next."""

    def __init__(self, soak: Soak) -> None:
        self._soak = soak
        self._buffer = b""
        self._kind = ""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._kind, request = self._soak.mix.next()
        if self._kind == "leaves":  # in the middle of a body, or with the answer under way
            whole = len(request) % 2
            self.transport.write(request if whole else request[:-5])
            self._soak.count()
            self.transport.close()
            return
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._kind == "leaves":
            return
        data = self._buffer + data if self._buffer else data
        try:
            status, end = parse_answer(data)
            if end == 0 or len(data) < end:
                self._buffer = data
                return
            self._buffer = b""
            self._soak.mix.take(self._kind, status, data[:end])
        except (LoadError, ValueError) as error:
            self._soak.fail(error)
            return
        if b"\r\nConnection: close" in data:
            self._soak.count()
            self._kind = "leaves"
            self.transport.close()
        elif self._soak.count():
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._kind != "leaves":
            self._soak.mix.odd[f"{self._kind}: connection lost"] += 1
        if not self.closed.done():
            self.closed.set_result(None)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    mix = Mix(f"127.0.0.1:{chosen.port}", chosen.seed)
    soak = Soak(mix, chosen.port, chosen.requests, chosen.report)
    try:
        import uvloop
    except ImportError:
        asyncio.run(soak.run())
    else:
        uvloop.run(soak.run())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.soak_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("port", type=int)
    add("--requests", type=int, required=True)
    add("--report", type=int, required=True)
    add("--seed", type=int, default=1)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
