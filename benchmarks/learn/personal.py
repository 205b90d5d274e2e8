"""The Clipper paper's figure 10: how soon a new user gets the models that suit them.

The default ensemble, with a state for each user, learns as the server's does
(clipper.learning.learner): the population's state comes from users who were there
before. New users give feedback eight times; after each, the errors on other images of
theirs are counted by the weights they then have.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np

from benchmarks.learn.dialects import (
    ARMS,
    MARKED_RIGHT,
    Models,
    Written,
    fit_models,
    seeded,
    write,
)
from benchmarks.learn.estimate import Goal, mean_of, ratio_of
from benchmarks.learn.seeds import for_seeds
from benchmarks.learn.settings import Settings
from benchmarks.plot import line_plot
from benchmarks.report import table
from clipper.learning.bloom import Bloom
from clipper.learning.events import Feedback
from clipper.learning.learner import Learner
from clipper.records import PolicySettings
from clipper.selection.combine import make_combiner
from clipper.selection.losses import make_loss
from clipper.selection.policy import Ensemble, State

TITLE = "New users with a way of writing of their own (figure 10)"

EARLIER, EARLIER_FEEDBACKS = 200, 20  # users who made the population's state
NEW, FEEDBACKS, ASKED = 168, 8, 60  # as many users as in the paper; images to judge by
QUICK = (16, 6, 16, 20)  # earlier users, their feedbacks, new users, images
QUICK_FITTED = 300

POLICIES: dict[str, dict[str, Any]] = {
    "hedge": {},
    "hedge, no prior": {"prior": 0.0},
}
TEXTS = [str(digit).encode() for digit in range(10)]

# Crankshaw et al., figure 10: speakers of TIMIT, after 0 to 8 feedbacks.
PAPER = {
    "no dialect": 0.362,
    "static dialect": 0.321,
    "policy": (0.362, 0.312, 0.312, 0.309, 0.304, 0.305, 0.306, 0.302, 0.300),
}


class Users:
    """The users of one application, learning by one policy."""

    def __init__(self, options: dict[str, Any], most: int) -> None:
        settings = PolicySettings("hedge", options)
        self.learner = Learner(1, 1, settings, Bloom(), most)  # all mutable state, and
        self._seq = 0  # how many feedbacks there were
        self._policy = cast(Ensemble, self.learner.policy)
        self._loss = make_loss("zero_one")
        self._combiner = make_combiner(self._policy, self._loss)
        self._rng = Random(0)

    def tell(self, user: Written, index: int) -> None:
        """The label of an image, as the server would log it."""
        output, agreeing = self._answer(self.state_of(user), user, index)
        label = int(user.labels[index])
        feedback = Feedback(
            arms=ARMS,
            losses=dict(zip(ARMS, user.losses[:, index].tolist(), strict=True)),
            chosen=tuple([ARMS[at] for at in agreeing]),
            loss=self._loss(label, int(output)),
            label=label,
        )
        self._seq += 1
        self.learner.apply(self._seq, user.uid, feedback)

    def error(self, user: Written, first: int) -> float:
        """Of the answers to the images from `first` on, as the user's state is now."""
        state = self.state_of(user)
        labels = user.labels.tolist()
        wrong = [
            int(self._answer(state, user, index)[0]) != labels[index]
            for index in range(first, len(labels))
        ]
        return sum(wrong) / len(wrong)

    def state_of(self, user: Written) -> State:
        return self.learner.state_for(self.learner.users.get(user.uid))

    def _answer(
        self, state: State, user: Written, index: int
    ) -> tuple[bytes, tuple[int, ...]]:
        texts = [TEXTS[guess] for guess in user.guesses[:, index].tolist()]
        weights = self._policy.weights(state, ARMS)
        found = self._combiner.combine(texts, weights, self._rng)
        return found.output, found.agreeing


# -- measuring -------------------------------------------------------------------------


def measure(settings: Settings) -> dict[str, Any]:
    sizes = QUICK if settings.quick else (EARLIER, EARLIER_FEEDBACKS, NEW, ASKED)
    models = fit_models(QUICK_FITTED) if settings.quick else fit_models()
    found = for_seeds(run, settings.seeds, settings.processes, models, sizes)
    lanes = {key: [one[key] for one in found] for key in found[0]}
    return {"sizes": list(sizes), "marked_right": MARKED_RIGHT, "lanes": lanes}


