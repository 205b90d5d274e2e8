"""Models evaluated for feedback's sake: at low priority, through the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from clipper.errors import ClipperError, ModelFailed, Overloaded, Unavailable
from clipper.inputs import Row
from clipper.selection.policy import Arm
from clipper.values import Output, RowError

if TYPE_CHECKING:
    from clipper.application import Application
    from clipper.model import Model

# A query's deadline is its objective; this one lies so far behind that all queries go
# first.
SECONDS = 10.0

# Told what the arms answered, and why one of the others did not.
EvaluationDone = Callable[[dict[Arm, bytes | str], RowError | None], None]


class Evaluation:
    """One row asked of some arms. Tells once what they answered, of those that did."""

    def __init__(
        self,
        application: Application,
        row: Row,
        models: Mapping[Arm, Model],
        now: float,
        done: EvaluationDone,
    ) -> None:
        self.source = application
        # All mutable state: what is in, the last failure, and how many are out.
        self._outputs: dict[Arm, bytes | str] = {}
        self._failure: RowError | None = None
        self._left = len(models) + 1
        self._done = done
        for arm, model in models.items():
            seat = _Seat(self, arm)
            application.ask(model, row, now + SECONDS, seat, background=True)
        self.in_(None, None)

    def in_(self, arm: Arm | None, output: Output | None) -> None:
        self._left -= 1
        if isinstance(output, RowError):
            self._failure = output
        elif arm is not None and output is not None:
            self._outputs[arm] = output
        if not self._left:
            self._done(self._outputs, self._failure)


def not_evaluated(failure: RowError | None) -> ClipperError:
    """What is told where no arm answered; `failure` is why one of them did not."""
    if failure is None or failure.code in ("no_model", "unavailable"):
        return Unavailable("no model can evaluate the input of the feedback at present")
    if failure.code in ("overloaded", "deadline_exceeded"):
        return Overloaded("the models have no time to evaluate the input of the feedback")
    return ModelFailed(
        f"no model could evaluate the input of the feedback: {failure.cause}"
    )


class _Seat:
    """Waits for one arm's job."""

    __slots__ = ("_arm", "_evaluation")

    def __init__(self, evaluation: Evaluation, arm: Arm) -> None:
        self._evaluation = evaluation
        self._arm = arm

    @property
    def source(self) -> object:
        return self._evaluation.source

    def job_done(self, output: Output) -> None:
        self._evaluation.in_(self._arm, output)
