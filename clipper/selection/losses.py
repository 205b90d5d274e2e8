"""Losses: how far an output is from the label, in [0, 1].

Labels and outputs are parsed JSON. An application that shows string outputs which are
JSON as that JSON (`parse_output`) has its losses made with `parse=True`: a label "3" then
means 3 as well.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from clipper.errors import InvalidInput
from clipper.selection.policy import Arm

FORMS = "zero_one, absolute, absolute(scale), squared, squared(scale) or log"

# The probability from which on the log loss is 1: nine nats, so that a confident mistake
# costs four times as much as a coin toss between ten classes.
LOG_FLOOR = 1e-4

# Rounded probabilities need not sum to 1 exactly: three of 0.33 are meant as thirds.
SUM_SLACK = 0.011

MAX_AXES = 4
_SPEC = re.compile(r"(absolute|squared)(?:\((\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\))?", re.ASCII)
_LISTS: tuple[Any, ...] = (
    list[float],
    list[list[float]],
    list[list[list[float]]],
    list[list[list[list[float]]]],
)
_NUMBERS = frozenset({int, float})
_PLAIN = frozenset({int, str, bool, type(None)})
_STARTS = frozenset('[{"-0123456789tfn \t\r\n')
_KINDS = {str: "a string", bool: "a boolean", type(None): "null", list: "an array"}


class Loss(ABC):
    """What an output costs under a label.

    `loss(label, output)` is a number in [0, 1]. It raises InvalidInput where the output
    makes no sense under this loss, or the label none for this output.
    """

    name: ClassVar[str]

    def __repr__(self) -> str:
        return f"<Loss {self.name}>"

    @abstractmethod
    def check_label(self, label: Any) -> None:
        """Raises InvalidInput, naming $.label, for what cannot be a label."""

    @abstractmethod
    def __call__(self, label: Any, output: Any) -> float: ...


def make_loss(spec: str, *, parse: bool = False) -> Loss:
    """The loss of this form (see FORMS); the scale is 1 if none is given."""
    if spec == "zero_one":
        return ZeroOne(parse)
    if spec == "log":
        return Log()
    found = _SPEC.fullmatch(spec)
    if found:
        scale = float(found[2] or 1)
        if not 0 < scale < math.inf:
            raise InvalidInput(f"the scale of loss {spec!r:.60} must be positive")
        return (Absolute if found[1] == "absolute" else Squared)(scale)
    raise InvalidInput(f"loss must be {FORMS}, got {spec!r:.60}")


def reward_losses(
    reward: float, members: Sequence[Arm], agreeing: Sequence[Arm], loss: Loss
) -> dict[Arm, float]:
    """What a reward in [0, 1] for an ensemble's answer tells of its members.

    Of `members`, those with an output, the `agreeing` gave the answer. The losses of the
    others are unknown, but where there is only right and wrong: if the answer was right,
    they were not.
    """
    losses = dict.fromkeys(agreeing, 1.0 - reward)
    if reward == 1 and isinstance(loss, ZeroOne):
        for arm in members:
            losses.setdefault(arm, 1.0)
    return losses


# -- right or wrong --------------------------------------------------------------------


class ZeroOne(Loss):
    """0 if label and output are the same JSON, else 1."""

    name = "zero_one"

    def __init__(self, parse: bool = False) -> None:
        self._parse = parse

    def check_label(self, label: Any) -> None:
        if type(label) in _PLAIN:
            return
        rest = [label]
        while rest:
            value = rest.pop()
            if type(value) is list:
                rest.extend(value)
            elif type(value) is dict:
                if any(type(key) is not str for key in value):
                    raise InvalidInput("Expected strings as the keys of $.label")
                rest.extend(value.values())
            elif type(value) is float:
                if not math.isfinite(value):
                    raise InvalidInput("Expected a finite number at $.label")
            elif type(value) not in _PLAIN:
                raise InvalidInput("Expected what JSON can say at $.label")

    def __call__(self, label: Any, output: Any) -> float:
        if same(label, output):
            return 0.0
        if self._parse and type(label) is str and label[:1] in _STARTS:
            try:
                return 0.0 if same(msgspec.json.decode(label), output) else 1.0
            except (msgspec.DecodeError, RecursionError, UnicodeError):
                pass
        return 1.0


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if type(a) is type(b) and type(a) in _PLAIN:
        return bool(a == b)
    rest = [(a, b)]  # in place of recursion: values may be nested deeply
    while rest:
        a, b = rest.pop()
        kind = type(a)
        if kind is not type(b):
            if not (kind in _NUMBERS and type(b) in _NUMBERS and a == b):
                return False
        elif kind is list:
            if len(a) != len(b):
                return False
            rest.extend(zip(a, b, strict=True))
        elif kind is dict:
            if a.keys() != b.keys():
                return False
            rest.extend((value, b[key]) for key, value in a.items())
        elif a != b:
            return False
    return True


# -- distances -------------------------------------------------------------------------


class Distance(Loss):
    """Between numbers, or the mean over the entries of arrays of one shape."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __repr__(self) -> str:
        return f"<Loss {self.name}({self.scale:g})>"

    def check_label(self, label: Any) -> None:
        if number(label) is None and numbers(label) is None:
            kind = "" if type(label) in (int, float, list) else f", got {_kind(label)}"
            raise InvalidInput(
                f"Expected a finite number, or an array of them{kind} at $.label"
            )

    def __call__(self, label: Any, output: Any) -> float:
        y, guess = number(label), number(output)
        if y is not None and guess is not None:
            ratio = abs(y - guess) / self.scale
            return min(1.0, ratio * ratio if self.name == "squared" else ratio)
        ys, guesses = numbers(label), numbers(output)
        if ys is None or guesses is None or ys.shape != guesses.shape:
            raise _incomparable(output, label, self.name)
        with np.errstate(over="ignore"):
            ratios = np.abs(ys - guesses) / self.scale
            if self.name == "squared":
                ratios *= ratios
        return float(np.minimum(ratios, 1.0).mean())


