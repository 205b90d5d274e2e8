"""What a selection policy adds to the way of a query, over `static`.

A real server in this process, with its sockets, its store on the disk and five models; but
nobody is at the other end: requests are handed to the query port's protocol as bytes, one
after the other, and what goes to a worker is answered in the next turn of the loop. So the
times are those of the server's own work, from the bytes of a request to those of its
answer, with the decision that is kept for feedback.

A window is some thousand queries of one application. Each of a policy has one of `static`
just before or behind it, and the difference counts. It is of the CPU time of the thread of
the loop; that of all threads has in it what the store does with decisions.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.lanes import quiet_collector
from benchmarks.load import JSON, LoadError, make_request
from benchmarks.process import busy_seconds
from benchmarks.work import make_rows

if TYPE_CHECKING:
    from clipper import Server
    from clipper.workers.channel import Channel

ARMS = 5
FEATURES = 32
EVERY = 10  # queries to a piece of feedback, where there is any
WARM = 300  # pieces of feedback before anything is measured
SLO_MICROS = 10_000_000

# policy -> microseconds that it may cost, None: it asks all five models, or it is no policy
TARGETS: dict[str, float | None] = {
    "epsilon_greedy": 3.0,
    "ucb1": 3.0,
    "exp3": 3.0,
    "thompson": 30.0,
    "linucb": 30.0,
    "squarecb": 30.0,
    "hedge": None,
    "majority": None,
}
CONTEXTUAL = ("linucb", "squarecb")
DECODING = "32 features"  # static with them over static without
MODES = ("quiet", "feedback")


class Spent(NamedTuple):
    """Seconds per query."""

    loop: float  # CPU of the loop's thread
    all: float  # CPU of all threads
    wall: float


@dataclass
class Difference:
    """A policy over static, window by window."""

    policy: str
    mode: str
    base: list[Spent] = field(default_factory=list)
    over: list[Spent] = field(default_factory=list)

    def add(self, base: Spent, own: Spent) -> None:
        self.base.append(base)
        self.over.append(Spent(*(a - b for a, b in zip(own, base, strict=True))))

    def median(self, of: Callable[[Spent], float]) -> float:
        return statistics.median(map(of, self.over))

    def base_median(self, of: Callable[[Spent], float]) -> float:
        return statistics.median(map(of, self.base))


@dataclass
class Costs:
    differences: list[Difference]
    queries: int  # of a window
    other_cores: float


# -- nobody at the other end -----------------------------------------------------------


class Nobody:
    """A transport with all that the server asks of one."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    resume_reading = close = abort = pause_reading


class Worker(Nobody):
    """Answers a batch in the next turn. 1 is right; the first model is so most often."""

    def __init__(self, channel: Channel, number: int) -> None:
        from clipper.workers import wire

        self._channel = channel
        self._soon = asyncio.get_running_loop().call_soon
        chance = Random(number)
        self._outputs = [b"%d" % (chance.random() < 0.9 - 0.1 * number) for _ in range(997)]
        self._wire = wire
        self._at = 0

    def write(self, data: bytes) -> None:
        self._soon(self._answer)

    def writelines(self, data: list[bytes]) -> None:
        self._soon(self._answer)

    def _answer(self) -> None:
        sent, wire = self._channel.sent[0], self._wire
        self._at = (self._at + 1) % len(self._outputs)
        outputs = wire.encode_outputs([self._outputs[self._at]] * sent.batch.rows)
        answer = wire.Answer(sent.id, sent.batch.rows)
        self._channel.data_received(b"".join(wire.encode(answer, [outputs])))


class Client(Nobody):
    """Sends one request after the other."""

    def __init__(self, server: Server) -> None:
        from clipper.frontend.express import Express

        assert server._ports is not None
        self._loop = asyncio.get_running_loop()
        self._express = Express(server._ports.lane)
        self._express.connection_made(self)  # type: ignore[arg-type]
        self._request = b""
        self._left = 0
        self._done: asyncio.Future[None] = self._loop.create_future()
        self.answer = b""

    async def ask(self, request: bytes, count: int) -> None:
        self._request, self._left = request, count
        self._done = self._loop.create_future()
        self._express.data_received(request)
        await self._done

    def write(self, data: bytes) -> None:
        self._left -= 1
        self.answer = data
        if self._left:
            self._loop.call_soon(self._express.data_received, self._request)
        else:
            self._done.set_result(None)

    def close(self) -> None:
        """The server closes; nobody may wait for a connection that will never end."""
        self._loop.call_soon(self._express.connection_lost, None)

    abort = close

    @property
    def query_id(self) -> str:
        """That of the last answer."""
        body = json.loads(self.answer.partition(b"\r\n\r\n")[2])
        if body.get("default", True):
            raise LoadError(f"a query was not answered by a model: {body}")
        return str(body["query_id"])


