"""One replica of a model: a worker process, its start, its hangs and its end.

Only the oldest unanswered batch can be to blame for a death: a worker takes one at a time,
so the batches behind it had not begun and are returned.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping

from clipper.clock import Clock
from clipper.inputs import Row
from clipper.layout import layout_of
from clipper.values import Batch, BatchFailure, BatchResult, FailureKind, RowError
from clipper.workers import wire
from clipper.workers.channel import Channel, settle
from clipper.workers.hang import HangRule
from clipper.workers.process import WorkerProcess, describe_exit
from clipper.workers.spec import (
    MOVES,
    Patience,
    ReplicaFailed,
    ReplicaState,
    ReplicaStatistics,
    WorkerSpec,
)
from clipper.workers.supervised import LoadBlob, Report

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2  # one that runs and one that waits in the socket keep a worker busy
STACK_SECONDS = 0.1  # for a hung worker to write its stacks before it is killed
STALL_SECONDS = 0.25  # a timer later than this tells of a stalled event loop
GRACE_SECONDS = 0.5  # for a worker to end by itself once it was asked to
# A worker does not end itself by these.
_KILLS = (-signal.SIGKILL, -signal.SIGTERM)
_WHO = ", by somebody or by the system for want of memory"
_DETAIL = 16_000  # characters of output that go with a failure

_DIED = "the model's worker process died"
_BROKE = "the model's worker answered with something else than an answer"
_HUNG = "the model took too long and its worker was stopped"
_STOPPED = "the worker was stopped before it could answer"
_RETURNED = "the worker ended before it began with the batch"

_S = ReplicaState
_READY = _S.READY
_OVER = (_S.DRAINING, _S.STOPPED, _S.FAILED)


# WorkerProcess, or what stands in for it in a simulation.
MakeProcess = Callable[[Mapping[str, str], int | None], WorkerProcess]


class Replica:
    """A worker behind `submit`. Starts once, ends once.

    `on_end` is called when it can serve no more (its process may take a moment longer; see
    `wait_gone`).
    """

    # State: `_first` are rows and seconds of the first batch; `_killed` says that somebody
    # else ended it; `_timer` is armed for `_due` while a batch is in flight, at most once
    # after; `_reply` waits for the next message of the start, `_drained` for the last
    # answer; `_ended` says that all was settled, `_collected` that the reason tells how
    # the process ended.

    def __init__(
        self,
        spec: WorkerSpec,
        clock: Clock,
        *,
        on_end: Callable[[Replica], None] = lambda replica: None,
        patience: Patience | None = None,
        make_process: MakeProcess | None = None,
    ) -> None:
        self.spec = spec
        self.state = _S.STARTING
        self.reason = ""
        self.detail = ""
        self.hello: wire.Hello | None = None
        self._clock = clock
        self._on_end = on_end
        self._make_process = make_process
        self._patience = patience or Patience()
        self._hang = self._make_hang_rule()
        self._first: tuple[int, float] | None = None
        self._killed = False
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self, clock)
        self._process: WorkerProcess | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._reply: asyncio.Future[wire.Message] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._ended = self._collected = False
        self._batches = self._rows = 0
        self._busy = 0.0

    def __repr__(self) -> str:
        return (
            f"<Replica {self.spec.name}:{self.spec.version} {self.state.value} "
            f"pid={self.pid} in_flight={self.in_flight}>"
        )

    # -- what others ask -------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether `submit` may be called."""
        return self.state is _READY and len(self._channel.sent) < MAX_IN_FLIGHT

    @property
    def in_flight(self) -> int:
        return len(self._channel.sent)

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
            self.in_flight,
            self._busy,
            self.reason,
            self._first,
            self._killed,
        )

    def memory(self) -> int | None:
        """Resident bytes of the worker and its children, where the system tells."""
        return self._process.memory() if self._process else None

    # -- the way of a batch ----------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        """Send a batch; `batch.done` will be called exactly once, never from in here."""
        if not self.room:
            raise RuntimeError(f"{self!r} has no room")
        self._channel.submit(batch)
        self._watch(batch)

    def answered(self, batch: Batch) -> None:
        self._hang.record(batch.rows, batch.seconds)
        self._batches += 1
        if self._batches == 1:
            self._learn_first(batch)
        self._rows += batch.rows
        self._busy += batch.seconds
        if self._drained is not None and not self.in_flight:
            self._wake_drain()

    def _learn_first(self, batch: Batch) -> None:
        """Where there is no example, the first batch is one."""
        if self.state is not _S.EXAMPLE:
            self._first = batch.rows, batch.seconds
            if self.spec.example is None:
                self._hang.record_example(batch.seconds, batch.rows)

    def told(self, message: wire.Message) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(message)
        elif self.state is not _S.DRAINING:  # a start that was given up may still speak
            raise wire.WireError(f"{type(message).__name__} came unasked")

    def lost(self, fault: wire.WireError | None) -> None:
        if fault is not None:
            logger.warning("%r broke the protocol: %s", self, fault)
            self._end(_S.FAILED, FailureKind.CRASHED, _BROKE, str(fault))
        elif self.state is _S.DRAINING:
            self._end(_S.STOPPED, FailureKind.CRASHED, _STOPPED)
        elif self.state is _S.FAILED:  # between the stacks of a hang and the kill
            self._kill_hung()
        else:
            self._end(_S.FAILED, FailureKind.CRASHED, _DIED)

    # -- starting --------------------------------------------------------------------

    async def start(
        self, load_blob: LoadBlob, report: Report = lambda stage, seconds: None
    ) -> None:
        """Spawn, load the function, run the example. Raises ReplicaFailed, and leaves no
        process behind when it raises anything. `report` hears of finished stages."""
        try:
            await self._start(load_blob, report)
        except BaseException as error:
            died = self._ended
            await self.stop(0)
            if isinstance(error, ReplicaFailed) and died and self._process is not None:
                error.cause += self._exit(self._process.returncode)
            raise

    async def _start(self, load_blob: LoadBlob, report: Report) -> None:
        self._reply = self._loop.create_future()  # it may speak before connect is back
        try:
            self._process = (self._make_process or WorkerProcess)(
                self.spec.environment, self.spec.memory_limit
            )
            await self._process.connect(self._channel)
        except BaseException as error:
            self._reply = None
            if not isinstance(error, OSError):
                raise
            raise ReplicaFailed(f"the worker could not be started: {error}") from error
        hello = await self._next_message("start", self._patience.start)
        if not isinstance(hello, wire.Hello):
            raise ReplicaFailed("the worker did not say hello")
        self.hello = hello
        self._go_on(_S.LOADING)
        await self._load(await load_blob(), report)
        if self.spec.example is not None:
            self._go_on(_S.EXAMPLE)
            await self._run_example(self.spec.example, report)
        self._go_on(_S.READY)

    async def _load(self, blob: bytes, report: Report) -> None:
        self._check_alive()
        try:
            self._channel.load(wire.Load(self.spec.input_type.value), blob)
        except wire.WireError as error:
            raise ReplicaFailed(f"the package is too large: {error}") from None
        loaded = await self._next_message("load the function", self._patience.load)
        if isinstance(loaded, wire.Refused):
            raise ReplicaFailed(loaded.cause, loaded.detail)
        if not isinstance(loaded, wire.Loaded):
            raise ReplicaFailed("the worker did not answer to the function")
        report("loading", loaded.seconds)

    async def _run_example(self, example: Row, report: Report) -> None:
        """One batch of one row, the way every batch goes."""
        finished: asyncio.Future[BatchResult] = self._loop.create_future()

        def done(_: Batch, result: BatchResult) -> None:
            if not finished.done():
                finished.set_result(result)

        layout = layout_of(self.spec.input_type, [example.payload], [example.shape])
        batch = Batch(1, [example.payload], layout, done)
        self._channel.submit(batch)
        self._arm(self._patience.load)
        result = await finished
        if isinstance(result, BatchFailure):
            raise ReplicaFailed(f"on the example, {result.cause}", result.detail)
        if isinstance(result[0], RowError):
            raise ReplicaFailed(f"on the example, {result[0].cause}", self._tail())
        # It counts as an example, not as a batch.
        self._hang = self._make_hang_rule()
        self._hang.record_example(batch.seconds)
        self._batches = self._rows = 0
        self._busy = 0.0
        report("example", batch.seconds)

    async def _next_message(self, what: str, seconds: float) -> wire.Message:
        if self._reply is None:
            self._check_alive()
            self._reply = self._loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                return await self._reply
        except TimeoutError:
            cause = f"the worker did not {what} within {seconds:g} seconds"
            raise ReplicaFailed(cause, self._tail()) from None
        finally:
            self._reply = None

    def _go_on(self, state: ReplicaState) -> None:
        """The next stage of the start; it may have died right after it was done with
        the last one."""
        self._check_alive()
        self._move(state)

    def _check_alive(self) -> None:
        if self.state in _OVER:
            raise ReplicaFailed(self.reason or _STOPPED, self.detail)

    # -- hanging ---------------------------------------------------------------------

    def _make_hang_rule(self) -> HangRule:
        patience = self._patience
        rule = HangRule(patience.hang_floor, patience.hang_ceiling)
        if patience.first is not None and self.spec.example is None:
            rows, seconds = patience.first
            rule.record_example(seconds, rows)
        return rule

    def _watch(self, batch: Batch) -> None:
        """Look no later than the batch may last; the timer may be that of a larger one."""
        if self._timer is None:
            self._arm(self._hang.limit(batch.rows))
        elif self._due > self._clock.now() + self._hang.floor:
            limit = self._hang.limit(batch.rows)
            if self._due > self._clock.now() + limit:
                self._arm(limit)

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._clock.now() + seconds
        self._timer = self._loop.call_later(seconds, self._check_hang)

    def _check_hang(self) -> None:
        self._timer = None
        oldest = self._channel.oldest
        if oldest is None:
            return  # idle: no timer runs until the next batch
        batch, running = oldest
        limit = self._hang.limit(batch.rows)
        if self.state is _S.EXAMPLE:
            limit = self._patience.load
        if running < limit:
            self._arm(limit - running)
        elif self._clock.now() - self._due > STALL_SECONDS:
            self._arm(limit)  # it was us who stood still; the answer may be waiting
        else:
            self._condemn(f"a batch ran for {running:.1f} s, longer than {limit:.1f} s")

    def _condemn(self, reason: str) -> None:
        """Take it out of service and ask for its stacks before it is killed."""
        self._move(_S.FAILED)
        self.reason = reason
        logger.warning("%r hangs: %s", self, reason)
        self._channel.mute()
        assert self._process is not None
        self._process.dump_stacks()
        self._timer = self._loop.call_later(STACK_SECONDS, self._kill_hung)

    def _kill_hung(self) -> None:
        self._end(_S.FAILED, FailureKind.HUNG, _HUNG)

    # -- ending ----------------------------------------------------------------------

    async def stop(self, drain_seconds: float) -> None:
        """Take nothing new, finish what is in flight for at most `drain_seconds`, and end
        the process and all it started. Idempotent; returns when the process is gone."""
        if _S.DRAINING in MOVES[self.state]:
            self._move(_S.DRAINING)
        if self.in_flight and drain_seconds > 0:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.wait((self._drained,), timeout=drain_seconds)
        if self._process is not None:
            await self._process.stop(GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End at once, without waiting: what is left when there is no time to stop."""
        self._end(_S.STOPPED, FailureKind.CRASHED, _STOPPED)

    async def wait_gone(self) -> None:
        """Until the process was collected; `reason` then tells its exit status, and the
        statistics whether it was killed by somebody else."""
        if self._process is not None:
            await self._process.exited.wait()
            code = self._process.returncode
            if self.reason == _DIED:
                self._killed = code in _KILLS
            if self.state is _S.FAILED and not self._collected:
                self._collected = True
                self.reason += self._exit(code)

    def _exit(self, code: int | None) -> str:
        """How the process ended, to be put behind the reason."""
        hint = _WHO if self.reason == _DIED and code == -signal.SIGKILL else ""
        return f" ({describe_exit(code)}{hint})"

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
        batches = self._channel.close()
        if self._process is not None:
            self._process.kill()
        try:
            self._on_end(self)
        except Exception:  # its batches must not suffer from it
            logger.exception("a callback of %r raised", self)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ReplicaFailed(self.reason, self.detail))
        failure = BatchFailure(kind, cause, self.detail)
        for batch in batches:
            settle(batch, failure)
            failure = BatchFailure(FailureKind.RETURNED, _RETURNED)
        self._wake_drain()

    def _wake_drain(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _tail(self) -> str:
        return self.output()[-_DETAIL:]

    def _move(self, state: ReplicaState) -> None:
        if state not in MOVES[self.state]:
            raise RuntimeError(f"a replica cannot go from {self.state} to {state}")
        self.state = state
