"""An event loop in virtual time.

It does what uvloop does with time: timers are kept in whole milliseconds, counted from
the beginning of a turn, so that they may fire a little early as well as late. What comes
from a socket (a request, an answer of a worker) comes at its exact time instead: `at`.
Enough of asyncio is here for tasks, events and timeouts to run on it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from itertools import count
from math import floor
from random import Random
from typing import Any

from fakes import ManualClock

MOST_TURNS = 300_000  # of one run; more are an endless loop


class Killed(BaseException):
    """What ends a coroutine of a process that is no more."""


def _kill(coroutine: Any) -> None:
    while coroutine.cr_frame is not None:  # it may wait again while it ends
        with suppress(BaseException):
            coroutine.throw(Killed())


class Handle:
    """Something that was scheduled."""

    __slots__ = ("args", "callback", "context", "dead", "outside")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.dead = False
        self.outside = False  # it is no work of the process that this loop is of

    def cancel(self) -> None:
        self.dead = True

    def cancelled(self) -> bool:
        return self.dead

    def run(self) -> None:
        if self.context is None:
            self.callback(*self.args)
        else:
            self.context.run(self.callback, *self.args)


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order of their times; `after` is called behind each one."""

    # State: what is to run on the next turn, and what later, by time; how late timers
    # fire comes from `rng`; `start` is when the present turn began and `longest`
    # the longest turn so far; `failures`, what tasks raised that nobody awaited; `over`,
    # whether the process was killed.

    def __init__(self, clock: ManualClock, rng: Random) -> None:
        self.clock = clock
        self.rng = rng
        self.after: Callable[[], None] | None = None
        self.start = clock.now()
        self.longest = 0.0
        self.turns = 0
        self.failures: list[dict[str, Any]] = []
        self.spawned: list[Any] = []  # nothing here learns, so nothing comes
        self._soon: deque[Handle] = deque()
        self._later: list[tuple[float, int, Handle]] = []
        self._due: deque[Handle] = deque()
        self._ticket = count()
        self.over = False
        self._buried: set[Any] = set()

    # -- scheduling ----------------------------------------------------------------------

    def time(self) -> float:
        return floor(self.clock.now() * 1e3) / 1e3

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> Handle:
        """Run it at exactly that time, as what comes from a socket does."""
        handle = Handle(callback, args, None)
        handle.outside = True
        heapq.heappush(self._later, (when, next(self._ticket), handle))
        return handle

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context)
        self._soon.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        handle = Handle(callback, args, context)
        begun = floor(self.start * 1e3)
        late = self.rng.random()
        when = (begun + max(0, round(delay * 1e3)) + late) / 1e3
        when = max(when, self.clock.now() + 1e-6)  # a turn takes some time
        heapq.heappush(self._later, (when, next(self._ticket), handle))
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    # -- what tasks need -----------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **more)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    # -- running -------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop of this thread."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    @property
    def idle(self) -> bool:
        return not self._soon and all(handle.dead for _, _, handle in self._later)

    def run(self, until: float) -> None:
        """Let time pass up to `until`."""
        clock, later = self.clock, self._later
        while not self.over:
            if not self._soon:
                while later and later[0][2].dead:
                    heapq.heappop(later)
                if not later or later[0][0] > until:
                    break
                clock.move(max(0.0, later[0][0] - clock.now()))
            self._turn()
        if not self.over:
            clock.move(max(0.0, until - clock.now()))

    def _turn(self) -> None:
        later, after = self._later, self.after
        self.start = now = self.clock.now()
        self.turns += 1
        assert self.turns < MOST_TURNS, "the loop never comes to rest"
        due, self._soon = self._soon, deque()
        self._due = due
        while later and later[0][0] <= now:
            due.append(heapq.heappop(later)[2])
        while due and not self.over:
            handle = due.popleft()
            if not handle.dead:
                handle.dead = True
                handle.run()
                if after is not None:
                    after()
        took = self.clock.now() - now
        if took > self.longest:
            self.longest = took

    # -- the end of the process ----------------------------------------------------------

    def succeed(self) -> VirtualLoop:
        """The process is killed: nothing of it runs any more. The loop of the next one,
        in which the world around goes on."""
        self.over = True
        after, self.after = self.after, None
        new = VirtualLoop(self.clock, self.rng)
        new.after, new._ticket, new.turns = after, self._ticket, self.turns
        new._later = [entry for entry in self._later if entry[2].outside]
        heapq.heapify(new._later)
        new._soon = deque(handle for handle in self._due if handle.outside)
        self._soon.clear()
        self._later.clear()
        self._bury()
        return new

    def _bury(self) -> None:
        """End what the tasks were in the middle of, now and not when they are collected;
        they may do what they like, nobody hears of it."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while left := [t for t in asyncio.all_tasks(self) if t not in self._buried]:
                for task in left:
                    self._buried.add(task)
                    _kill(task.get_coro())
        finally:
            asyncio._set_running_loop(before)
