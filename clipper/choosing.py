"""Which models answer a query: the policy's odds, compiled, and one draw.

A distribution is compiled once for each state it follows from and drawn from many times;
a choice, with the maker of its query ids, once for each arm of it.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from clipper.errors import InvalidInput
from clipper.learning.chunks import encode_context
from clipper.learning.learner import Learner
from clipper.learning.users import User
from clipper.query_id import QueryIds, Stamp
from clipper.selection.draw import Odds, Seats, as_logged, draw_once, normalised
from clipper.selection.policy import (
    Arm,
    Ensemble,
    SingleChoice,
    State,
    Subject,
    generation_of,
    model_of,
)
from clipper.selection.registry import check_weights
from clipper.values import plain

if TYPE_CHECKING:
    from clipper.model import Model

logger = logging.getLogger(__name__)

# How many seconds a user's choices may follow from an older state of the population. Their
# own feedback counts at once.
STALE = 1.0


# Bounds of the only choice there is.
ALWAYS = [math.inf]


class Choice:
    """A decision: which of `arms` answer, and how probable it was.

    Under a single choice `index` is the arm that was drawn, with `propensity`, and `odds`
    are those of all arms; under an ensemble `index` is None and `odds` are the weights of
    its members. `features` is what the policy made of the query's context, encoded to be
    kept, None where it made nothing of it. `shadows` are asked as well and do not answer.
    `told` is what an answer says of it, as JSON: which model it is from, where there was a
    choice.
    """

    __slots__ = (
        "age", "arms", "features", "generation", "index", "model", "models", "odds",
        "propensity", "shadows", "stamp", "told",
    )  # fmt: skip

    def __init__(
        self,
        arms: tuple[Arm, ...],
        models: tuple[Model, ...],
        odds: list[float],
        index: int | None,
        propensity: float,
        generation: int,
        stamp: Stamp,
        features: bytes | None = None,
        shadows: tuple[tuple[Arm, Model], ...] = (),
        told: bytes = b"",
    ) -> None:
        self.arms = arms
        self.models = models
        self.odds = odds
        self.index = index
        self.model = None if index is None else models[index]
        self.propensity = propensity
        self.generation = generation
        self.stamp = stamp
        self.features = features
        self.shadows = shadows
        self.age = 0  # for whoever counts choices that are shared
        self.told = told

    @property
    def arm(self) -> Arm | None:
        return None if self.index is None else self.arms[self.index]

    def keep(self, context: Any) -> bytes | None:
        """A query's own context, encoded to be kept, None where the features stand for
        it."""
        return encode_context(context) if self.features is None else None


class _Compiled:
    """A distribution with the choices made from it so far."""

    __slots__ = (
        "arms", "at", "bounds", "choices", "epoch", "odds", "population", "seats",
        "shadows", "user", "weights",
    )  # fmt: skip

    def __init__(
        self,
        odds: Odds | None,
        arms: tuple[Arm, ...],
        weights: list[float],
        shadows: tuple[tuple[Arm, Model], ...],
        at: float,
    ) -> None:
        self.odds = odds  # None for an ensemble, of which nothing is drawn
        self.arms = arms
        self.weights = weights
        self.shadows = shadows
        self.bounds = ALWAYS if odds is None else odds.bounds
        self.seats: Seats | None = None  # once a user is to stay with an arm
        self.choices: list[Choice | None] = [None] * len(self.bounds)
        self.at = at
        self.population = self.user = self.epoch = -1  # versions it follows from


class Chooser:
    """Decides for one application. Arms must have been set, and at least one."""

    def __init__(self, learner: Learner, ids: QueryIds, rng: Random) -> None:
        self._learner = learner
        self._ids = ids
        self._random = rng.random
        # All mutable state: the arms with their models, those of them that are open to
        # choice (None: to be found anew) with theirs, their generations and what is told
        # of them, what was compiled for the population, and a number that rises whenever
        # all that was compiled, users' too, is void.
        self._models: dict[Arm, Model] = {}
        self._arms: tuple[Arm, ...] = ()
        self._opened: tuple[Arm, ...] | None = None
        self._open_models: tuple[Model, ...] = ()
        self._generations: list[int] = []
        self._told: list[bytes] = []
        self._compiled: _Compiled | None = None
        self._epoch = 0
        self._failed = ""  # the policy of which it was told that it fails

    def set_arms(self, models: Mapping[Arm, Model]) -> None:
        self._models = dict(models)
        self._arms = tuple(models)
        self.forget()

    def forget(self) -> None:
        """What was compiled follows from something that has changed."""
        self._opened = self._compiled = None
        self._epoch += 1

    @property
    def fixed(self) -> bool:
        """Whether everybody gets the same choice until something is set anew."""
        policy = self._learner.policy
        return not (policy.learns or policy.contextual or policy.ensemble) and (
            len(self._arms) == 1 or policy.name == "static"
        )

    def choose(self, subject: Subject, now: float) -> Choice:
        """The decision for one query. Raises InvalidInput for a context that the policy
        cannot use."""
        learner, compiled = self._learner, self._compiled
        if subject.uid is None and compiled and compiled.population == learner.version:
            # what nearly all queries come to, without another call
            index = bisect_right(compiled.bounds, self._random())
            return compiled.choices[index] or self._make(compiled, index)
        policy, uid = learner.policy, subject.uid
        if uid is not None:
            if learner.sticky:
                return self._stay(uid, now)
            if policy.personal:
                user = learner.users.get(uid)
                if user is not None and user.experience is not None:
                    return self._draw(self._for_user(user, now))
        if policy.contextual:
            return self._decide(self.features(subject.context))
        return self._draw(self._shared(now))

    def _shared(self, now: float) -> _Compiled:
        """What follows for the population now. Feedback often changes no odds."""
        before = self._compiled
        if before is not None and before.population == self._learner.version:
            return before
        compiled = self._compiled = self._compile(None, now)
        if (
            before is not None
            and before.epoch == compiled.epoch
            and before.weights == compiled.weights
        ):
            compiled.choices = before.choices
        return compiled

    def weights(self, user: User | None = None) -> dict[Arm, float]:
        """How probable each arm is as things stand, or how much it counts in an ensemble.
        Arms that are not open to choice are left out; all are under a policy that decides
        by the context."""
        if self._learner.policy.contextual or not self._arms:
            return {}
        compiled = self._compile(user, 0.0)
        return dict(zip(compiled.arms, compiled.weights, strict=True))

    def shadows(self) -> tuple[Arm, ...]:
        """The arms that are asked as well and do not answer."""
        policy = self._learner.policy
        if not self._arms or not isinstance(policy, SingleChoice):
            return ()
        try:
            found = policy.shadows(self._open())
            return tuple(arm for arm in found if arm in self._models)
        except Exception:
            self._complain()
            return ()

    def _for_user(self, user: User, now: float) -> _Compiled:
        compiled: _Compiled | None = user.compiled
        if (
            compiled is None
            or compiled.user != user.version
            or compiled.epoch != self._epoch
            or (
                compiled.population != self._learner.version
                and not compiled.at <= now < compiled.at + STALE
            )
        ):
            compiled = user.compiled = self._compile(user, now)
        return compiled

    def _open(self) -> tuple[Arm, ...]:
        """The arms that can be asked and that no guard has taken out; if there are none,
        those that no guard has; if it took out all, all."""
        if self._opened is None:
            halted = self._learner.halted
            left = tuple(arm for arm in self._arms if arm not in halted) or self._arms
            if self._learner.policy.reroutes:
                left = tuple(a for a in left if self._models[a].connected) or left
            self._opened = left
            self._open_models = tuple(self._models[arm] for arm in left)
            self._generations = [generation_of(arm) for arm in left]
            self._told = [b""] if len(left) == 1 else [_told(arm) for arm in left]
        return self._opened

    def _compile(self, user: User | None, now: float) -> _Compiled:
        learner, arms = self._learner, self._open()
        policy = learner.policy
        if isinstance(policy, Ensemble):
            weights = self._weights(policy, learner.state_for(user))
            compiled = _Compiled(None, arms, weights, (), now)
        else:
            assert isinstance(policy, SingleChoice)
            odds = Odds(self._probabilities(policy, learner.state_for(user), None))
            shadows = tuple((arm, self._models[arm]) for arm in self.shadows())
            compiled = _Compiled(odds, arms, odds.probabilities, shadows, now)
        compiled.population = learner.version
        compiled.user = -1 if user is None else user.version
        compiled.epoch = self._epoch
        return compiled

    def features(self, context: Any) -> Any:
        """What the policy makes of a context, as it is logged; nothing if it fails. Raises
        InvalidInput for a context that the policy refuses."""
        try:
            return plain(self._learner.policy.features(context))
        except InvalidInput:
            raise
        except Exception:
            self._complain()
            return None

    def _probabilities(
        self, policy: SingleChoice, state: State, context: Any
    ) -> list[float]:
        """What the policy says of the arms that are open; if it fails to say anything, the
        first of them alone."""
        arms = self._open()
        try:
            found = policy.probabilities(state, arms, context)
            if len(found) != len(arms):
                raise ValueError(f"{len(found)} probabilities of {len(arms)} arms")
            return normalised(found)
        except Exception:
            self._complain()
            return [1.0] + [0.0] * (len(arms) - 1)

    def _weights(self, policy: Ensemble, state: State) -> list[float]:
        """An ensemble's weights; equal ones if it fails to give any."""
        arms = self._open()
        try:
            return check_weights(policy.weights(state, arms), len(arms))
        except Exception:
            self._complain()
            return [1.0] * len(arms)

    def _complain(self) -> None:
        """Tell once that a policy of somebody's own fails: answers go on without it."""
        name = self._learner.policy.name
        if self._failed != name:
            self._failed = name
            logger.exception("policy %s failed to choose; it is done without", name)

    def _draw(self, compiled: _Compiled) -> Choice:
        index = bisect_right(compiled.bounds, self._random())
        return compiled.choices[index] or self._make(compiled, index)

    def _stay(self, uid: str, now: float) -> Choice:
        """The same draw for a user every time."""
        compiled = self._shared(now)
        seats = compiled.seats
        if seats is None:
            seats = compiled.seats = self._seats(compiled)
        index = seats.draw(uid)
        return compiled.choices[index] or self._make(compiled, index)

    def _seats(self, compiled: _Compiled) -> Seats:
        policy, names = self._learner.policy, list(compiled.arms)
        assert isinstance(policy, SingleChoice)
        try:
            names = [f"{policy.seat(arm)}" for arm in compiled.arms]
        except Exception:
            self._complain()
        return Seats(self._learner.application, names, compiled.weights)

    def _decide(self, context: Any) -> Choice:
        """A choice that follows from the query's context, and is hardly ever met again."""
        learner, arms = self._learner, self._open()
        policy = learner.policy
        assert isinstance(policy, SingleChoice)
        odds = self._probabilities(policy, learner.population.state, context)
        index = draw_once(odds, self._random())
        features = None if context is None else encode_context(context)
        propensity, generation = as_logged(odds[index]), learner.generation
        stamp = self._ids.stamp_once(
            learner.application, generation, self._generations[index], propensity
        )
        return Choice(
            arms, self._open_models, odds, index, propensity, generation, stamp, features,
            (), self._told[index],
        )  # fmt: skip

    def _make(self, compiled: _Compiled, index: int) -> Choice:
        learner, arms = self._learner, compiled.arms
        chosen: int | None = None
        propensity, generation, told = 1.0, 0, b""
        if compiled.odds is not None:
            chosen, generation = index, self._generations[index]
            propensity, told = as_logged(compiled.weights[index]), self._told[index]
        stamp = self._ids.stamp(
            learner.application, learner.generation, generation, propensity
        )
        choice = compiled.choices[index] = Choice(
            arms, self._open_models, compiled.weights, chosen, propensity,
            learner.generation, stamp, None, compiled.shadows, told,
        )  # fmt: skip
        return choice


def _told(arm: Arm) -> bytes:
    return b',"model":"%b"' % str(model_of(arm)).encode()
