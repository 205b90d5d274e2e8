"""Virtual worker processes: what stands behind a replica's socket, bytes and all.

The replica, its channel and the rule of hangs are the real ones; here is who answers them,
as a seed says: late, twice, with too few outputs, with something else, or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from clipper.inputs import InputType
from clipper.layout import decode_batch
from clipper.values import Output
from clipper.workers import wire
from clipper.workers.outputs import NOT_FINITE

from .replicas import FAILS, KILLS, RAISES, ROW_FAILED, Nature

if TYPE_CHECKING:
    from .core import Core

SPAWN = (0.01, 0.06)  # seconds until an interpreter says hello

# What a function does when it is loaded, or when it runs its example.
STARTS = ("good", "refuses", "dies", "hangs", "raises", "dies on it", "hangs on it")

_ODD = Nature(odd_rows=True)


@dataclass(frozen=True)
class Function:
    """A packaged function, by number. Times are seconds, chances are per batch."""

    number: int
    fixed: float = 0.001
    per_row: float = 0.0002
    start: str = "good"
    odd: bool = False  # whether there are rows that raise, kill or fail
    crash: float = 0.0
    hang: float = 0.0
    slow: float = 0.0
    raises: float = 0.0
    miscount: float = 0.0
    short: float = 0.0  # an answer of too few outputs
    twice: float = 0.0
    garbage: float = 0.0
    cut: float = 0.0  # an answer that breaks off

    @property
    def faulty(self) -> bool:
        return self.number > 1  # the first is the calm one

    @property
    def blob(self) -> bytes:
        return b"function %d" % self.number

    def does(self, value: int) -> int | None:
        return _ODD.does(value) if self.odd else None

    def answers(self, value: int) -> bytes:
        """Right for two of three inputs; each input has answers of its own."""
        return b"%d" % (value * 10 + (value * 7 + self.number * 5) // 3 % 3)


def truth(value: int) -> int:
    """The label of an input."""
    return value * 10 + 1


class VirtualProcess:
    """Stands in for a WorkerProcess, and for the transport of its socket."""

    # State: what came and was not understood; messages that wait while one is worked on;
    # whether it works, for good if it hangs; whether the server's end is closed.

    def __init__(
        self, world: Core, rng: Random, environment: Mapping[str, str], _: int | None
    ) -> None:
        plot = world.plot
        if not world.healed and "calm" not in environment and rng.random() < plot.no_spawn:
            raise OSError(11, "no more processes")
        self.world = world
        self.life = world.life
        self.rng = rng
        self.pid = world.number()
        self.returncode: int | None = None
        self.exited = asyncio.Event()
        self.function: Function | None = None
        self.calls = 0
        self._calm = "calm" in environment
        self._decoder = wire.Decoder(wire.FROM_SERVER)
        self._inbox: deque[Any] = deque()
        self._busy = self._stuck = self._closed = False
        self._protocol: Any = None
        world.processes.add(self)

    # -- what the server's end calls -----------------------------------------------------

    async def connect(self, protocol: Any) -> VirtualProcess:
        self._protocol = protocol
        protocol.connection_made(self)
        self._busy = True
        hello = wire.Hello(self.pid, "3.11", {})
        self._after(self.rng.uniform(*SPAWN), self._say, hello)
        return self

    def write(self, data: bytes) -> None:
        assert not self._closed, "written to a closed socket"
        self._decoder.feed(data)
        while (message := self._decoder.next()) is not None:
            self._inbox.append(message)
        self._work()

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self.world.loop.call_soon(self._protocol.connection_lost, None)
            if not self._stuck:  # it sees that the socket has ended
                self._after(0.001, self._end, 0)

    def output(self) -> str:
        return ""

    def dump_stacks(self) -> None:
        assert self._stuck or self._busy

    def kill(self) -> None:
        self._after(0.0005, self._end, -9)

    async def stop(self, grace: float) -> None:
        self._after(grace if self._stuck else 0.002, self._end, -15)
        try:
            await self.exited.wait()
        finally:
            self.kill()

    def end_soon(self) -> None:
        self._after(0.0, self._end, -9)

    # -- what happens in the process -----------------------------------------------------

    def _after(self, seconds: float, callback: Any, *arguments: Any) -> None:
        self.world.loop.at(
            self.world.clock.now() + seconds, self._still, callback, arguments
        )

    def _still(self, callback: Any, arguments: tuple[Any, ...]) -> None:
        if self.returncode is None and not self.life.over:
            callback(*arguments)

    def _end(self, code: int) -> None:
        self.returncode = code
        self.world.processes.discard(self)
        if not self._closed:
            self._closed = True
            self._protocol.connection_lost(None)
        self.exited.set()

    def _say(self, message: wire.Message, body: bytes = b"", more: bytes = b"") -> None:
        self._busy = False
        frame = b"".join(wire.encode(message, (body,) if body else ())) + more
        middle = self.rng.randrange(len(frame)) if self.rng.random() < 0.1 else 0
        for piece in (frame[:middle], frame[middle:]):
            if piece and not self._closed:
                self._protocol.data_received(piece)
        self._work()

    def _work(self) -> None:
        while self._inbox and not self._busy and not self._closed and not self._stuck:
            self._busy = True
            message, body = self._inbox.popleft()
            if isinstance(message, wire.Load):
                self._load(bytes(body))
            else:
                assert isinstance(message, wire.Call)
                self._call(message, body)

    def _hangs(self) -> None:
        self._stuck = True

    def _load(self, blob: bytes) -> None:
        world = self.world
        function = self.function = world.functions[int(blob.split()[1])]
        assert blob == function.blob, "another function than was deployed"
        if world.blows.plagues(function):
            self._after(0.002, self._end, 1)
        elif function.start == "refuses" and not world.healed:
            self._after(0.01, self._say, wire.Refused("it cannot be loaded", "traceback"))
        elif function.start == "dies" and not world.healed:
            self._after(0.01, self._end, 1)
        elif function.start == "hangs" and not world.healed:
            self._hangs()
        else:
            self._after(self.rng.uniform(0.001, 0.02), self._say, wire.Loaded(0.01))

    def _call(self, call: wire.Call, body: Any) -> None:
        function, rng = self.function, self.rng
        assert function is not None
        rows = decode_batch(InputType.DOUBLES, call.rows, call.layout, body)
        values = [int(row[0]) for row in rows]
        self.calls += 1
        took = (function.fixed + function.per_row * len(values)) * rng.uniform(0.8, 1.3)
        faulty = not self.world.healed and not self._calm
        if values == [EXAMPLE] and faulty and function.start.endswith(("raises", "it")):
            self._fail_example(call, took)
            return
        odd = {function.does(value) for value in values}
        if KILLS in odd:
            self._after(took * rng.random(), self._end, -11)
            return
        if RAISES in odd:
            self._after(took, self._say, failed(call, "raised"))
            return
        outputs = [self._output(value) for value in values]
        answer = wire.Answer(call.id, call.rows), wire.encode_outputs(outputs)
        fate = self._fate() if faulty else None
        if fate is None:
            self._after(took, self._say, *answer)
        else:
            getattr(self, f"_{fate}")(call, took, answer)

    def _fail_example(self, call: wire.Call, took: float) -> None:
        assert self.function is not None
        if self.function.start == "raises":
            self._after(took, self._say, failed(call, "raised"))
        elif self.function.start == "dies on it":
            self._after(took, self._end, -11)
        else:
            self._hangs()

    def _output(self, value: int) -> Output:
        assert self.function is not None
        return (
            ROW_FAILED
            if self.function.does(value) == FAILS
            else self.function.answers(value)
        )

    def _fate(self) -> str | None:
        chance, function = self.rng.random(), self.function
        for fate in FATES:
            chance -= getattr(function, fate)
            if chance < 0:
                return fate
        return None

    # -- fates of a batch ----------------------------------------------------------------

    def _crash(self, call: wire.Call, took: float, answer: Any) -> None:
        self._after(took * self.rng.random(), self._end, -11)

    def _hang(self, call: wire.Call, took: float, answer: Any) -> None:
        if self.rng.random() < 0.5:
            self._hangs()
        else:  # it answers after all, when nobody listens, or nearly so
            self._after(self.rng.choice((0.99, 1.05, 40.0)), self._say, *answer)

    def _slow(self, call: wire.Call, took: float, answer: Any) -> None:
        self._after(took + self.rng.random(), self._say, *answer)

    def _raises(self, call: wire.Call, took: float, answer: Any) -> None:
        self._after(took, self._say, failed(call, "raised"))

    def _miscount(self, call: wire.Call, took: float, answer: Any) -> None:
        self._after(took, self._say, failed(call, "wrong_count"))

    def _short(self, call: wire.Call, took: float, answer: Any) -> None:
        self._after(
            took, self._say, answer[0], wire.encode_outputs([b"1"] * (call.rows - 1))
        )

    def _twice(self, call: wire.Call, took: float, answer: Any) -> None:
        message, outputs = answer
        self._after(
            took, self._say, message, outputs, b"".join(wire.encode(message, (outputs,)))
        )

    def _garbage(self, call: wire.Call, took: float, answer: Any) -> None:
        self._after(took, self._say, *answer, b"\0\1\2garbage")

    def _cut(self, call: wire.Call, took: float, answer: Any) -> None:
        frame = b"".join(wire.encode(answer[0], (answer[1],)))
        piece = frame[: self.rng.randrange(1, len(frame))]
        self._after(took, self._deliver, piece)
        self._after(took + 0.0005, self._end, -11)

    def _deliver(self, data: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(data)


FATES = (
    "crash", "hang", "slow", "raises", "miscount", "short", "twice", "garbage", "cut",
)  # fmt: skip
EXAMPLE = 1


def failed(call: wire.Call, kind: str) -> wire.Failed:
    return wire.Failed(call.id, kind, NOT_FINITE, "")
