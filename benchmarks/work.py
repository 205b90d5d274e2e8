"""The models that every server of the benchmark serves, and the bodies sent to them.

The peers import this file with interpreters of their own: it needs numpy and, for the
classifiers, scikit-learn, and nothing of Clipper. A model is fitted from fixed seeds
wherever it is needed, so no pickle travels between versions of scikit-learn.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

Model = Callable[[Any], Any]  # a 2-D array of rows -> one output per row
Row = list[float]

WIDTHS = {"sum": 10, "sleep": 10, "svm": 784, "forest": 64}

# A batch of the model "sleep" takes these seconds, and those for each of its rows.
SLEEP_BATCH, SLEEP_ROW = 1e-3, 0.4e-3


def make_model(work: str) -> Model:
    """The model called `work`: a closure, so that it is pickled by value."""
    makers = {
        "sum": _make_sum,
        "sleep": make_sleeper,
        "svm": _make_svm,
        "forest": _make_forest,
    }
    return makers[work]()


def make_sleeper(
    batch: float = SLEEP_BATCH, row: float = SLEEP_ROW, *, slow_file: str = ""
) -> Model:
    """Sums rows and sleeps `batch` seconds and `row` for each; twice as long while there
    is a file called `slow_file`."""

    def sleep_rows(rows: Any) -> Any:
        import os
        import time

        factor = 2 if slow_file and os.path.exists(slow_file) else 1
        time.sleep(factor * (batch + row * len(rows)))
        return rows.sum(axis=1)

    return sleep_rows


def make_straggler(lock_file: str, factor: float = 5.0) -> Model:
    """The model "sleep" that takes `factor` times as long in one of its processes: the
    one that holds the lock on `lock_file`, which is free again when that one ends."""
    batch, row = SLEEP_BATCH, SLEEP_ROW
    held: list[int] = []  # the locked file, open for good in the process that has it

    def sleep_rows(rows: Any) -> Any:
        import fcntl
        import os
        import time

        if not held:
            file = os.open(lock_file, os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                held.append(file)
        time.sleep((factor if held else 1.0) * (batch + row * len(rows)))
        return rows.sum(axis=1)

    return sleep_rows


def _make_sum() -> Model:
    def sum_rows(rows: Any) -> Any:
        return rows.sum(axis=1)

    return sum_rows


def _make_svm() -> Model:
    from sklearn.svm import LinearSVC

    return _fitted(LinearSVC(C=0.01, max_iter=50, random_state=7), WIDTHS["svm"])


def _make_forest() -> Model:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(100, max_depth=10, n_jobs=1, random_state=7)
    return _fitted(forest, WIDTHS["forest"])


def _fitted(estimator: Any, width: int) -> Model:
    """`estimator` fitted to ten overlapping clouds of points."""
    import warnings

    import numpy as np

    generator = np.random.default_rng(7)
    labels = generator.integers(0, 10, 1500)
    centres = generator.random((10, width))
    points = 0.3 * centres[labels] + 0.7 * generator.random((len(labels), width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 50 iterations do not converge, and need not
        estimator.fit(points, labels)

    def predict_rows(rows: Any) -> Any:
        return estimator.predict(rows)

    return predict_rows


def predict(model: Model, rows: Sequence[Row]) -> list[Any]:
    """Outputs of `model` for plain lists, as a peer's handler computes them."""
    import numpy as np

    outputs: list[Any] = model(np.asarray(rows, dtype=np.float64)).tolist()
    return outputs


def make_rows(work: str, count: int, seed: int = 5) -> list[Row]:
    numbers = random.Random(seed)
    return [[round(numbers.random(), 6) for _ in range(WIDTHS[work])] for _ in range(count)]


def to_json(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def to_npy(rows: Sequence[Row]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.asarray(rows, dtype=np.float64))
    return file.getvalue()
