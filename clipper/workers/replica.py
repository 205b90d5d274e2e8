"""One replica of a model: a worker process and the batches it is working on.

Rules of this file:
- every batch that is submitted is done exactly once: outputs, or a failure;
- a stream that failed in mid-frame, or answered out of turn, is never used again: the
  worker is killed;
- only the oldest unanswered batch can be to blame for a death; the next one had not begun;
- no task, future or timer per batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from clipper.clock import Clock
from clipper.inputs import InputType, Row, layout_of
from clipper.values import Batch, BatchFailure, BatchResult, FailureKind, RowError
from clipper.workers import wire
from clipper.workers.hang import HangRule
from clipper.workers.process import WorkerProcess, describe_exit

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2  # one that runs and one that waits in the socket keep a worker busy
STACK_SECONDS = 0.1  # for a hung worker to write its stacks before it is killed
STALL_SECONDS = 0.25  # a timer later than this tells of a stalled event loop
GRACE_SECONDS = 0.5  # for a worker to end by itself once it was asked to
_DETAIL = 16_000  # characters of output that go with a failure
STOPPED = "the worker was stopped before it could answer"


class ReplicaState(Enum):
    STARTING = "starting"  # the interpreter starts
    LOADING = "loading"  # the function is being loaded
    EXAMPLE = "example"  # it runs its example
    READY = "ready"  # it takes batches
    DRAINING = "draining"  # it finishes what it has, then ends
    STOPPED = "stopped"  # ended because we wanted it
    FAILED = "failed"  # ended because it died, hung or broke the protocol


_S = ReplicaState
_MOVES: dict[ReplicaState, frozenset[ReplicaState]] = {
    _S.STARTING: frozenset((_S.LOADING, _S.DRAINING, _S.STOPPED, _S.FAILED)),
    _S.LOADING: frozenset((_S.EXAMPLE, _S.READY, _S.DRAINING, _S.STOPPED, _S.FAILED)),
    _S.EXAMPLE: frozenset((_S.READY, _S.DRAINING, _S.STOPPED, _S.FAILED)),
    _S.READY: frozenset((_S.DRAINING, _S.STOPPED, _S.FAILED)),
    _S.DRAINING: frozenset((_S.STOPPED, _S.FAILED)),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker of one model version needs to start. `example` is one encoded input
    on which the function runs before it goes live; `environment` are variables over the
    inherited ones; `memory_limit` is bytes of address space."""

    name: str
    version: str
    input_type: InputType
    example: Row | None = None
    environment: dict[str, str] | None = None
    memory_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds in seconds. A query's deadline never kills a worker; these do."""

    start: float = 30.0  # from spawning to Hello
    load: float = 300.0  # to load the function, and again to run the example
    hang_floor: float = 1.0
    hang_ceiling: float = 30.0


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    state: ReplicaState
    pid: int | None
    batches: int
    rows: int
    in_flight: int
    busy_seconds: float  # service time of all batches
    reason: str  # why it ended, if it did


