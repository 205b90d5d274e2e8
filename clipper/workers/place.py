"""A place for one worker, and the task that keeps it filled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from clipper.clock import Clock
from clipper.errors import ClipperError
from clipper.workers.crash_loop import CrashLoop, Death, End, Restarts
from clipper.workers.last_words import LastWords
from clipper.workers.spec import Patience, ReplicaFailed, ReplicaState, WorkerSpec
from clipper.workers.supervised import LoadBlob, MakeReplica, Report, Supervised
from clipper.workers.turns import Turns

logger = logging.getLogger(__name__)


def cancel_once(task: asyncio.Task[None]) -> None:
    """Cancel a task that ends a worker then; a second time would cut that short."""
    if not task.cancelling():
        task.cancel()


class Ward:
    """What the places of one model version have in common: how a worker is made, and what
    its workers have told so far."""

    # State: `crashes` and `words`; `why` the last worker ended; `reason` says so until
    # another is ready; `deaths`, `restarts` and the `answered` batches of workers that
    # have ended; `_first` is as Patience has it; `probe` is held by whoever starts a worker
    # alone.

    def __init__(
        self,
        spec: WorkerSpec,
        load_blob: LoadBlob,
        clock: Clock,
        rule: Restarts,
        patience: Patience | None,
        jitter: Callable[[], float],
        make_replica: MakeReplica,
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.load_blob = load_blob
        self.clock = clock
        self.rule = rule
        self.jitter = jitter
        self.on_change = on_change
        self.crashes = CrashLoop(rule, credit=int(spec.example is not None))
        self.words = LastWords()
        self.reason = self.why = ""
        self.deaths = self.restarts = self.answered = 0
        self.probe = asyncio.Lock()
        self._patience = patience or Patience()
        self._first: tuple[int, float] | None = None
        self._make_replica = make_replica

    def make(self, on_end: Callable[[Supervised], None]) -> Supervised:
        patience = self._patience
        if self._first is not None:
            patience = replace(patience, first=self._first)
        return self._make_replica(self.spec, self.clock, on_end=on_end, patience=patience)

    def take_leave(self, replica: Supervised) -> None:
        """It has ended: keep what is worth knowing."""
        told = replica.statistics()
        self.answered += told.batches
        self._first = told.first or self._first
        self.words.keep(replica.pid, replica.reason, replica.output())

    def explain(self, why: str) -> None:
        """Say why a worker ended, and what follows from it."""
        self.why = why
        self.reason = f"a worker ended: {why}"
        if self.crashes.tripped:
            self.reason = (
                f"workers keep ending, the last one because {why}; "
                f"a new one is tried every {self.rule.retry:g} seconds"
            )
        logger.warning("%s:%s: %s", self.spec.name, self.spec.version, self.reason)


class Place:
    """One worker at a time."""

    # State: `replica`, None between two; `_gone` is set when it ended; `keeper` is the
    # task, None before `keep`; `_failures` are ends in a row; `_began` is when the worker
    # was started, `_took` the seconds until it was ready; `share` of its limits is when
    # this worker is replaced, `fresh` the bytes it had when it was ready.

    def __init__(self, ward: Ward) -> None:
        self._ward = ward
        self.replica: Supervised | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.share = 1.0
        self.fresh: int | None = None
        self._gone = asyncio.Event()
        self._failures = 0
        self._began = self._took = 0.0

    @property
    def ready(self) -> bool:
        replica = self.replica
        return replica is not None and replica.state is ReplicaState.READY

    async def fill(
        self,
        load_blob: LoadBlob | None = None,
        report: Report = lambda stage, seconds: None,
    ) -> Supervised:
        """Start a replica, or raise what kept it from starting."""
        ward = self._ward

        def ended(_: Supervised) -> None:
            self._gone.set()
            ward.on_change()

        self._gone.clear()
        self._began = ward.clock.now()
        self.share = 1.0 - 0.1 * ward.jitter()
        self.replica = replica = ward.make(ended)
        try:
            await replica.start(load_blob or ward.load_blob, report)
        except BaseException:
            self.empty()
            raise
        self._took = ward.clock.now() - self._began
        if ward.spec.recycle_memory is not None:
            self.fresh = replica.memory()
        return replica

    def empty(self) -> None:
        """Forget the replica, which has ended."""
        replica, self.replica = self.replica, None
        if replica is not None:
            self._ward.take_leave(replica)

    async def leave(self, drain_seconds: float) -> None:
        """End the replica. The keeper goes first, else it would start what is ended."""
        keeper = self.keeper
        try:
            if keeper is not None:
                cancel_once(keeper)
                await asyncio.wait((keeper,))
            if self.replica is not None:
                await self.replica.stop(drain_seconds)
        finally:
            if self.replica is not None:
                self.replica.kill()  # nothing is left of it unless we are cancelled
                self._ward.crashes.forget(self.replica)
            self.empty()

    # -- keeping it filled -------------------------------------------------------------

    def keep(self, turns: Turns | None = None) -> None:
        """Begin; where `turns` is given the first start is in turn."""
        name = f"keep {self._ward.spec.name}:{self._ward.spec.version}"
        start = self._refill if turns is None else partial(self._refill_in_turn, turns)
        self.keeper = asyncio.create_task(self._keep_filled(start), name=name)

    async def _keep_filled(self, first: Callable[[], Awaitable[Supervised]]) -> None:
        """Runs until it is cancelled. A replica that is there is waited for first."""
        start = first
        while True:
            replica: Supervised | None = None
            try:
                begin, start = start, self._refill
                replica = self.replica or await begin()
                await self._gone.wait()
                await replica.wait_gone()
            except (ReplicaFailed, ClipperError) as error:
                why = error.cause
            except Exception as error:
                logger.exception("%s:%s could not start a worker", *self._names)
                why = f"it could not be started: {error}"
            else:
                why = replica.reason
            if replica is not None and replica.state is ReplicaState.STOPPED:
                self._ward.crashes.forget(replica)
                self._failures = 0
                self.empty()
            else:
                await self._mourn(replica, why)

    @property
    def _names(self) -> tuple[str, str]:
        return self._ward.spec.name, self._ward.spec.version

    async def _refill_in_turn(self, turns: Turns) -> Supervised:
        async with turns.take():
            return await self._refill()

    async def _refill(self) -> Supervised:
        """Start a replica when it is time."""
        ward, now = self._ward, self._ward.clock.now
        if not ward.crashes.one_by_one(now()):
            replica = await self.fill()
        else:
            async with ward.probe:
                # other deaths may put it off
                while seconds := ward.crashes.wait(now()):  # noqa: ASYNC110
                    await asyncio.sleep(seconds)
                replica = await self.fill()
                ward.crashes.came_up(now())
        if self._failures:
            ward.restarts += 1
        ward.reason = ""
        ward.on_change()
        return replica

    async def _mourn(self, replica: Supervised | None, why: str) -> None:
        """Count a death, and wait until the next start."""
        ward, now = self._ward, self._ward.clock.now()
        death = Death(now, End.START, starting=now - self._began)
        if replica is not None:
            told = replica.statistics()
            end = End.OUTSIDE if told.killed else End.OWN
            death = Death(now, end, told.batches, now - self._began, self._took)
        ward.deaths += 1
        # one that never was ready has no verdict: it had no batch
        excused = ward.crashes.died(self if replica is None else replica, death)
        single = excused or death.is_single(ward.rule)
        self._failures = 1 if single else self._failures + 1
        self.empty()
        ward.explain(why)
        ward.on_change()
        if not ward.crashes.tripped:
            await asyncio.sleep(ward.rule.pause(self._failures, ward.jitter()))
