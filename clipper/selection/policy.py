"""The interface of a selection policy.

A policy is stateless: what it learns lives in a small JSON-able state that is passed in
and given back. Propensities are non-negative and, for a single choice, sum to 1; the
chosen arm's is positive, and it is the one recorded at select time that `observe` uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol

from clipper.values import ModelId


class Decision(NamedTuple):
    """The arms that answer a query, each with the probability of having been chosen."""

    arms: tuple[ModelId, ...]
    propensities: tuple[float, ...]


class Subject(NamedTuple):
    """What a policy may look at: whose query it is and the features that came with it."""

    uid: str | None = None
    context: Any = None


class SelectionPolicy(Protocol):
    """Chooses which of an application's models answer a query, and learns from losses.

    `fixed` tells that `select` decides the same for everybody as long as the arms are the
    same, so that it need not be asked for each query.
    """

    fixed: bool

    def init(self, arms: Sequence[ModelId]) -> Any:
        """The state before any feedback."""
        ...

    def select(self, state: Any, subject: Subject, rng: Random) -> Decision | None:
        """The decision for one query; None when there is no arm to choose."""
        ...

    def observe(
        self, state: Any, decision: Decision, losses: Mapping[ModelId, float]
    ) -> Any:
        """The state after feedback; losses lie in [0, 1]."""
        ...