class ReplicaFailed(Exception):
    """A replica did not start. `detail` is the worker's traceback or output."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return self.cause


class _Sent(NamedTuple):
    id: int
    batch: Batch
    at: float


class Replica(asyncio.Protocol):
    """A worker behind `submit`. Starts once, ends once.

    `on_room` is called when it becomes READY and after every answer, `on_end` when it can
    serve no more (its process may take a moment longer; see `wait_gone`).
    """

    # State: `_in_flight` holds at most MAX_IN_FLIGHT batches in the order they were sent;
    # `_answered_at` is when the latest answer came; `_timer` is armed while a batch is in
    # flight and at most once after, for the time `_due`; `_reply` waits for the next
    # message of the start-up and `_drained` for the last answer; `_ended` says that all
    # was settled.

    def __init__(
        self,
        spec: WorkerSpec,
        clock: Clock,
        *,
        on_room: Callable[[], None] = lambda: None,
        on_end: Callable[[Replica], None] = lambda replica: None,
        patience: Patience | None = None,
    ) -> None:
        self.spec = spec
        self.state = _S.STARTING
        self.reason = ""
        self.detail = ""
        self.hello: wire.Hello | None = None
        self._clock = clock
        self._on_room = on_room
        self._on_end = on_end
        self._patience = patience or Patience()
        self._hang = HangRule(self._patience.hang_floor, self._patience.hang_ceiling)
        self._loop = asyncio.get_running_loop()
        self._decoder = wire.Decoder(wire.FROM_WORKER)
        self._process: WorkerProcess | None = None
        self._transport: asyncio.Transport | None = None
        self._in_flight: deque[_Sent] = deque()
        self._next_id = 0
        self._answered_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._reply: asyncio.Future[wire.Message] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._ended = False
        self._batches = self._rows = 0
        self._busy = 0.0

    def __repr__(self) -> str:
        return (
            f"<Replica {self.spec.name}:{self.spec.version} {self.state.value} "
            f"pid={self.pid} in_flight={len(self._in_flight)}>"
        )

    # -- what others ask -------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether `submit` may be called."""
        return self.state is _S.READY and len(self._in_flight) < MAX_IN_FLIGHT

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def output(self) -> str:
        """The tail of what the worker printed."""
        return self._process.output() if self._process else ""

    def statistics(self) -> ReplicaStatistics:
        return ReplicaStatistics(
            self.state,
            self.pid,
            self._batches,
            self._rows,
            len(self._in_flight),
            self._busy,
            self.reason,
        )

    # -- the way of a batch ----------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        """Send a batch; `batch.done` will be called exactly once, never from in here."""
        if not self.room:
            raise RuntimeError(f"{self!r} has no room")
        self._send_batch(batch)

    def _send_batch(self, batch: Batch) -> None:
        lengths, shapes = batch.layout
        call = wire.Call(self._next_id, batch.rows, lengths)
        if isinstance(shapes, tuple):
            call.shape = shapes
        else:
            call.shapes = shapes
        try:
            frame = wire.encode(call, batch.buffers)
        except wire.WireError:
            cause = "the batch is larger than a worker takes"
            failure = BatchFailure(FailureKind.RAISED, cause)
            self._loop.call_soon(self._settle, batch, failure)
            return
        self._next_id += 1
        assert self._transport is not None
        self._in_flight.append(_Sent(call.id, batch, self._clock.now()))
        if len(frame) == 1:
            self._transport.write(frame[0])
        else:
            self._transport.writelines(frame)
        if self._timer is None:
            self._arm(self._hang.limit(batch.rows))

    def data_received(self, data: bytes) -> None:
        if self._ended or self.state is _S.FAILED:
            return
        try:
            self._decoder.feed(data)
            while (received := self._decoder.next()) is not None:
                self._received(*received)
        except wire.WireError as error:
            logger.warning("%r broke the protocol: %s", self, error)
            cause = "the model's worker answered with something else than an answer"
            self._end(_S.FAILED, FailureKind.CRASHED, cause, str(error))

    def _received(self, message: wire.Message, body: bytearray) -> None:
        if self._ended:
            return  # ended by what the answer before it set off
        if isinstance(message, wire.Answer):
            sent = self._expect(message.id)
            outputs = wire.decode_outputs(body)
            if len(outputs) != sent.batch.rows:
                raise wire.WireError("an answer has another number of outputs than rows")
            self._answered(sent, outputs)
        elif isinstance(message, wire.Failed):
            sent = self._expect(message.id)
            self._answered(sent, _failure(message))
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(message)
        elif self.state is not _S.DRAINING:  # a start that was given up may still speak
            raise wire.WireError(f"{type(message).__name__} came unasked")

    def _expect(self, batch_id: int) -> _Sent:
        """The oldest batch, which this answer must be for."""
        if not self._in_flight or self._in_flight[0].id != batch_id:
            raise wire.WireError("an answer came for a batch that is not the oldest")
        return self._in_flight[0]

    def _answered(self, sent: _Sent, result: BatchResult) -> None:
        self._in_flight.popleft()
        now, batch = self._clock.now(), sent.batch
        batch.seconds = now - max(sent.at, self._answered_at)
        self._answered_at = now
        self._hang.record(batch.rows, batch.seconds)
        self._batches += 1
        self._rows += batch.rows
        self._busy += batch.seconds
        self._settle(batch, result)
        if self.state is _S.READY:
            self._tell_room()
        elif not self._in_flight:
            self._wake_drain()

    # The worker is innocent of what a callback raises, and must not die of it.

    def _settle(self, batch: Batch, result: BatchResult) -> None:
        try:
            batch.done(batch, result)
        except Exception:
            logger.exception("the callback of a batch raised")

    def _tell_room(self) -> None:
        try:
            self._on_room()
        except Exception:
            logger.exception("the callback for room raised")

    # -- starting --------------------------------------------------------------------

    async def start(
        self,
        load_blob: Callable[[], Awaitable[bytes]],
        report: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        """Spawn, load the function, run the example. Raises ReplicaFailed, and leaves no
        process behind when it raises anything. `report` hears of finished stages."""
        try:
            await self._start(load_blob, report)
        except ReplicaFailed as failed:
            died = self._ended
            await self.stop(0)
            if died and self._process is not None:
                status = describe_exit(self._process.returncode)
                failed.cause = f"{failed.cause} ({status})"
            raise
        except BaseException:
            await self.stop(0)
            raise

    async def _start(
        self,
        load_blob: Callable[[], Awaitable[bytes]],
        report: Callable[[str, float], None],
    ) -> None:
        try:
            self._process = WorkerProcess(
                self.spec.environment or {}, self.spec.memory_limit
            )
            self._transport = await self._process.connect(self)
        except OSError as error:
            raise ReplicaFailed(f"the worker could not be started: {error}") from error
        hello = await self._next_message("start", self._patience.start)
        if not isinstance(hello, wire.Hello):
            raise ReplicaFailed("the worker did not say hello")
        self.hello = hello
        self._move(_S.LOADING)
        blob = await load_blob()
        await self._load(blob, report)
        if self.spec.example is not None:
            await self._run_example(self.spec.example, report)
        self._move(_S.READY)
        self._tell_room()

    async def _load(self, blob: bytes, report: Callable[[str, float], None]) -> None:
        load = wire.Load(self.spec.input_type.value)
        try:
            frame = wire.encode(load, (blob,))
        except wire.WireError as error:
            raise ReplicaFailed(f"the package is too large: {error}") from None
        self._check_alive()
        assert self._transport is not None
        self._transport.writelines(frame)
        loaded = await self._next_message("load the function", self._patience.load)
        if isinstance(loaded, wire.Refused):
            raise ReplicaFailed(loaded.cause, loaded.detail)
        if not isinstance(loaded, wire.Loaded):
            raise ReplicaFailed("the worker did not answer to the function")
        report("loading", loaded.seconds)

    async def _run_example(
        self, example: Row, report: Callable[[str, float], None]
    ) -> None:
        """One batch of one row, the way every batch goes."""
        self._check_alive()
        self._move(_S.EXAMPLE)
        finished: asyncio.Future[BatchResult] = self._loop.create_future()

        def done(_: Batch, result: BatchResult) -> None:
            if not finished.done():
                finished.set_result(result)

        layout = layout_of(self.spec.input_type, [example.payload], [example.shape])
        batch = Batch(1, [example.payload], layout, done)
        self._send_batch(batch)
        self._arm(self._patience.load)
        result = await finished
        if isinstance(result, BatchFailure):
            raise ReplicaFailed(f"on the example, {result.cause}", result.detail)
        if isinstance(result[0], RowError):
            raise ReplicaFailed(f"on the example, {result[0].cause}", self._tail())
        self._hang = HangRule(self._patience.hang_floor, self._patience.hang_ceiling)
        self._hang.record_example(batch.seconds)
        self._batches = self._rows = 0
        self._busy = 0.0
        report("example", batch.seconds)

    async def _next_message(self, verb: str, seconds: float) -> wire.Message:
        self._check_alive()
        self._reply = self._loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                return await self._reply
        except TimeoutError:
            cause = f"the worker did not {verb} within {seconds:g} seconds"
            raise ReplicaFailed(cause, self._tail()) from None
        finally:
            self._reply = None

    def _check_alive(self) -> None:
        if self.state in (_S.STOPPED, _S.FAILED, _S.DRAINING):
            raise ReplicaFailed(self.reason or "the worker was stopped", self.detail)

    # -- hanging ---------------------------------------------------------------------

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._clock.now() + seconds
        self._timer = self._loop.call_later(seconds, self._check_hang)

    def _check_hang(self) -> None:
        self._timer = None
        if not self._in_flight:
            return  # idle: no timer runs until the next batch
        oldest = self._in_flight[0]
        limit = self._hang.limit(oldest.batch.rows)
        if self.state is _S.EXAMPLE:
            limit = self._patience.load
        now = self._clock.now()
        running = now - max(oldest.at, self._answered_at)
        if running < limit:
            self._arm(limit - running)
            return
        if now - self._due > STALL_SECONDS:
            self._arm(limit)  # it was us who stood still; the answer may be waiting
            return
        self._move(_S.FAILED)
        self.reason = f"a batch ran for {running:.1f} s, longer than {limit:.1f} s"
        logger.warning("%r hangs: %s", self, self.reason)
        assert self._process is not None
        self._process.dump_stacks()
        self._timer = self._loop.call_later(STACK_SECONDS, self._kill_hung)

    def _kill_hung(self) -> None:
        cause = "the model took too long and its worker was restarted"
        self._end(_S.FAILED, FailureKind.HUNG, cause)

    # -- ending ----------------------------------------------------------------------

    def connection_lost(self, error: Exception | None) -> None:
        if self.state is _S.DRAINING:
            self._end(_S.STOPPED, FailureKind.CRASHED, STOPPED)
        elif self.state is _S.FAILED:  # between the stacks of a hang and the kill
            self._kill_hung()
        else:
            cause = "the model's worker process died"
            self._end(_S.FAILED, FailureKind.CRASHED, cause)

    def _end(
        self, state: ReplicaState, kind: FailureKind, cause: str, detail: str = ""
    ) -> None:
        """Settle all that is open, once: the oldest batch is blamed, others are not."""
        if self._ended:
            return
        self._ended = True
        if self.state is not _S.FAILED:  # a hang has failed already
            self._move(state)
        self.reason = self.reason or cause
        self.detail = "\n".join(filter(None, (detail, self._tail())))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        if self._process is not None:
            self._process.kill()
        self._on_end(self)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ReplicaFailed(self.reason, self.detail))
        self._wake_drain()
        failure = BatchFailure(kind, cause, self.detail)
        while self._in_flight:
            self._settle(self._in_flight.popleft().batch, failure)
            failure = BatchFailure(
                FailureKind.RETURNED, "the worker ended before it began with the batch"
            )

    async def stop(self, drain_seconds: float) -> None:
        """Take nothing new, finish what is in flight for at most `drain_seconds`, and end
        the process and all it started. Idempotent; returns when the process is gone."""
        if _S.DRAINING in _MOVES[self.state]:
            self._move(_S.DRAINING)
        if self._in_flight and drain_seconds > 0:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.wait((self._drained,), timeout=drain_seconds)
        if self._process is not None:
            await self._process.stop(GRACE_SECONDS)
        self._end(_S.STOPPED, FailureKind.CRASHED, STOPPED)

    def kill(self) -> None:
        """End at once, without waiting: what is left when there is no time to stop."""
        self._end(_S.STOPPED, FailureKind.CRASHED, STOPPED)

    def _wake_drain(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def wait_gone(self) -> None:
        """Until the process was collected; `reason` then tells its exit status."""
        if self._process is not None:
            await self._process.exited.wait()
            if self.state is _S.FAILED:
                status = describe_exit(self._process.returncode)
                if status not in self.reason:
                    self.reason = f"{self.reason} ({status})"

    def _tail(self) -> str:
        return self.output()[-_DETAIL:]

    def _move(self, state: ReplicaState) -> None:
        if state not in _MOVES[self.state]:
            raise RuntimeError(f"a replica cannot go from {self.state} to {state}")
        self.state = state


_KINDS = {kind.value: kind for kind in (FailureKind.RAISED, FailureKind.WRONG_COUNT)}


def _failure(message: wire.Failed) -> BatchFailure:
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise wire.WireError(f"a worker cannot fail a batch as {message.kind!r}")
    return BatchFailure(kind, message.cause, message.detail)
