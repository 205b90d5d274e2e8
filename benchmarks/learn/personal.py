"""The Clipper paper's figure 10: how soon a new user gets the models that suit them.

The default ensemble, with a state for each user, learns as the server's does: the
population's state comes from users who were there before, and so does the prior of new
ones: whether users differ, and how many of them each model suits. New users give feedback,
from which the prior goes on being learned; every now and then the errors on other images of
theirs are counted, by the weights they then have. Lanes without a prior go by a user's own
labels alone.

A label says how probable each model held it, or, where models answer with labels, only
which of them were right: one bit of each.

One feedback is the label of one image. The paper's was on a whole utterance, of some
dozens of phonemes; so the same is also told of lines of ten digits.

Whoever has something to win by a state of their own may have something to lose: the
control is of users who are all alike, who should be found to be so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import Goal
from benchmarks.learn import dialects, graded
from benchmarks.learn.dialects import MARKED_RIGHT, Models, Written, fit_models, write
from benchmarks.learn.estimate import mean_of, ratio_of
from benchmarks.learn.graded import Answers
from benchmarks.learn.seeds import for_seeds
from benchmarks.learn.settings import Settings
from benchmarks.learn.users import Users
from benchmarks.plot import line_plot
from benchmarks.tables import table

TITLE = "New users with a way of writing of their own (figure 10)"

EARLIER, EARLIER_FEEDBACKS = 200, 20  # users who made the population's state
NEW, ASKED = 168, 60  # as many users as in the paper; images to judge by
QUICK = (16, 6, 16, 20)  # earlier users, their feedbacks, new users, images
QUICK_FITTED = 300

LINE = 10  # digits
COUNTS = (*range(9), LINE, 2 * LINE, 4 * LINE, 8 * LINE)  # feedbacks of a user
TOLD = COUNTS[-1]

POOLED, VOTED = "hedge, probabilities", "hedge, labels"
LANES: dict[str, dict[str, Any]] = {
    POOLED: {"pooled": True},
    VOTED: {"pooled": False},
    "probabilities, no prior": {"pooled": True, "prior": 0.0},
    "labels, no prior": {"pooled": False, "prior": 0.0},
}
GENERAL, GROUP, BEST = "general", "static group", "best single model"

# Crankshaw et al., figure 10: speakers of TIMIT, after 0 to 8 utterances.
PAPER_GENERAL, PAPER_GROUP = 0.362, 0.321
PAPER = (0.362, 0.312, 0.312, 0.309, 0.304, 0.305, 0.306, 0.302, 0.300)


# -- measuring -------------------------------------------------------------------------


def measure(settings: Settings) -> dict[str, Any]:
    sizes = QUICK if settings.quick else (EARLIER, EARLIER_FEEDBACKS, NEW, ASKED)
    models = fit_models(QUICK_FITTED) if settings.quick else fit_models()
    alike = graded.fit_models(*graded.load_digits())
    found = for_seeds(run, settings.seeds, settings.processes, models, alike, sizes)
    parts = {
        part: {lane: [one[part][lane] for one in found] for lane in found[0][part]}
        for part in found[0]
    }
    return {"sizes": list(sizes), "marked_right": MARKED_RIGHT, **parts}


def run(
    models: Models, alike: Answers, sizes: tuple[int, int, int, int], seed: int
) -> dict[str, dict[str, Any]]:
    """Errors of new users: of a lane that does not learn one number, of the others one
    for each of COUNTS. And those of users who are all alike."""
    earlier, given, new, asked = sizes
    rng = dialects.seeded(seed)
    before = [write(models, rng, f"earlier{n}", given) for n in range(earlier)]
    users = [write(models, rng, f"new{n}", TOLD + asked) for n in range(new)]
    judged = [user.answers.losses[:, TOLD:].mean(axis=1) for user in users]
    groups = [user.group for user in users]
    mixed: dict[str, Any] = {
        GENERAL: mean([errors[0] for errors in judged]),
        GROUP: mean([e[1 + group] for e, group in zip(judged, groups, strict=True)]),
        BEST: mean([errors.min() for errors in judged]),
    }
    same = [draw_user(alike, rng, f"earlier{n}", given) for n in range(earlier)]
    others = [draw_user(alike, rng, f"new{n}", TOLD + asked) for n in range(new)]
    like: dict[str, Any] = {}
    for name, options in LANES.items():
        most = earlier + new
        mixed[name] = learn(Users(dialects.ARMS, most, **options), before, users)
        if name in (POOLED, VOTED):
            like[name] = learn(Users(graded.ARMS, most, **options), same, others)
    return {"lanes": mixed, "alike": like}


def draw_user(alike: Answers, rng: np.random.Generator, uid: str, images: int) -> Written:
    """A user who asks about the same images as everybody else."""
    return Written(uid, 0, alike.take(rng.integers(0, len(alike.labels), images)))


def learn(users: Users, before: list[Written], new: list[Written]) -> list[float]:
    """The mean error of the new users after each of COUNTS."""
    for index in range(len(before[0].answers.labels)):
        for user in before:
            users.tell(user.uid, user.answers, index)
    rest = [user.answers.take(np.arange(TOLD, len(user.answers.labels))) for user in new]
    errors = []
    for count in range(TOLD + 1):
        if count in COUNTS:
            judged = zip(new, rest, strict=True)
            errors.append(mean([users.error(user.uid, own) for user, own in judged]))
        if count < TOLD:
            for user in new:
                users.tell(user.uid, user.answers, count)
    return errors


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


# -- showing ---------------------------------------------------------------------------


def after(found: dict[str, Any], lane: str, feedbacks: int) -> list[float]:
    at = COUNTS.index(feedbacks)
    return [errors[at] for errors in found["lanes"][lane]]


def goals(found: dict[str, Any]) -> list[Goal]:
    general, group = found["lanes"][GENERAL], found["lanes"][GROUP]
    made = []
    for lane in (POOLED, VOTED):
        for text, sign, target, feedbacks, other in (
            ("0 feedbacks, of the general model's", "<", 1.0, 0, general),
            ("1 feedback, of the group model's", "<", 1.0, 1, group),
            ("8 feedbacks, of the general model's", "<=", 0.75, 8, general),
            ("1 line of ten, of the group model's", "<", 1.0, LINE, group),
            ("8 lines of ten, of the general model's", "<=", 0.75, 8 * LINE, general),
        ):
            ratio = ratio_of(after(found, lane, feedbacks), other)
            shown = ratio.text("{:.3f}")
            made.append(Goal(f"{lane}: {text}", sign, target, ratio.value, shown))
    return made


def report(found: dict[str, Any]) -> str:
    earlier, given, new, asked = found["sizes"]
    lanes = found["lanes"]
    group = ratio_of(lanes[GROUP], lanes[GENERAL])
    text = (
        f"{new} new users, judged by {asked} images each; {earlier} before them, {given} "
        f"feedbacks each. {found['marked_right']:.0%} of users are of the group that "
        f"they are said to be of; the group model's error is {group.text('{:.3f}')} of the "
        f"general one's (in the paper {PAPER_GROUP / PAPER_GENERAL:.3f})."
    )
    lines = [
        [name, mean_of(values).text()]
        for name, values in lanes.items()
        if name not in LANES
    ]
    parts = [text, table(["model", "error"], lines, left={0}), curve_table(lanes)]
    parts.append(f"Users who are all alike\n\n{curve_table(found['alike'])}")
    told = ", ".join(f"{error:.3f}" for error in PAPER)
    parts.append(
        f"The paper, on TIMIT: general {PAPER_GENERAL}, group {PAPER_GROUP}, its policy "
        f"after 0 to 8 utterances {told}."
    )
    return "\n\n".join(parts)


def curve_table(lanes: dict[str, Any]) -> str:
    names = [name for name in LANES if name in lanes]
    lines = []
    for at, feedbacks in enumerate(COUNTS):
        errors = [mean_of([one[at] for one in lanes[name]]).text() for name in names]
        lines.append([str(feedbacks), *errors])
    return table(["feedbacks", *names], lines)


def draw(found: dict[str, Any], directory: Path) -> None:
    title = "New users with a way of writing of their own"
    for file, counts in (("personal.svg", COUNTS[:9]), ("personal-lines.svg", COUNTS)):
        lines = {}
        for name, values in found["lanes"].items():
            level = np.mean(values, axis=0)
            ys = level.tolist() if name in LANES else [float(level)] * len(COUNTS)
            lines[name] = (list(counts), ys[: len(counts)])
        line_plot(directory / file, title, "feedbacks of a user", "error", lines)
