"""A worker process that does what a test says, and a replica of it in a time of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fakes import FakeLoop, ManualClock

from clipper.inputs import InputType, encode_python
from clipper.values import BatchResult, Output
from clipper.workers import wire
from clipper.workers.replica import Replica
from clipper.workers.spec import Patience, WorkerSpec

from .conftest import make_batch

HELLO = wire.Hello(7, "3.11", {})
BLOB = b"the function"


class Marionette:
    """Stands in for a WorkerProcess, and for the transport of its socket."""

    def __init__(self, environment: Mapping[str, str], memory_limit: int | None) -> None:
        self.made_of = (environment, memory_limit)
        self.pid = 7
        self.returncode: int | None = None
        self.exited = asyncio.Event()
        self.gate: asyncio.Event | None = None  # what its stop waits for
        self.did: list[Any] = []  # what it was asked for, in order
        self.got: list[tuple[wire.Message, bytes]] = []
        self.printed = ""
        self._decoder = wire.Decoder(wire.FROM_SERVER)
        self._answered = 0

    # -- what the replica calls ----------------------------------------------------------

    async def connect(self, protocol: Any) -> Marionette:
        self._protocol = protocol
        protocol.connection_made(self)
        return self

    def write(self, data: bytes) -> None:
        self._decoder.feed(data)
        while (received := self._decoder.next()) is not None:
            self.got.append((received[0], bytes(received[1])))

    def abort(self) -> None:
        self.did.append("abort")

    def kill(self) -> None:
        self.did.append("kill")

    def dump_stacks(self) -> None:
        self.did.append("stacks")

    async def stop(self, grace: float) -> None:
        self.did.append(("stop", grace))
        if self.gate is not None:
            await self.gate.wait()

    def output(self) -> str:
        return self.printed

    def memory(self) -> int:
        return 12345

    # -- what a test has it do -----------------------------------------------------------

    def say(self, *messages: wire.Message) -> None:
        self._protocol.data_received(b"".join(b"".join(wire.encode(m)) for m in messages))

    def answer(self, *outputs: Output) -> None:
        """Answer the oldest call."""
        answer = wire.Answer(self._next_id(), len(outputs))
        frame = wire.encode(answer, [wire.encode_outputs(list(outputs))])
        self._protocol.data_received(b"".join(frame))

    def fail(self, cause: str, detail: str) -> None:
        self.say(wire.Failed(self._next_id(), "raised", cause, detail))

    def _next_id(self) -> int:
        self._answered += 1
        return self._answered - 1

    def end(self, code: int) -> None:
        """It is gone, and its socket with it."""
        self.returncode = code
        self.exited.set()
        self.lose()

    def lose(self) -> None:
        """The socket alone."""
        self._protocol.connection_lost(None)


class Hands(FakeLoop):
    """Timers that fire when a test says so; futures are the running loop's."""

    @staticmethod
    def create_future() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    @property
    def due(self) -> list[float]:
        """Seconds until each timer."""
        return [timer.at - self.clock.now() for timer in self.armed]

    def fire(self, late: float = 0.0) -> None:
        """The only timer, once."""
        (timer,) = self.armed
        self.clock.move(timer.at - self.clock.now() + late)
        timer.cancel()
        timer.callback()


class Booth:
    """A replica of a marionette. The time of its timers is `clock`'s; that of the start's
    messages and of a drain is the running loop's."""

    def __init__(
        self,
        *,
        example: list[float] | None = None,
        patience: Patience | None = None,
        **options: Any,
    ) -> None:
        kind = InputType.DOUBLES
        self.clock = ManualClock()
        self.hands = Hands(self.clock)
        self.ends: list[Replica] = []
        self.stages: list[tuple[str, float]] = []
        self.made: list[Marionette] = []
        self.given: list[str] = []  # the states in which the function was asked for
        row = None if example is None else encode_python(kind, example)
        options.setdefault("on_end", self.ends.append)
        options.setdefault("make_process", self._make)
        self.replica = Replica(
            WorkerSpec("m", "2", kind, row, {"A": "b"}, 99),
            self.clock,
            patience=patience,
            **options,
        )
        self.replica._loop = self.hands  # type: ignore[assignment]

    def _make(self, environment: Mapping[str, str], memory_limit: int | None) -> Any:
        self.made.append(Marionette(environment, memory_limit))
        return self.made[-1]

    @property
    def process(self) -> Marionette:
        return self.made[-1]

    async def load(self) -> bytes:
        self.given.append(self.replica.state.value)
        return BLOB

    def report(self, stage: str, seconds: float) -> None:
        self.stages.append((stage, seconds))

    async def begin(self, *messages: wire.Message) -> asyncio.Task[None]:
        """A start that has heard these messages, and waits for more."""
        task = asyncio.create_task(self.replica.start(self.load, self.report))
        await turns()
        for message in messages:
            self.process.say(message)
            await turns()
        return task

    async def open(self, seconds: float = 0.5) -> Marionette:
        """Ready; the example, if there is one, took `seconds`."""
        task = await self.begin(HELLO, wire.Loaded(0.25))
        if self.replica.spec.example is not None:
            self.clock.move(seconds)
            self.process.answer(b"1")
        await task
        return self.process

    def send(self, rows: int = 1) -> asyncio.Future[BatchResult]:
        batch, finished = make_batch(InputType.DOUBLES, [[1.0]] * rows)
        self.replica.submit(batch)
        return finished


async def turns() -> None:
    """Let what is ready run."""
    for _ in range(8):
        await asyncio.sleep(0)
