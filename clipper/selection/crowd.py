"""What users have in common: the prior of a user of whom little is known.

Where users differ, the model that is best on average is best for few of them, and a new
user should not be drawn to it. Where they are alike, a few losses of one's own say little,
and everybody's experience says all. Which it is, a crowd finds out by trying: before each
piece of feedback of a user it notes what would have been lost by everybody's weights, and
by the user's own losses at several rates over a prior of how many users each arm suits
(empirical Bayes; the prior by the steps of EM, Dempster, Laird and Rubin 1977).

A crowd lives beside the fold and goes with the process. What it finds is an entry of the
log (clipper.learning.events.Prior), so that what follows from it is a fold again, and so
that the next crowd has something to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import NamedTuple, Protocol

from clipper.selection.policy import Arm, Observation, State
from clipper.selection.totals import prune

# How much a user's own losses count for; by 0 the user is one of the population.
RATES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)

# Losses were known so often, of so many users, before anything is said.
LEAST_JUDGED = 50
LEAST_USERS = 5

# Of those that come after so many, one in SAMPLED is judged.
SURE = 500
SAMPLED = 8

# What was lost is forgotten over so many pieces of feedback, users over so many users.
JUDGED = 5_000
USERS = 5_000

# What a crowd before this one said counts for so many users.
RECALLED = 100.0

_SMOOTH = 1.0  # users, spread evenly over the arms

# Priors that differ by less than this, in total variation, are the same.
DIFFERENT = 0.01


class Prior(NamedTuple):
    """The rate of RATES, and the share of the users that each arm suits."""

    rate: float
    weights: dict[Arm, float]

    def differs(self, other: Prior | None) -> bool:
        """Whether choices would follow from this that do not from the other."""
        if other is None or self.rate != other.rate:
            return True
        arms = self.weights.keys() | other.weights.keys()
        moved = [abs(self.weights.get(a, 0.0) - other.weights.get(a, 0.0)) for a in arms]
        return self.rate > 0 and sum(moved) / 2 > DIFFERENT


class Blending(Protocol):
    """The policy that a crowd works for."""

    def weights(self, state: State, arms: Sequence[Arm]) -> Sequence[float]: ...

    def blend_by(self, own: State, prior: Prior) -> State: ...

    def has_evidence(self, own: State) -> bool: ...


class Crowd:
    """The users of one application, as far as they gave feedback to this process."""

    def __init__(self, policy: Blending) -> None:
        self._policy = policy
        # All mutable state: what was lost at each rate, how often that was judged so far,
        # and could have been; how many users each arm suits, and how many there were so
        # far; and what was said last.
        self._lost = [0.0] * len(RATES)
        self._judged = self._met = 0
        self._suits: dict[Arm, float] = {}
        self._users = 0
        self._said: Prior | None = None

    def recall(self, prior: Prior) -> None:
        """Begin with what another crowd said of the same users, so that the first few who
        come now are not taken for all."""
        self._said = prior
        self._suits = {arm: RECALLED * share for arm, share in prior.weights.items()}

    def judge(self, population: State, own: State, seen: Observation) -> None:
        """Note what would have been lost on feedback that is about to be learned from."""
        arms = [arm for arm in seen.arms if arm in seen.losses]
        if len(arms) < 2 or not self._policy.has_evidence(own):
            return  # nothing can be told apart
        self._met += 1
        counts = 1
        if self._judged >= SURE:
            # it takes longer than all the rest of feedback; one stands for those left out
            counts = SAMPLED
            if self._met % SAMPLED:
                return
        losses = [seen.losses[arm] for arm in arms]
        shares = self._shares(arms)
        right_or_wrong = all(loss in (0.0, 1.0) for loss in losses)
        keep = (1.0 - 1.0 / JUDGED) ** counts
        for place, rate in enumerate(RATES):
            state = population
            if rate:
                state = self._policy.blend_by(own, Prior(rate, shares))
            weights = self._policy.weights(state, arms)
            lost = sum(w * loss for w, loss in zip(weights, losses, strict=True))
            lost /= sum(weights)
            if right_or_wrong:  # the members vote, and the most weight is the answer
                lost = float(lost > 0.5)
            self._lost[place] = keep * self._lost[place] + counts * lost
        self._judged += 1

    def count(
        self, own: State, arms: Sequence[Arm], before: Mapping[Arm, float] | None
    ) -> dict[Arm, float]:
        """Which arms suit a user by what is known now; `before` is what was said of the
        user the last time."""
        rate = self.rate or RATES[len(RATES) // 2]
        state = self._policy.blend_by(own, Prior(rate, self._shares(arms)))
        weights = self._policy.weights(state, arms)
        suits = dict(zip(arms, weights, strict=True))
        if before is None:
            keep = 1.0 - 1.0 / USERS
            self._users += 1
            self._suits = {arm: keep * users for arm, users in self._suits.items()}
        for arm, share in (before or {}).items():
            self._suits[arm] = max(0.0, self._suits.get(arm, 0.0) - share)
        for arm, share in suits.items():
            self._suits[arm] = self._suits.pop(arm, 0.0) + share  # newest last
        prune(self._suits, arms)
        return suits

    @property
    def rate(self) -> float:
        """The rate at which least was lost so far."""
        return RATES[min(range(len(RATES)), key=self._lost.__getitem__)]

    def news(self, arms: Sequence[Arm]) -> Prior | None:
        """The prior, if there is one that was not said yet; it counts as said then."""
        if self._judged < LEAST_JUDGED or self._users < LEAST_USERS or len(arms) < 2:
            return None
        found = Prior(self.rate, self._shares(arms))
        if not found.differs(self._said):
            return None
        self._said = found
        return found

    def unsay(self) -> None:
        """What was said last was not heard."""
        self._said = None

    def _shares(self, arms: Sequence[Arm]) -> dict[Arm, float]:
        some = _SMOOTH / len(arms)
        counts = [self._suits.get(arm, 0.0) + some for arm in arms]
        total = sum(counts)
        return {arm: count / total for arm, count in zip(arms, counts, strict=True)}


def posterior(
    losses: Sequence[float], rate: float, prior: Mapping[Arm, float], arms: Sequence[Arm]
) -> list[float]:
    """Minus the logarithms of weights: prior times exp(-rate * losses)."""
    even = 1.0 / len(arms)
    return [
        rate * loss - log(max(prior.get(arm, even), 1e-12))
        for arm, loss in zip(arms, losses, strict=True)
    ]