# -- measuring -------------------------------------------------------------------------


async def measure_costs(
    scratch: Path, runs: int, queries: int, say: Callable[[str], None]
) -> Costs:
    """`runs` windows of `queries` queries for each policy and mode."""
    from clipper import Server
    from clipper.config import make_settings

    settings = make_settings(
        {
            "data_dir": str(scratch / "cost-data"),
            "port": 0,
            "admin_port": 0,
            "durability": "process",  # the clock stands while feedback is on its way
        }
    )
    async with Server(listen=True, settings=settings) as server:
        for policy in ("static", *TARGETS):
            server_models = await _prepare(server, policy)
        real = [_replace_worker(server, model, i) for i, model in enumerate(server_models)]
        try:
            bench = _Bench(server, queries)
            for policy in ("static", *TARGETS):
                await bench.warm(policy)
            with quiet_collector():
                busy, used, begun = busy_seconds(), time.process_time(), time.perf_counter()
                differences = [diff async for diff in bench.run(runs, say)]
                took = time.perf_counter() - begun
                others = busy_seconds() - busy - (time.process_time() - used)
        finally:
            for channel, transport in real:
                channel._transport = transport
    return Costs(differences, queries, max(0.0, others / took))


async def _prepare(server: Server, policy: str) -> list[str]:
    models = [f"arm{number}" for number in range(ARMS)]
    if policy == "static":
        for model in models:
            await server.deploy(model, 1, _answer_one, input_type="doubles")
    options = {"features": FEATURES} if policy in CONTEXTUAL else {}
    await server.register_application(
        policy, models=models, input_type="doubles", slo_micros=SLO_MICROS, cache=False,
        policy={"name": policy, "options": options},
    )  # fmt: skip
    return models


def _answer_one(rows: Any) -> Any:
    return [1] * len(rows)


def _replace_worker(server: Server, model: str, number: int) -> tuple[Any, Any]:
    [replica] = server.engine.model(model, "1").replicas.replicas
    channel = replica._channel
    real = channel._transport
    channel._transport = Worker(channel, number)  # type: ignore[assignment]
    return channel, real


class _Bench:
    """One client and the requests it sends."""

    def __init__(self, server: Server, queries: int) -> None:
        self._server = server
        self._queries = queries
        self._client = Client(server)
        chance = Random(5)
        context = [round(chance.gauss(0, 1), 4) for _ in range(FEATURES)]
        [row] = make_rows("sum", 1)
        plain = json.dumps({"input": row}).encode()
        wide = json.dumps({"input": row, "context": context}).encode()
        self._bodies = {False: plain, True: wide}

    def _request(self, policy: str, wide: bool) -> bytes:
        host = f"localhost:{self._server.port}"
        return make_request(host, f"/{policy}/predict", self._bodies[wide], JSON)

    async def warm(self, policy: str) -> None:
        request = self._request(policy, policy in CONTEXTUAL)
        for _ in range(WARM):
            await self._client.ask(request, 1)
            await self._server.update(policy, self._client.query_id, label=1)
        await self._client.ask(request, 1000)

    async def run(self, runs: int, say: Callable[[str], None]) -> AsyncIterator[Difference]:
        for mode in MODES:
            found = {name: Difference(name, mode) for name in (*TARGETS, DECODING)}
            for round_ in range(runs):
                for name, difference in found.items():
                    difference.add(*await self._pair(name, mode, round_ % 2 == 1))
                if round_ % 10 == 9:
                    say(f"cost, {mode}: {round_ + 1} of {runs} rounds")
            for difference in found.values():
                yield difference

    async def _pair(self, name: str, mode: str, turned: bool) -> tuple[Spent, Spent]:
        """A window of static and one of `name`, in either order."""
        wide = name in CONTEXTUAL
        base = ("static", self._request("static", wide))
        own = (name, self._request(name, wide))
        if name == DECODING:
            own = ("static", self._request("static", True))
        if turned:
            second = await self._window(*own, mode)
            return await self._window(*base, mode), second
        first = await self._window(*base, mode)
        return first, await self._window(*own, mode)

    async def _window(self, application: str, request: bytes, mode: str) -> Spent:
        if mode == "quiet":
            total = await self._timed(request, self._queries)
        else:
            total = Spent(0.0, 0.0, 0.0)
            for _ in range(self._queries // EVERY):
                spent = await self._timed(request, EVERY)
                total = Spent(*(a + b for a, b in zip(total, spent, strict=True)))
                await self._server.update(application, self._client.query_id, label=1)
        return Spent(*(seconds / self._queries for seconds in total))

    async def _timed(self, request: bytes, count: int) -> Spent:
        loop, all_, wall = time.thread_time(), time.process_time(), time.perf_counter()
        await self._client.ask(request, count)
        return Spent(
            time.thread_time() - loop,
            time.process_time() - all_,
            time.perf_counter() - wall,
        )
