"""Targets: what was measured beside what it should be."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from operator import ge, le, lt
from typing import Self

from benchmarks.results import Series
from benchmarks.tables import spread, table

SIGNS = {"<=": le, "<": lt, ">=": ge}


@dataclass(frozen=True)
class Goal:
    """`text`: what is compared. `value` must stand to `target` as `sign`, one of SIGNS,
    says; it is None where it was not measured. `beside`: its spread, or its interval."""

    text: str
    sign: str
    target: float
    value: float | None
    beside: str = ""
    form: str = "{:.3f}"

    @classmethod
    def of_rounds(
        cls, text: str, sign: str, target: float, values: Series, form: str = "{:.3f}"
    ) -> Self:
        """The median of the rounds decides."""
        value = statistics.median(values) if values else None
        return cls(text, sign, target, value, spread(values, form), form)

    @classmethod
    def of_worst(
        cls, text: str, sign: str, target: float, values: Series, form: str = "{:.3f}"
    ) -> Self:
        """The worst of what was measured at several places decides."""
        worst = min if sign == ">=" else max
        value = worst(values) if values else None
        return cls(text, sign, target, value, spread(values, form), form)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "met" if SIGNS[self.sign](self.value, self.target) else "MISSED"

    @property
    def line(self) -> list[str]:
        target = f"{self.sign} {self.form.format(self.target)}"
        value = "-" if self.value is None else self.form.format(self.value)
        return [self.text, target, value, self.beside, self.verdict]


def goal_table(
    goals: Iterable[Goal], value: str = "measured", beside: str = "of all rounds"
) -> str:
    """`value` and `beside` head the columns of a goal's value and what stands beside it."""
    heads = ["criterion", "target", value, beside, ""]
    return table(heads, [goal.line for goal in goals], left={0, 4})
