"""The users of one application whose ensemble learns for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from benchmarks.learn.graded import Answers, Floats, Ints
from clipper.learning.bloom import Bloom
from clipper.learning.events import Event, Feedback
from clipper.learning.learner import Learner
from clipper.records import PolicySettings
from clipper.selection.losses import LOG_FLOOR
from clipper.selection.policy import Arm, Ensemble

APPLICATION, GENERATION = 1, 1

NEWS_EVERY = 20  # labels; the server asks once a second


class Users:
    """They learn as the server's do, by a Learner that is told of every label.

    `pooled`: members answer with probabilities, the application's loss is "log" and the
    answer the likeliest class of the linear pool; otherwise they answer with labels, the
    loss is "zero_one" and the answer that of the vote. Answers are computed for many
    queries at once, and are those of clipper.selection.combine.
    """

    def __init__(
        self, arms: Sequence[Arm], most: int, *, pooled: bool, **options: Any
    ) -> None:
        settings = PolicySettings("hedge", options)
        self._arms = tuple(arms)
        self._pooled = pooled
        # All mutable state: what was learned, from how many labels, and from how many
        # entries: labels and what was found of users.
        self._learner = Learner(APPLICATION, GENERATION, settings, Bloom(), most)
        self._told = 0
        self._entries = 0

    def tell(self, uid: str, answers: Answers, index: int) -> None:
        """The label of one query of a user."""
        losses = self.losses(answers)[:, index].tolist()
        known = dict(zip(self._arms, losses, strict=True))
        self._told += 1
        self._apply(uid, Feedback(arms=self._arms, losses=known))
        if self._told % NEWS_EVERY == 0 and (news := self._learner.news()) is not None:
            self._apply(None, news)

    def _apply(self, uid: str | None, event: Event) -> None:
        self._entries += 1
        self._learner.apply(self._entries, uid, event)

    def error(self, uid: str, answers: Answers) -> float:
        """Of the answers to these queries, as the user's state is now."""
        policy = cast(Ensemble, self._learner.policy)
        state = self._learner.state_for(self._learner.users.get(uid))
        weights = np.array(policy.weights(state, self._arms))
        found = pool(answers, weights) if self._pooled else vote(answers, weights)
        return float((found != answers.labels).mean())

    def losses(self, answers: Answers) -> Floats:
        return log_losses(answers) if self._pooled else answers.losses


def log_losses(answers: Answers) -> Floats:
    """As the loss "log" has them: (models, queries), from 0 to 1."""
    p = answers.p[:, np.arange(len(answers.labels)), answers.labels]
    return np.asarray(np.log(np.maximum(p, LOG_FLOOR)) / np.log(LOG_FLOOR))


def pool(answers: Answers, weights: Floats) -> Ints:
    """The likeliest class of the weighted mean, by query."""
    return np.asarray(np.tensordot(weights, answers.p, 1).argmax(axis=1))


def vote(answers: Answers, weights: Floats) -> Ints:
    """The class of the most weight, by query; of equal ones that of the first member."""
    every = np.arange(len(answers.labels))
    shares = np.zeros((len(every), answers.p.shape[2]))
    for guesses, weight in zip(answers.guesses, weights, strict=True):
        shares[every, guesses] += weight
    said = shares[every, answers.guesses]
    first = (said >= said.max(axis=0) * (1 - 1e-12)).argmax(axis=0)
    return np.asarray(answers.guesses[first, every])
