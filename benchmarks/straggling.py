"""Members of an ensemble that straggle, and the compared ways to deal with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import clipper.application
from clipper.panel import Panel

if TYPE_CHECKING:
    from clipper.application import Application
    from clipper.choosing import Choice
    from clipper.selection.combine import Combiner

SLO = 0.020
PAPER_AHEAD = 0.003  # by which the paper's prototype answers before its objective

# A member's delay is Pareto: at least LEAST seconds, exceeded x-fold with x ** -SHAPE; one
# in 29 takes more than the objective, one in 550 more than 100 ms.
LEAST, SHAPE, MOST = 0.003, 1.8, 0.250

CLASSES = 10
HARD = 0.1  # of the queries: there a member is seldom right
RIGHT, RIGHT_IF_HARD = 0.85, 0.30


def truth_of(number: int) -> int:
    return number * 7919 % CLASSES


def make_member(member: int) -> Callable[[Any], Any]:
    """Classifies rows of one number, the query's, which says all: its class, what this
    member answers and how long that takes. Rows of a batch are done at once."""
    seconds_of, answer_of = _make_seconds(member), _make_answer(member)

    def predict(rows: Any) -> Any:
        import time

        numbers = [int(row[0]) for row in rows]
        time.sleep(max(map(seconds_of, numbers)))
        return [answer_of(number) for number in numbers]

    return predict


def _make_seconds(member: int) -> Callable[[int], float]:
    least, shape, most = LEAST, SHAPE, MOST

    def seconds_of(number: int) -> float:
        from random import Random

        u: float = 1.0 - Random(number * 1009 + member).random()
        return float(min(most, least * u ** (-1.0 / shape)))

    return seconds_of


def _make_answer(member: int) -> Callable[[int], int]:
    classes, hard, right, right_if_hard = CLASSES, HARD, RIGHT, RIGHT_IF_HARD

    def answer_of(number: int) -> int:
        from random import Random

        truth = number * 7919 % classes
        is_hard = Random(number * 1013 + 999).random() < hard
        own = Random(number * 1013 + member)
        if own.random() < (right_if_hard if is_hard else right):
            return truth
        return (truth + own.randrange(1, classes)) % classes

    return answer_of


# -- lanes -----------------------------------------------------------------------------


class PatientPanel(Panel):
    """Answers when all members are in, and not before."""

    __slots__ = ()

    def _check(self) -> None:
        if not self._left:
            super()._check()


class PunctualPanel(Panel):
    """Answers at the deadline, whatever has come, as the paper's prototype does."""

    __slots__ = ()

    def _check(self) -> None:
        pass


@dataclass(frozen=True)
class Lane:
    name: str
    panel: type[Panel]
    seconds: float  # to the deadline

    def application(self, members: int) -> str:
        return f"{self.name.replace(' ', '-')}.{members}"


CLIPPER = Lane("clipper", Panel, SLO)
WAITS = Lane("waits for all", PatientPanel, 30.0)
PAPER = Lane("prototype", PunctualPanel, SLO - PAPER_AHEAD)
LANES = (CLIPPER, WAITS, PAPER)


def use_panels() -> None:
    """Give each application the panels of the lane it is called after."""
    panels = {lane.application(0).partition(".")[0]: lane.panel for lane in LANES}

    def convene(application: Application, choice: Choice, combiner: Combiner) -> Panel:
        kind = panels.get(application.name.partition(".")[0], Panel)
        return kind(application, choice, combiner)

    clipper.application.Panel = convene  # type: ignore[assignment,attr-defined]
