"""A module that is installed nowhere, used by functions that are packaged."""

from __future__ import annotations

from typing import Any

FACTOR = 3


def scale(values: Any) -> Any:
    return [FACTOR * float(value.sum()) for value in values]


class Scaler:
    """Like an estimator of a machine-learning library."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, values: Any) -> Any:
        return values.sum(axis=1) * self.factor
