"""Answers in the middle of the members' outputs: means, medians, pooled probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from clipper.selection.losses import Distribution, Loss, distribution, number, numbers
from clipper.selection.vote import (
    TIE,
    Combined,
    Combiner,
    Texts,
    Vote,
    Weights,
    count,
    decoded,
    distinct,
)

# Members that are sure of a falsehood keep a say under a product.
POOL_FLOOR = 1e-6

Vector: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float64]

# -- answers as numbers ----------------------------------------------------------------


class Blend(Combiner):
    """Something in the middle of outputs of one form. Where the outputs do not have one
    that means something here, there is a vote. Members without weight have no say."""

    # whether an output that all members share is the answer, and sure
    unanimous: ClassVar[bool] = True

    def combine(self, texts: Texts, weights: Weights, rng: Random) -> Combined:
        answers = distinct(texts)
        shares, counted = count(answers, weights)
        if len(answers) == 1 and self.unanimous:
            return _VOTE.combine(texts, weights, rng)
        present = sorted(i for members in answers for i in members if counted[i])
        values = [decoded(texts[i] or b"", None) for i in present]
        # exponents need not sum to 1: those present take over from those that are out
        size = sum(weights) if counted is weights else 1.0
        w = np.array([counted[i] for i in present]) / sum(shares)
        found = self.blend(values, w, size)
        if found is None:
            return _VOTE.combine(texts, weights, rng)
        return self._answer(texts, present, *found)

    def _answer(
        self,
        texts: Texts,
        present: list[int],
        output: Any,
        distances: Vector,
        confidence: float,
    ) -> Combined:
        nearest = float(distances.min())
        close = np.flatnonzero(distances <= nearest * (1 + 1e-9)).tolist()
        agreeing = tuple(present[at] for at in close)
        text = texts[agreeing[0]] if nearest == 0 else msgspec.json.encode(output)
        assert text is not None
        return Combined(text, min(1.0, max(0.0, confidence)), agreeing)

    @abstractmethod
    def blend(
        self, values: list[Any], w: Vector, size: float
    ) -> tuple[Any, Vector, float] | None:
        """The answer, how far each value is from it, and the confidence. `w` sums to 1,
        `size` is the sum of the weights that the policy gave."""


_VOTE = Vote()


class _Middle(Blend):
    """Of numbers, or of arrays of one shape entry by entry. The confidence is 1 less the
    weighted mean loss of the outputs, were the answer the label."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def blend(
        self, values: list[Any], w: Vector, size: float
    ) -> tuple[Any, Vector, float] | None:
        rows = _rows(values)
        if rows is None:
            return None
        matrix, shape = rows
        middle = self.middle(matrix, w)
        answer = middle.reshape(shape).tolist()
        losses = [self._loss(answer, value) for value in values]
        with np.errstate(over="ignore"):
            distances = np.abs(matrix - middle).sum(axis=1)
        return answer, distances, 1.0 - float(w @ losses)

    @abstractmethod
    def middle(self, matrix: Matrix, w: Vector) -> Vector:
        """Of each column of (members, entries)."""


class Mean(_Middle):
    """The weighted mean."""

    def middle(self, matrix: Matrix, w: Vector) -> Vector:
        # scaled so that rounding cannot overflow; the mean lies within what was given
        mean = (w @ (matrix / 1024)) * 1024
        return np.clip(mean, matrix.min(axis=0), matrix.max(axis=0))


class Median(_Middle):
    """The weighted median; halfway between two where the weight is split in halves."""

    def middle(self, matrix: Matrix, w: Vector) -> Vector:
        order = np.argsort(matrix, axis=0, kind="stable")
        ranked, below = np.take_along_axis(matrix, order, 0), np.cumsum(w[order], axis=0)
        lower = (below >= 0.5 - TIE).argmax(axis=0)[np.newaxis]
        upper = (below > 0.5 + TIE).argmax(axis=0)[np.newaxis]
        low = np.take_along_axis(ranked, lower, 0)[0]
        high = np.take_along_axis(ranked, upper, 0)[0]
        return np.asarray(np.where(low == high, low, low / 2 + high / 2))


def _rows(values: list[Any]) -> tuple[Matrix, tuple[int, ...]] | None:
    flat = [number(value) for value in values]
    if None not in flat:
        return np.array(flat, np.float64)[:, np.newaxis], ()
    arrays = [numbers(value) for value in values]
    shapes = {None if array is None else array.shape for array in arrays}
    if len(shapes) > 1 or None in shapes:
        return None
    matrix = np.array(arrays, np.float64)
    return matrix.reshape(len(values), -1), matrix.shape[1:]


# -- answers as probabilities ----------------------------------------------------------


class LinearPool(Blend):
    """The weighted mean of the members' probabilities. They come as the log loss takes
    them and the answer has the same form. The confidence is that in its likeliest class."""

    unanimous = False  # members may share a doubt

    def blend(
        self, values: list[Any], w: Vector, size: float
    ) -> tuple[Any, Vector, float] | None:
        matrix = align([distribution(value) for value in values])
        if matrix is None:
            return None
        p = self.pool(matrix, w, size)
        first = values[0]
        if type(first) is list:
            answer: Any = p.tolist()
        elif type(first) is dict:
            answer = dict(zip(first, p.tolist(), strict=True))
        else:
            answer = float(p[1])
        return answer, np.abs(matrix - p).sum(axis=1), float(p.max())

    def pool(self, matrix: Matrix, w: Vector, size: float) -> Vector:
        p = w @ matrix
        return np.asarray(p / p.sum())


class Pool(LinearPool):
    """The product of the members' probabilities, each to the power of its weight (Genest &
    Zidek 1986, logarithmic opinion pool). The exponents of those present are scaled to
    what the sum of all would be."""

    def pool(self, matrix: Matrix, w: Vector, size: float) -> Vector:
        return log_pool(np.log(np.maximum(matrix, POOL_FLOOR)), w * size)


def log_pool(logs: Matrix, exponents: Vector) -> Vector:
    """The pooled probabilities of log probabilities (members, classes)."""
    pooled = exponents @ logs
    p = np.exp(pooled - pooled.max())
    return np.asarray(p / p.sum())


def align(found: Sequence[Distribution | None]) -> Matrix | None:
    """Probabilities as (members, classes) in the order of the first, None if some are
    none or not of the same classes."""
    first = found[0]
    if first is None:
        return None
    rows = []
    for one in found:
        if one is None:
            return None
        if one.classes == first.classes:
            rows.append(one.p)
        elif type(one.classes) is tuple and type(first.classes) is tuple:
            p = dict(zip(one.classes, one.p, strict=True))
            if p.keys() != set(first.classes):
                return None
            rows.append([p[name] for name in first.classes])
        else:
            return None
    return np.array(rows, np.float64)
