"""A policy at work on a stream, by its public interface alone, as in the server.

What it chooses from and what it is told are those of clipper.learning: the propensity is
the one that was drawn with, as a query id keeps it, and a single choice is told the loss
of the arm it chose and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from benchmarks.learn.graded import ARMS, Answers, Floats
from clipper.records import PolicySettings
from clipper.selection.combine import make_combiner
from clipper.selection.draw import Odds, as_logged
from clipper.selection.losses import make_loss
from clipper.selection.policy import Ensemble, Observation, SingleChoice
from clipper.selection.registry import make_policy


class Chooser(Protocol):
    """Chooses an arm, and is told its loss before the next choice."""

    def choose(self, context: Sequence[float] | None, u: float) -> int: ...

    def learn(self, arm: int, loss: float) -> None: ...


class PolicyChooser:
    """One of Clipper's policies of a single choice, by its name in the configuration."""

    def __init__(self, name: str, arms: int, **options: Any) -> None:
        policy = make_policy(PolicySettings(name, options))
        self._policy = cast(SingleChoice, policy)
        self._arms = tuple(f"arm{number}:1#1" for number in range(arms))
        # All mutable state: what was learned, and of the last choice the context and the
        # propensity.
        self._state = policy.init()
        self._context: Any = None
        self._propensity = 1.0

    def choose(self, context: Sequence[float] | None, u: float) -> int:
        self._context = self._policy.features(context)
        odds = Odds(self._policy.probabilities(self._state, self._arms, self._context))
        arm = odds.draw(u)
        self._propensity = as_logged(odds.probabilities[arm])
        return arm

    def learn(self, arm: int, loss: float) -> None:
        chosen = self._arms[arm]
        seen = Observation(
            self._arms, {chosen: loss}, (chosen,), self._propensity, loss, self._context
        )
        self._state = self._policy.observe(self._state, seen)


def play(
    chooser: Chooser, losses: Floats, contexts: Floats | None, draws: Floats
) -> Floats:
    """The losses of what was chosen. `losses` has the shape (queries, arms), `contexts`
    (queries, features), `draws`, the chance of each choice, (queries,)."""
    rows = [None] * len(losses) if contexts is None else contexts.tolist()
    found = []
    for loss, context, u in zip(losses.tolist(), rows, draws.tolist(), strict=True):
        arm = chooser.choose(context, u)
        chooser.learn(arm, loss[arm])
        found.append(loss[arm])
    return np.array(found)


def play_ensemble(name: str, stream: Answers, **options: Any) -> tuple[Floats, Floats]:
    """The losses of an ensemble's answers and their confidences, (queries,) each. It
    votes on labels, or, if it needs the outputs, pools distributions."""
    policy = cast(Ensemble, make_policy(PolicySettings(name, options)))
    pools = policy.needs_outputs
    combiner = make_combiner(policy, make_loss("log" if pools else "zero_one"))
    state, rng = policy.init(), Random(0)
    known = stream.losses.T.tolist()
    texts = _texts(stream, pools)
    outputs = stream.p.transpose(1, 0, 2).tolist() if pools else stream.guesses.T.tolist()
    errors, confidences = [], []
    for label, losses, text, output in zip(
        stream.labels.tolist(), known, texts, outputs, strict=True
    ):
        answer = combiner.combine(text, policy.weights(state, ARMS), rng)
        said = msgspec.json.decode(answer.output)
        error = float((int(np.argmax(said)) if pools else said) != label)
        seen = Observation(
            ARMS,
            dict(zip(ARMS, losses, strict=True)),
            tuple([ARMS[index] for index in answer.agreeing]),
            as_logged(answer.propensity),
            error,
            outputs=dict(zip(ARMS, output, strict=True)) if pools else None,
            label=label,
        )
        state = policy.observe(state, seen)
        errors.append(error)
        confidences.append(answer.confidence)
    return np.array(errors), np.array(confidences)


def _texts(stream: Answers, pools: bool) -> list[Sequence[bytes]]:
    """The members' outputs as JSON, by query."""
    if pools:
        return list(zip(*stream.texts, strict=True))
    digits = [str(number).encode() for number in range(stream.p.shape[2])]
    return [[digits[guess] for guess in row] for row in stream.guesses.T.tolist()]
