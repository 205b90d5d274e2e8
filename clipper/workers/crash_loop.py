"""Which deaths of workers speak against a model version, and what follows from them.

    a worker ended                                       counts
    before it was ready                                  yes
    of itself while idle, or broke the protocol          yes
    under rows of which none ends a worker alone         yes
    under poison: a row that ends a worker alone too     no, neither death, at the cost of
                                                         one credit; yes where there is none
    under rows that could not all be tried alone         unless it had served well
    killed from outside once it was ready                no
    because it was told to                               no

Poison is the fault of a query: else two bad queries would take a model from everybody. But
a version whose every row ends a worker looks the same row by row. What tells them apart is
that somebody else is answered: each batch that is earns a credit, of which few are kept.

Several deaths that count in a short time are a crash loop; the time that workers took to
start is left out, else a version that is slow to load would never be given up. Then
nothing is started but one worker from time to time, to see whether it has healed, and the
others follow that one only after a while. Until a trial is over a single death is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from clipper.values import Verdict


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a worker that ended is followed by another; seconds, but for the counts."""

    first_pause: float = 0.1
    last_pause: float = 10.0
    deaths: int = 3  # so many that count
    window: float = 60.0  # within so long are a crash loop
    retry: float = 30.0  # between tries while the version has failed
    proven: int = 10  # batches: a worker that answered so many has served well
    credit: int = 3  # poison rows in a row that are forgiven

    def pause(self, failures: int, chance: float) -> float:
        """Before the start after so many ends in a row: none after the first, then twice
        as long each time. `chance`, from 0 to 1, keeps workers from starting together."""
        if failures < 2:
            return 0.0
        longest = self.first_pause * 2.0 ** min(failures - 2, 30)
        return min(longest, self.last_pause) * (0.5 + 0.5 * chance)


class End(Enum):
    """How a worker ended that was not told to."""

    START = "start"  # it never became ready
    OWN = "own"  # it exited, crashed, hung or broke the protocol
    OUTSIDE = "outside"  # somebody killed it, or the system did for want of memory


@dataclass(frozen=True, slots=True)
class Death:
    at: float  # seconds on the clock
    end: End
    batches: int = 0  # it had answered
    lived: float = 0.0  # seconds since it was to start
    starting: float = 0.0  # of these, until it was ready or ended

    def is_single(self, rule: Restarts) -> bool:
        """Whether it is the first in a row, that the next start need not wait."""
        served = self.end is End.OUTSIDE and self.batches >= rule.proven
        return served or self.lived > rule.last_pause


class CrashLoop:
    """Counts deaths and says when workers may start. Workers are whatever names them."""

    # State: `tripped`, a crash loop was seen and none has been ready since, so that nothing
    # starts before `_next_try`; until `_on_trial` one death trips it again; before
    # `_follow_at` no second worker follows the first one back. `_counted` are the
    # deaths that did. `_verdicts` are on workers whose death was not told yet, None to
    # forgive it; `_open`, deaths whose verdict was not. `_credit` was earned until
    # `_answered` batches.

    def __init__(self, rule: Restarts, credit: int = 0) -> None:
        self._rule = rule
        self.tripped = False
        self._next_try = self._on_trial = self._follow_at = float("-inf")
        self._counted: deque[Death] = deque(maxlen=max(1, rule.deaths))
        self._verdicts: dict[object, Verdict | None] = {}
        self._open: dict[object, Death] = {}
        self._credit = min(credit, rule.credit)
        self._answered = 0

    def died(self, worker: object, death: Death) -> bool:
        """A worker ended without being told to. Returns whether the next one need not wait
        for that: a row is to blame, or may be, and else each row that ends a worker would
        keep all others waiting longer than the one before."""
        if worker not in self._verdicts:
            self._judge(death, Verdict.OWN, death.at)
            return False
        verdict = self._verdicts.pop(worker)
        if verdict is Verdict.OPEN:
            self._open[worker] = death
            return True
        if verdict is not None:
            self._judge(death, verdict, death.at)
        return verdict is None

    def judge(
        self, workers: Iterable[object], verdict: Verdict, now: float, answered: int
    ) -> None:
        """Of every worker that had a batch, OPEN is told when it ends and another verdict
        then or later; of poison for all workers that it ended. `answered` counts the
        batches of the version so far."""
        final = None if verdict is Verdict.POISON and self._forgive(answered) else verdict
        for worker in workers:
            death = self._open.pop(worker, None)
            if death is not None:
                if final is not None:
                    self._judge(death, final, now)
            elif verdict is Verdict.OPEN or worker in self._verdicts:
                self._verdicts[worker] = final

    def forget(self, worker: object) -> None:
        """It was told to end."""
        self._verdicts.pop(worker, None)
        self._open.pop(worker, None)

    def _forgive(self, answered: int) -> bool:
        earned = self._credit + answered - self._answered
        self._answered = answered
        self._credit = min(earned, self._rule.credit)
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _judge(self, death: Death, verdict: Verdict, now: float) -> None:
        if verdict is not Verdict.POISON:
            if death.end is End.OUTSIDE:
                return
            if verdict is Verdict.UNKNOWN and death.batches >= self._rule.proven:
                return
        self._counted.append(death)
        if self._recent(now) >= self._rule.deaths or now < self._on_trial:
            self.tripped = True
            self._next_try = now + self._rule.retry
            self._on_trial = self._next_try + self._rule.window

    def _recent(self, now: float) -> int:
        """How many of the deaths that counted were within the window."""
        count, window = 0, self._rule.window
        for death in reversed(self._counted):
            count += now - death.at <= window
            window += death.starting
        return count

    # -- starting ----------------------------------------------------------------------

    def one_by_one(self, now: float) -> bool:
        """Whether a start has to wait for others, and then for `wait` seconds."""
        return self.tripped or now < self._follow_at

    def wait(self, now: float) -> float:
        return max(0.0, (self._next_try if self.tripped else self._follow_at) - now)

    def came_up(self, now: float) -> None:
        """One that was tried is ready."""
        if self.tripped:
            self.tripped = False
            self._follow_at = now + self._rule.last_pause

    def reset(self) -> None:
        """Somebody has seen to it that workers are ready: a deploy or a larger scale."""
        self.tripped = False
