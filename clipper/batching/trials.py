"""Batches that failed: what becomes of their rows, and those that are evaluated again in
batches of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from clipper.batching.alarm import Alarm
from clipper.batching.hedging import Hedging
from clipper.batching.intake import Intake
from clipper.batching.job import Job, Part, Slice
from clipper.batching.load import Flight
from clipper.batching.outcomes import CODES, DispatcherStats
from clipper.batching.recovery import recover
from clipper.batching.suspicion import OnVerdict, Suspicion, Suspicions
from clipper.values import DEADLY, BatchFailure, FailureKind, RowError


class Trial(NamedTuple):
    """What goes out as one batch."""

    parts: list[Job | Slice]
    suspicion: Suspicion | None = None


class Trials:
    """Applies the rule of recovery.py. It sends nothing."""

    # State: `waiting`, the batches that are yet to go out.

    def __init__(
        self,
        intake: Intake,
        hedging: Hedging,
        alarm: Alarm,
        stats: DispatcherStats,
        on_verdict: OnVerdict,
        *,
        retry: bool,
    ) -> None:
        self._intake = intake
        self._hedging = hedging
        self._alarm = alarm
        self._stats = stats
        self._suspicions = Suspicions(on_verdict)
        self._retry = retry
        self.waiting: deque[Trial] = deque()

    def failed(
        self, flight: Flight, failure: BatchFailure, in_flight: Iterable[Flight]
    ) -> None:
        """`in_flight` are the others."""
        kind, suspicion = failure.kind, flight.suspicion
        self._stats.failed_batches[kind] += 1
        parts = [part for part in flight.parts if isinstance(part, (Job, Slice))]
        other: Flight | None = None
        if flight.hedged:  # what another replica has as well can still succeed there
            copied = {part for part in parts if self._hedging.land(part)}
            parts = [part for part in parts if part not in copied and not part.settled]
            if copied:
                other = next((f for f in in_flight if not copied.isdisjoint(f.parts)), None)
            if kind in DEADLY and other is not None:
                for part in copied:  # if the other worker ends as well, it was alone once
                    part.attempts += 1
        recovery = recover(kind, parts, flight.rows, self._retry)
        if kind in DEADLY:
            suspicion = self._suspicions.ended(flight, recovery, other)
        for part in recovery.queued:
            self._stats.retried_rows += part.rows
            self._intake.put_back(part)
        for group in recovery.alone:
            self._try_alone(Trial(group, suspicion))
        error = RowError(CODES[kind], failure.cause)
        for part in recovery.failed:
            part.fail(error)
        if suspicion is not None and kind not in DEADLY and not recovery.alone:
            if kind is FailureKind.RETURNED:
                self._suspicions.dropped(suspicion, 1)
            else:
                self._suspicions.survived(suspicion)

    def succeeded(self, flight: Flight) -> None:
        """One that was sent for a suspicion."""
        if flight.suspicion is not None:
            self._suspicions.survived(flight.suspicion)

    def take(self, now: float) -> tuple[list[Part], Suspicion | None]:
        """What of the next trial somebody still waits for."""
        parts, suspicion = self.waiting.popleft()
        alive: list[Part] = [p for p in parts if p.wanted and p.expires > now]
        dead = [p for p in parts if not p.wanted or p.expires <= now]
        self._intake.drop(dead, now)
        self._suspicions.dropped(suspicion, len(dead))
        return alive, suspicion

    def close(self, error: RowError) -> None:
        """No replica will come: settle what waits."""
        while self.waiting:
            self._give_up(self.waiting.popleft(), error)

    def _try_alone(self, trial: Trial) -> None:
        closed = self._intake.closed
        if closed is not None:
            self._give_up(trial, closed)
            return
        self._stats.retried_rows += sum(part.rows for part in trial.parts)
        self.waiting.append(trial)
        self._alarm.ring_soon()

    def _give_up(self, trial: Trial, error: RowError) -> None:
        for part in trial.parts:
            part.fail(error)
        self._suspicions.dropped(trial.suspicion, len(trial.parts))
