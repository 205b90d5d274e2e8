"""The members of an ensemble at work on one row.

A panel is settled once: when all members are in, when those that are out can no longer
change the answer, or at the deadline, whichever comes first. What a member says later
changes no answer; it is kept for feedback, and the cache has it anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Protocol

from clipper.batching.job import Job
from clipper.choosing import Choice
from clipper.query import NO_MODEL
from clipper.selection.combine import Combiner
from clipper.selection.policy import Arm, model_of
from clipper.values import Output, RowError

if TYPE_CHECKING:
    from clipper.application import Application
    from clipper.inputs import Row


# Members that were given up because they could not have been in time.
_LATE = frozenset({"overloaded", "deadline_exceeded"})


class PanelWaiter(Protocol):
    def job_done(self, output: Output) -> None: ...


class Panel:
    """One row asked of all members. `texts` are their outputs as JSON text, None where
    there is none; `failures` say why, where that is known."""

    __slots__ = (
        "_combiner", "_left", "_waiter", "agreeing", "answer", "application", "choice",
        "confidence", "failures", "jobs", "missing", "propensity", "settled", "texts",
    )  # fmt: skip

    def __init__(
        self, application: Application, choice: Choice, combiner: Combiner
    ) -> None:
        members = len(choice.arms)
        self.application = application
        self.choice = choice
        self.texts: list[bytes | None] = [None] * members
        self.failures: list[RowError | None] = [None] * members
        self.jobs: list[tuple[Job, Member]] = []
        self.settled = False
        self.answer: bytes | None = None
        self.agreeing: tuple[int, ...] = ()  # members whose output it is, or comes closest
        self.propensity = 1.0
        self.confidence = 0.0
        self.missing: list[str] = []  # members that came too late, for people
        self._combiner = combiner
        self._left = members
        self._waiter: PanelWaiter | None = None

    def begin(self, waiter: PanelWaiter, row: Row, deadline: float, cache: bool) -> None:
        """Ask all members; the waiter is told as soon as there is an answer, perhaps
        before this returns."""
        for index, model in enumerate(self.choice.models):
            member = Member(self, index)
            job = self.application.ask(model, row, deadline, member, cache)
            if job is not None:
                self.jobs.append((job, member))
        self._waiter = waiter
        self._check()

    def member_done(self, index: int, output: Output) -> None:
        """Member `index` is in, in time or late."""
        self._left -= 1
        if isinstance(output, RowError):
            self.failures[index] = output
        else:
            self.texts[index] = self.application.rendering.text(output)
        if not self.settled and self._waiter is not None:
            self._check()

    def conclude(self, error: RowError, rng: Random) -> Output:
        """The answer as of now: of the members that are in, or `error` if none is."""
        self.settled = True
        self._waiter = None
        self.jobs.clear()  # they hold the inputs, and a panel may be kept for long
        if any(self.failures):
            self._miss(lambda text, failure: failure is not None and failure.code in _LATE)
        if not any(text is not None for text in self.texts):
            failures = [failure for failure in self.failures if failure is not None]
            return failures[0] if failures and not self._left else error
        found = self._combiner.combine(self.texts, self.choice.odds, rng)
        self.agreeing, self.propensity = found.agreeing, found.propensity
        self.confidence = found.confidence
        self.answer = found.output
        return found.output

    def expire(self, error: RowError, rng: Random) -> Output:
        """The deadline passed: who is not in now came too late."""
        self._miss(lambda text, failure: text is None and failure is None)
        return self.conclude(error, rng)

    def _miss(self, late: Callable[[bytes | None, RowError | None], bool]) -> None:
        """Name and count members that came too late."""
        members = zip(self.choice.arms, self.texts, self.failures, strict=True)
        names = [str(model_of(a)) for a, text, failure in members if late(text, failure)]
        self.missing += names
        self.application.stats.missing.update(names)

    def leave(self) -> None:
        """Nobody waits any more, nor ever will: the client is gone."""
        self.settled = True
        self._waiter = None
        for job, member in self.jobs:
            job.leave(member)
        self.jobs.clear()

    def outputs(self) -> dict[Arm, bytes]:
        """What is known of the members' outputs by now."""
        return {
            arm: text
            for arm, text in zip(self.choice.arms, self.texts, strict=True)
            if text is not None
        }

    def _check(self) -> None:
        if self._left and not self._combiner.decided(self.texts, self._weights()):
            return
        waiter = self._waiter
        assert waiter is not None
        waiter.job_done(self.conclude(NO_MODEL, self.application.rng))

    def _weights(self) -> list[float]:
        """The members' weights; one that failed will change nothing any more."""
        if not any(self.failures):
            return self.choice.odds
        return [
            0.0 if failure is not None else weight
            for weight, failure in zip(self.choice.odds, self.failures, strict=True)
        ]


class Member:
    """One member's seat: waits for its job."""

    __slots__ = ("index", "panel")

    def __init__(self, panel: Panel, index: int) -> None:
        self.panel = panel
        self.index = index

    @property
    def source(self) -> object:
        return self.panel.application

    def job_done(self, output: Output) -> None:
        self.panel.member_done(self.index, output)