def run(models: Models, sizes: tuple[int, int, int, int], seed: int) -> dict[str, Any]:
    """Errors of new users: of a lane that does not learn one number, of the others one
    for each number of feedbacks."""
    earlier, given, new, asked = sizes
    rng = seeded(seed)
    before = [write(models, rng, f"earlier{n}", given) for n in range(earlier)]
    users = [write(models, rng, f"new{n}", FEEDBACKS + asked) for n in range(new)]
    judged = [user.losses[:, FEEDBACKS:].mean(axis=1) for user in users]
    found: dict[str, Any] = {
        "general": float(np.mean([errors[0] for errors in judged])),
        "static group": float(
            np.mean([e[1 + user.group] for e, user in zip(judged, users, strict=True)])
        ),
        "best single model": float(np.mean([errors.min() for errors in judged])),
    }
    for name, options in POLICIES.items():
        found[name] = learn(Users(options, earlier + new), before, users)
    return found


def learn(users: Users, before: list[Written], new: list[Written]) -> list[float]:
    """The mean error of the new users after 0, 1 .. FEEDBACKS feedbacks each."""
    for index in range(before[0].labels.size):
        for user in before:
            users.tell(user, index)
    errors = [np.mean([users.error(user, FEEDBACKS) for user in new]).item()]
    for index in range(FEEDBACKS):
        for user in new:
            users.tell(user, index)
        errors.append(np.mean([users.error(user, FEEDBACKS) for user in new]).item())
    return errors


# -- showing ---------------------------------------------------------------------------


def after(found: dict[str, Any], lane: str, feedbacks: int) -> list[float]:
    return [errors[feedbacks] for errors in found["lanes"][lane]]


def goals(found: dict[str, Any]) -> list[Goal]:
    general, group = found["lanes"]["general"], found["lanes"]["static group"]
    made = []
    for text, sign, target, feedbacks, other in (
        ("hedge, no feedback yet: error of the general model's", "<", 1.0, 0, general),
        ("hedge, 1 feedback: error of the group model's", "<", 1.0, 1, group),
        ("hedge, 8 feedbacks: error of the general model's", "<=", 0.75, 8, general),
    ):
        ratio = ratio_of(after(found, "hedge", feedbacks), other)
        made.append(Goal(text, sign, target, ratio.value, ratio.text("{:.3f}")))
    return made


def report(found: dict[str, Any]) -> str:
    earlier, given, new, asked = found["sizes"]
    text = (
        f"{new} new users, judged by {asked} images each; {earlier} before them, {given} "
        f"feedbacks each. {found['marked_right']:.0%} of users are of the group that "
        "they are said to be of."
    )
    lines = [
        [name, mean_of(values).text()]
        for name, values in found["lanes"].items()
        if name not in POLICIES
    ]
    fixed = table(["model", "error"], lines, left={0})
    heads = ["feedbacks", *POLICIES, "paper, TIMIT"]
    lines = [
        [
            str(count),
            *(mean_of(after(found, name, count)).text() for name in POLICIES),
            f"{PAPER['policy'][count]:.3f}",  # type: ignore[index]
        ]
        for count in range(FEEDBACKS + 1)
    ]
    told = (
        f"In the paper the general model's error was {PAPER['no dialect']}, the group "
        f"model's {PAPER['static dialect']}."
    )
    return f"{text}\n\n{fixed}\n\n{table(heads, lines)}\n\n{told}"


def draw(found: dict[str, Any], directory: Path) -> None:
    xs = list(range(FEEDBACKS + 1))
    lines = {}
    for name, values in found["lanes"].items():
        mean = np.mean(values, axis=0)
        ys = mean.tolist() if name in POLICIES else [float(mean)] * len(xs)
        lines[name] = (xs, ys)
    line_plot(
        directory / "personal.svg",
        "New users with a way of writing of their own",
        "feedbacks of a user",
        "error",
        lines,
    )
