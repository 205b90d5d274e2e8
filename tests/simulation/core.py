"""A whole server but its sockets, in virtual time, through crashes and new starts.

Engine, supervision, replicas, channels, policies, learning and the way to the log are the
real ones. Worker processes, the disk, clients and operators are virtual. One seed decides
all that happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from random import Random
from typing import Any

from fakes import ManualClock

from clipper.application import Application
from clipper.config import LearningSettings, Limits, Settings
from clipper.engine import Engine
from clipper.errors import ClipperError
from clipper.selection.policy import Subject
from clipper.workers.crash_loop import Restarts
from clipper.workers.replica import Replica
from clipper.workers.replica_set import ReplicaSet

from .audit import Audit
from .blows import Blows
from .critics import Critics
from .disk import Disk, DiskStore
from .ledger import Ledger
from .loop import VirtualLoop
from .operators import Operators
from .plot import BLOWS, Plot
from .processes import Function, VirtualProcess
from .replicas import CYCLE
from .trace import Trace
from .visitors import Ask, Visitors

DRAIN = 1.0
FORGIVEN = Restarts().credit
ASKED = 3  # times, at the end
UNUSED = 200 * CYCLE  # inputs from here on are asked for at the end alone
HURRY = 0.5  # milliseconds
LOADING = 330.0  # seconds
SOON = 120.0  # seconds, in which a server must have ended that is asked to


class Poison:
    """Rows that kill, of the calm model: no more of them, and no sooner, than is forgiven
    because others are answered in between."""

    # State: how many came, and what was answered since the last.

    def __init__(self) -> None:
        self.rows = self.answered = 0

    @property
    def may_come(self) -> bool:
        return self.rows < FORGIVEN and self.answered >= FORGIVEN

    def came(self) -> None:
        self.rows += 1
        self.answered = 0


class Life:
    """One server process, from its start to its end."""

    # State: whether it was started, is asked to end, and has ended; feedback that was not
    # told of.

    def __init__(self, world: Core, number: int) -> None:
        plot = world.plot
        self.number = number
        self.up = self.leaving = self.over = False
        self.untold = 0
        self.poison = Poison()
        self.store = DiskStore(world, plot.disk, Random(world.rng.random()))
        rng = Random(world.rng.random())
        self.engine = Engine(
            Settings(
                cache_bytes=plot.cache_bytes,
                drain_seconds=DRAIN,
                limits=Limits(queue_rows=plot.queue_rows, replicas=24),
                learning=LearningSettings(
                    users_in_memory=plot.users_in_memory,
                    snapshot_entries=plot.snapshot_entries,
                    snapshot_seconds=plot.snapshot_seconds,
                ),
            ),
            self.store,
            world.clock,
            rng,
            partial(
                ReplicaSet,
                jitter=Random(rng.random()).random,
                make_replica=partial(
                    Replica,
                    make_process=partial(VirtualProcess, world, Random(rng.random())),
                ),
            ),
        )

    @property
    def open(self) -> bool:
        """Whether somebody could ask it something."""
        return self.up and not (self.leaving or self.over)


class Core:
    """The machine, what runs on it, and who asks it."""

    def __init__(self, plot: Plot, lines: int = 80) -> None:
        self.plot = plot
        self.rng = Random(plot.seed)
        self.clock = ManualClock()
        self.loop = VirtualLoop(self.clock, Random(self.rng.random()))
        self.trace = Trace(self.clock.now, lines)
        self.note = self.trace.note
        self._number = 0
        self.healed = True
        self.disk = Disk()
        self.functions: dict[int, Function] = {}
        self.blobs: dict[str, Function] = {}
        self.inputs: dict[str, int] = {}
        self.processes: set[VirtualProcess] = set()
        self.ledger = Ledger(self)
        self.visitors = Visitors(self, Random(self.rng.random()))
        self.critics = Critics(self, Random(self.rng.random()))
        self.operators = Operators(self, Random(self.rng.random()))
        self.audit = Audit(self)
        self.lives = 0
        self.blows = Blows(self, Random(self.rng.random()))
        self.life: Life

    def number(self) -> int:
        self._number += 1
        return self._number

    # -- lives ---------------------------------------------------------------------------

    def begin_life(self) -> None:
        self.lives += 1
        self.note(f"life {self.lives}")
        self.ledger.begin_life()
        self.visitors.counted.clear()
        self.audit.folds.clear()
        self.life = Life(self, self.lives)
        self.task(self._start(self.life))

    async def _start(self, life: Life) -> None:
        try:
            await life.engine.start()
        except ClipperError as error:
            self.note(f"no start: {error}")
            self.loop.at(self.clock.now() + 0.2, self.crash_life, life)
            return
        life.up = True
        self.note("up")
        self.audit.check_records()
        self.audit.check_learned()

    def crash_life(self, life: Life) -> None:
        """The process is gone from one moment to the next."""
        if life.over or life is not self.life:
            return
        self.note("crash")
        life.over = life.store.over = True
        self.loop = self.loop.succeed()
        self._end(life)
        self.ledger.check_acknowledged()
        self.loop.at(self.clock.now() + self.rng.random() * 0.1, self.begin_life)

    def _end(self, life: Life) -> None:
        life.over = life.store.over = True
        life.up = False
        self.visitors.open.clear()
        self.processes.clear()

    async def _restart(self, life: Life, again: bool) -> None:
        """Ask it to end; nothing may be left of it."""
        life.leaving = True
        await life.engine.drain(DRAIN)
        self.ledger.expect(not self.visitors.open, "somebody was not answered by the end")
        await life.engine.close()
        self.loop.at(self.clock.now() + 0.1, self._ended, life, again)

    def _ended(self, life: Life, again: bool) -> None:
        if life.over:
            return
        left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
        self.ledger.expect(not left, f"tasks are left: {left}")
        self.ledger.expect(not self.processes, "processes are left")
        self.ledger.expect(not life.untold, "somebody was not told by the end")
        self.ledger.expect(not self.loop.failures, f"{self.loop.failures}")
        self.ledger.check_acknowledged()
        self.note("ended")
        self._end(life)
        if again:
            self.loop = self.loop.succeed()
            self.loop.at(self.clock.now() + 0.05, self.begin_life)

    def end_life(self, again: bool = True) -> None:
        life = self.life
        if life.open:
            self.note("ask to end")
            life.leaving = True
            self.task(self._restart(life, again))
            self.loop.at(self.clock.now() + SOON, self._must_be_over, life)

    def _must_be_over(self, life: Life) -> None:
        self.ledger.expect(life.over, "the server does not end")

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something that a request to the server does."""
        task = self.loop.create_task(work)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.ledger.expect(False, f"{task.get_coro().__qualname__}: {error!r}")
            logging.getLogger(__name__).debug("it failed", exc_info=error)

    def happen(self, event: str) -> None:
        if event in BLOWS:
            self.blows.fall(event)
        elif self.life.open:
            self.task(self.operators.do(event))

    # -- running -------------------------------------------------------------------------

    def run(self) -> None:
        logger = logging.getLogger("clipper")
        level, tells = logger.level, logger.propagate
        logger.setLevel(logging.ERROR)
        logger.propagate = False  # of troubles it is full
        self.loop.after = self.audit.step
        try:
            with Survived() as survived:
                self._run_all()
                assert not survived.lines, survived.lines
        finally:
            logger.setLevel(level)
            logger.propagate = tells
            self.loop.succeed()  # nothing of it is left to be collected

    def _run_all(self) -> None:
        plot = self.plot
        self.loop.at(self.clock.now(), self.begin_life)
        self._run(2.0)
        self.loop.at(self.clock.now(), lambda: self.task(self.operators.set_up()))
        while not self.operators.ready:
            self._run(0.5)
        self.healed = False
        self.visitors.start()
        self.critics.start()
        begin = self.clock.now()
        for at, event in plot.events:
            self.loop.at(begin + at, self.happen, event)
        self._run(plot.seconds)
        self._heal()
        self._run(plot.rest)
        if not self.audit.is_healed():  # a worker may take its time to be loaded
            self._run(LOADING)
        self.audit.at_rest()
        self._ask_all()
        self.end_life(again=False)
        self._run(SOON + 1.0)
        assert self.life.over, "the server does not end"
        self.audit._raise()

    def _heal(self) -> None:
        """From here on nothing goes wrong."""
        self.healed = True
        self.disk.full = False
        self._run(5.0)
        if self.life.store.broken:
            self.note("the disk is mended")
            self.loop.at(self.clock.now(), self.crash_life, self.life)

    def _ask_all(self) -> None:
        """Everybody who has a model that answers is answered, though all ask the same, and
        for each somebody does who has no time for it."""
        asks = []

        def send(value: int) -> None:
            for name, application in self.life.engine.applications.items():
                models = application.roster.models.values()
                if models and all(m.connected for m in models):
                    for hurry in (HURRY, None):
                        ask = Ask(self, [value], Subject(None, [0.0, 1.0, 2.0]))
                        self.visitors.send(ask, application, True, hurry)
                    # the second input waits, and in vain where the model is thought slow
                    behind = bool(value % 2)
                    asks.append((name, ask, behind and _seems_slow(application)))

        for turn in range(ASKED):  # the first may be given up for what was slow before
            asks.clear()
            for value in (UNUSED + 2 * turn, UNUSED + 2 * turn + 1):
                self.loop.at(self.clock.now(), send, value)
            self._run(10.0)
        self.audit.check_outputs(asks)

    def _run(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        while True:
            loop = self.loop
            with loop.running():
                loop.run(until)
            if loop is self.loop:
                break


def _seems_slow(application: Application) -> bool:
    """Whether a row may be late that waits for another one."""
    models = application.roster.models.values()
    loads = [load for model in models for load in model.dispatcher.fleet.loads]
    most = max((load.predicted(1) + load.spread for load in loads), default=0.0)
    return 4 * most > application.slo


class Survived(logging.Handler):
    """Exceptions that the server logged and survived: each is a fault of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.lines.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def __enter__(self) -> Survived:
        logging.getLogger("clipper").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("clipper").removeHandler(self)
