"""What befalls the machine of a whole server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from .operators import CALM
from .processes import Function, VirtualProcess

if TYPE_CHECKING:
    from .core import Core


class Blows:
    """Each method is one."""

    # State: how often each fell, and until when functions cannot live, by number.

    def __init__(self, world: Core, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.fallen: Counter[str] = Counter()
        self._plagued: dict[int, float] = {}

    def fall(self, blow: str) -> None:
        self.world.note(blow)
        self.fallen[blow] += 1
        getattr(self, blow)()

    def crash(self) -> None:
        self.world.crash_life(self.world.life)

    def restart(self) -> None:
        self.world.end_life()

    def fill_disk(self) -> None:
        self.world.disk.full = True

    def free_disk(self) -> None:
        self.world.disk.full = False

    def step_clock(self) -> None:
        self.world.clock._wall += self.rng.choice((-3600.0, -2.0, 1.0, 7200.0))

    def plague(self) -> None:
        """For some time one function cannot live."""
        functions = [f for f in self.world.functions.values() if f is not CALM]
        if functions:
            function, seconds = (
                self.rng.choice(functions),
                self.rng.choice((0.5, 5.0, 40.0)),
            )
            self._plagued[function.number] = self.world.clock.now() + seconds
            self._kill(lambda process: process.function is function)

    def plagues(self, function: Function) -> bool:
        return self._plagued.get(function.number, 0.0) > self.world.clock.now()

    def kill_workers(self) -> None:
        self._kill(lambda process: self.rng.random() < 0.5)

    def _kill(self, chosen: Callable[[VirtualProcess], bool]) -> None:
        for process in sorted(self.world.processes, key=lambda process: process.pid):
            if process.function not in (None, CALM) and chosen(process):
                process.end_soon()