class Absolute(Distance):
    """min(1, |y - output| / scale)."""

    name = "absolute"


class Squared(Distance):
    """min(1, ((y - output) / scale)^2)."""

    name = "squared"


def number(value: Any) -> float | None:
    """A finite JSON number as a float, None for anything else."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def numbers(value: Any) -> npt.NDArray[np.float64] | None:
    """A nested list of finite numbers as an array of up to four axes, None for anything
    else, ragged and empty ones too."""
    axes, inner = 0, value
    while type(inner) is list and inner:
        axes, inner = axes + 1, inner[0]
    if not 1 <= axes <= MAX_AXES:
        return None
    try:
        array = np.array(msgspec.convert(value, _LISTS[axes - 1]), np.float64)
    except ValueError:  # msgspec's is one: not a number; numpy's: ragged
        return None
    return array if np.isfinite(array).all() else None


# -- probabilities ---------------------------------------------------------------------

# What the probabilities are of: classes by name, the numbers below an int, or, for a
# single probability, label 0 and label 1 (None).
Classes: TypeAlias = "tuple[str, ...] | int | None"


class Distribution(NamedTuple):
    classes: Classes
    p: list[float]


class Log(Loss):
    """-ln p(label), cut at LOG_FLOOR and scaled to [0, 1]. An output is a list of
    probabilities (the label is an index), an object of them by class (the label is a
    key), or the probability of label 1 (the label is 0 or 1)."""

    name = "log"

    def check_label(self, label: Any) -> None:
        if _class(label) is None:
            raise InvalidInput("Expected a class, an integer or a string, at $.label")

    def __call__(self, label: Any, output: Any) -> float:
        found = distribution(output)
        if found is None:
            raise _incomparable(output, label, self.name)
        index = index_of(label, found.classes)
        if index is None:
            raise InvalidInput(
                f"Expected one of the classes that the output {_shown(output)} tells of "
                f"at $.label, got {_shown(label)}"
            )
        return math.log(max(found.p[index], LOG_FLOOR)) / math.log(LOG_FLOOR)


def distribution(output: Any) -> Distribution | None:
    """An output as probabilities that sum to 1, None if it means none."""
    if type(output) is list:
        classes: Classes = len(output)
        p = output
    elif type(output) is dict:
        classes, p = tuple(output), list(output.values())
    else:
        p1 = number(output)
        if p1 is None or not 0 <= p1 <= 1:
            return None
        return Distribution(None, [1.0 - p1, p1])
    if not p or not _NUMBERS.issuperset(map(type, p)):
        return None
    # integers may be too large for a float; comparisons with NaN are false
    if not (min(p) >= -1e-6 and max(p) <= 1 + SUM_SLACK):
        return None
    total = sum(p)
    if not abs(total - 1.0) <= SUM_SLACK:
        return None
    return Distribution(classes, [max(0.0, x) / total for x in p])


def index_of(label: Any, classes: Classes) -> int | None:
    """Where a label stands among classes, None if nowhere."""
    known = _class(label)
    if isinstance(classes, tuple):
        name = str(known) if type(known) is int else known
        return classes.index(name) if name in classes else None
    count = 2 if classes is None else classes
    return known if type(known) is int and 0 <= known < count else None


def _class(label: Any) -> int | str | None:
    if type(label) is float and label.is_integer():
        return int(label)
    return label if type(label) in (int, str) else None


# -- words -----------------------------------------------------------------------------


def _incomparable(output: Any, label: Any, name: str) -> InvalidInput:
    return InvalidInput(
        f"the output {_shown(output)} cannot be compared with the label {_shown(label)} "
        f"under loss {name}"
    )


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an object")


def _shown(value: Any) -> str:
    try:
        text = msgspec.json.encode(value).decode()
    except (RecursionError, TypeError, ValueError, OverflowError):
        text = f"<{type(value).__name__}>"  # `repr` may fail as well
    return text if len(text) <= 60 else text[:57] + "..."
