"""Online ridge regression, one linear model for each arm, and what the policies that
choose by it share.

The model of an arm is theta = (G + ridge I)^-1 b over the contexts x it was seen with: G
is the sum of x x', b that of x times the target. x is the context with a 1 behind it, the
intercept. With a discount below 1 both sums forget, for all arms with each observation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from clipper.errors import InvalidInput
from clipper.selection.policy import (
    MOST_ARMS,
    Arm,
    Observation,
    Options,
    SingleChoice,
    State,
    Total,
)
from clipper.selection.totals import superfluous

Vector: TypeAlias = npt.NDArray[np.float64]

MOST_FEATURES = 256

# Contexts are refused beyond this: their squares are summed over millions of queries.
LARGEST = 1e6

_FLOATS = frozenset({float})

# Numbers in the matrices of one kind. A wide context leaves room for fewer arms that are
# not in use.
_MOST_NUMBERS = 2_000_000

# After how many observations an inverse is computed anew: rounding has gathered little by
# then. With a discount sooner, before the ridge, which an update of the inverse discounts
# as well, has faded to less than half.
_FRESH_FOR = 512

# An update that takes more than this away from an inverse would leave mostly rounding; so
# would one whose width, never negative, has become so. The inverse is computed anew.
_LARGEST_STEP = 1e6

# Sums that a discount has brought below this are nothing; left alone they would end among
# numbers that processors are slow with.
_FORGOTTEN = 1e-100

# A mean loss that another policy found counts for at most so many observations. It is the
# loss at an average context, which need not be the intercept.
_MOST_BEFORE = 20.0


class Ridge:
    """Ridge regression of `size` coefficients for each arm, over a state that is passed in.

    The state: `pulls`, how often each arm was seen, in the order of the rows (that in
    which queries name their arms, as long as none comes or goes) of the arrays `gram` (G),
    `moment` (b), `inverse` and `theta`; `updates`, all observations ever; `rounds`, the
    same, discounted. A state of another size is one without evidence.

    Updates are written without matrix products, whose order of summation is the
    library's: the same log gives the same bits.
    """

    def __init__(self, size: int, ridge: float = 1.0, discount: float = 1.0) -> None:
        self.size = size
        self.ridge = ridge
        self.discount = discount
        self._fresh_for = _FRESH_FOR
        if discount < 1:
            self._fresh_for = min(_FRESH_FOR, int(math.log(0.5) / math.log(discount)))
        self._most_arms = min(MOST_ARMS, max(1, _MOST_NUMBERS // size**2))

    def init(self) -> dict[str, Any]:
        d = self.size
        return {
            "pulls": {},
            "updates": 0,
            "rounds": 0.0,
            "gram": np.zeros((0, d, d)),
            "moment": np.zeros((0, d)),
            "inverse": np.zeros((0, d, d)),
            "theta": np.zeros((0, d)),
        }

    def begin(self, means: Mapping[Arm, tuple[float, float]]) -> dict[str, Any]:
        """A state in which each arm's intercept was seen with a target this many times:
        (count, mean target) by arm."""
        state = self.init()
        arms = list(means)[-self._most_arms :]
        self._admit(state, arms, ())
        for row, arm in enumerate(arms):
            count, target = means[arm]
            state["pulls"][arm] = float(count)
            state["gram"][row, -1, -1] = count
            state["moment"][row, -1] = count * target
            self._refresh(state, row)
        return state

    # -- what follows from a state ------------------------------------------------------

    def means(self, state: State, arms: Sequence[Arm], x: Vector) -> list[float]:
        """theta' x for each of `arms`; 0 for one without evidence."""
        theta: Vector = state["theta"]
        found: list[float]
        if tuple(state["pulls"]) == tuple(arms) and self.fits(state):
            found = theta.dot(x).tolist()
            return found
        at, rows = self._rows(state, arms)
        answer = np.zeros(len(arms))
        if len(rows):
            answer[at] = theta[rows] @ x
        found = answer.tolist()
        return found

    def widths(self, state: State, arms: Sequence[Arm], x: Vector) -> list[float]:
        """x' (G + ridge I)^-1 x for each of `arms`: how little is known there."""
        inverse: Vector = state["inverse"]
        if tuple(state["pulls"]) == tuple(arms) and self.fits(state):
            # one product over all arms is faster than one for each
            count, size, _ = inverse.shape
            products = inverse.reshape(-1, size).dot(x).reshape(count, size)
            return [width if width > 0 else 0.0 for width in products.dot(x).tolist()]
        at, rows = self._rows(state, arms)
        widths = np.full(len(arms), float(x @ x) / self.ridge)
        if len(rows):
            widths[at] = np.maximum((inverse[rows] @ x) @ x, 0.0)
        found: list[float] = widths.tolist()
        return found

    def fits(self, state: State) -> bool:
        """Whether the state is of this size: a policy's options may have changed."""
        return bool(state["theta"].shape[1] == self.size)

    def _rows(
        self, state: State, arms: Sequence[Arm]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which of `arms` the state knows, and in which rows."""
        rows = {arm: row for row, arm in enumerate(state["pulls"])}
        if not self.fits(state):
            rows = {}
        at = [index for index, arm in enumerate(arms) if arm in rows]
        return np.array(at, np.intp), np.array([rows[arms[i]] for i in at], np.intp)

    # -- learning -----------------------------------------------------------------------

    def learn(
        self, state: State, x: Vector, targets: Mapping[Arm, float], in_use: Sequence[Arm]
    ) -> State:
        """Take in what some arms' targets were at x. Changes `state` and gives it back;
        arms that are not `in_use` make room, those longest known first."""
        if not self.fits(state):
            state = self.init()
        self._admit(state, [*in_use, *targets], in_use)
        state["updates"] += 1
        state["rounds"] = self.discount * state["rounds"] + 1.0
        if self.discount < 1:
            state["gram"] *= self.discount
            state["moment"] *= self.discount
            state["inverse"] /= self.discount
        pulls = state["pulls"]
        for row, arm in enumerate(pulls):
            if arm in targets:
                pulls[arm] += 1.0
                self._add(state, row, x, targets[arm])
        for row in range(len(pulls)):  # one after the other, so that none waits long
            if (state["updates"] + row) % self._fresh_for == 0:
                self._refresh(state, row)
        return state

    def _add(self, state: State, row: int, x: Vector, target: float) -> None:
        """One observation of one arm, by the formula of Sherman and Morrison."""
        state["gram"][row] += np.multiply.outer(x, x)
        state["moment"][row] += target * x
        inverse, theta = state["inverse"][row], state["theta"][row]
        toward = (inverse * x).sum(axis=1)
        width = float((toward * x).sum())
        if not 0 <= width <= _LARGEST_STEP:
            self._refresh(state, row)
            return
        theta += toward * ((target - float((theta * x).sum())) / (1.0 + width))
        toward /= math.sqrt(1.0 + width)
        inverse -= np.multiply.outer(toward, toward)  # symmetric to the last bit

    def _refresh(self, state: State, row: int) -> None:
        """Compute an arm's inverse and theta from its sums. No eigenvalue can be less
        than the ridge: one that is was lost to rounding."""
        gram, moment = state["gram"][row], state["moment"][row]
        gram[np.abs(gram) < _FORGOTTEN] = 0.0
        moment[np.abs(moment) < _FORGOTTEN] = 0.0
        values, vectors = np.linalg.eigh(gram)
        half = vectors / np.sqrt(np.maximum(values, 0.0) + self.ridge)
        inverse = half @ half.T
        state["inverse"][row] = (inverse + inverse.T) / 2
        state["theta"][row] = (state["inverse"][row] * moment).sum(axis=1)

    def _admit(self, state: State, arms: Sequence[Arm], in_use: Sequence[Arm]) -> None:
        """Make rows for arms that have none."""
        pulls = state["pulls"]
        new = [arm for arm in dict.fromkeys(arms) if arm not in pulls]
        if not new:
            return
        most = max(0, self._most_arms - len(new))
        gone = set(superfluous(pulls, {*in_use, *arms}, most))
        kept = [row for row, arm in enumerate(pulls) if arm not in gone]
        for arm in gone:
            del pulls[arm]
        pulls.update(dict.fromkeys(new, 0.0))
        n, d = len(new), self.size
        added = {
            "gram": np.zeros((n, d, d)),
            "moment": np.zeros((n, d)),
            "inverse": np.broadcast_to(np.eye(d) / self.ridge, (n, d, d)),
            "theta": np.zeros((n, d)),
        }
        for key, rows in added.items():
            state[key] = np.concatenate([state[key][kept], rows])


class RidgeOptions(Options, frozen=True, forbid_unknown_fields=True):
    """`features` is how many numbers the context of each query holds, and has to be
    given. `ridge` is how strongly coefficients are drawn towards 0, `discount` by how
    much all that was learned counts less with each feedback (1: nothing is forgotten),
    `epsilon` the share of queries whose arm is drawn uniformly."""

    features: int = 0
    ridge: float = 1.0
    discount: float = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.features <= MOST_FEATURES:
            raise ValueError(
                "features must say how many numbers a context holds, from 1 to"
                f" {MOST_FEATURES}, got {self.features or 'none'}"
            )
        if not 1e-6 <= self.ridge <= 1e6:
            raise ValueError(
                f"ridge must lie between 0.000001 and 1000000, got {self.ridge}"
            )
        if not 0.9 <= self.discount <= 1:
            raise ValueError(f"discount must lie between 0.9 and 1, got {self.discount}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must lie between 0 and 1, got {self.epsilon}")


class RidgeChoice(SingleChoice):
    """A single choice by what ridge regression says of each arm at the query's context.

    The state is that of `Ridge`. It learns from every loss that is known, chosen arm or
    not: given the context a loss does not depend on why it became known, so no
    propensity is needed.
    """

    contextual = True
    Options: ClassVar[type[RidgeOptions]] = RidgeOptions
    options: RidgeOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.regression = Ridge(
            self.options.features + 1, self.options.ridge, self.options.discount
        )

    @staticmethod
    @abstractmethod
    def target(loss: float) -> float:
        """What is regressed on: the loss, or the reward."""

    def features(self, context: Any) -> list[float]:
        """The context as floats. Raises InvalidInput for anything but `features` finite
        numbers of reasonable size."""
        wanted = self.options.features
        if not isinstance(context, list | tuple) or len(context) != wanted:
            raise InvalidInput(
                f"policy {self.name} needs a context of {wanted}"
                f" {'number' if wanted == 1 else 'numbers'} at $.context,"
                f" got {_described(context)}"
            )
        if _FLOATS.issuperset(map(type, context)) and math.hypot(*context) <= LARGEST:
            return list(context)  # as nearly all are
        for index, value in enumerate(context):
            if type(value) is not float and type(value) is not int:
                what = "an array" if isinstance(value, list) else _described(value)
                raise InvalidInput(
                    f"policy {self.name} needs numbers in a context,"
                    f" got {what} at $.context[{index}]"
                )
            if not -LARGEST <= value <= LARGEST:  # not a number fails here as well
                raise InvalidInput(
                    f"policy {self.name} needs numbers between {-LARGEST:.0f} and"
                    f" {LARGEST:.0f} in a context, best around 1,"
                    f" got {value!s:.30} at $.context[{index}]"
                )
        return list(map(float, context))

    def point(self, context: Sequence[float]) -> Vector:
        """Where the regression is asked: the features and the intercept's 1."""
        return np.array([*context, 1.0])

    def init(self) -> State:
        return self.regression.init()

    def observe(self, state: State, seen: Observation) -> State:
        if not seen.losses:
            return state
        try:  # none, or another policy's that nobody has checked, after a change of policy
            context = self.features(seen.context)
        except InvalidInput:
            return state
        targets = {arm: self.target(loss) for arm, loss in seen.losses.items()}
        return self.regression.learn(state, self.point(context), targets, seen.arms)

    def begin(self, totals: Mapping[Arm, Total]) -> State:
        """Each arm's intercept starts from its mean loss, with little weight."""
        return self.regression.begin(
            {
                arm: (min(total.count, _MOST_BEFORE), self.target(total.loss / total.count))
                for arm, total in totals.items()
                if total.count > 0
            }
        )

    def explored(self, probabilities: list[float]) -> list[float]:
        """The same with the share `epsilon` spread uniformly."""
        epsilon = self.options.epsilon
        if not epsilon:
            return probabilities
        least = epsilon / len(probabilities)
        return [(1.0 - epsilon) * p + least for p in probabilities]


def _described(value: object) -> str:
    """What is no number, or a wrong number of them, in a few words."""
    if isinstance(value, list | tuple):
        return str(len(value))
    names = {str: "a string", dict: "an object", int: "a number", float: "a number"}
    plain = {None: "none", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return plain[value]
    return names.get(type(value), f"a {type(value).__name__}")
