"""Exp4: an ensemble that learns from the answer's loss alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import ClassVar

from clipper.selection import policy
from clipper.selection.exp3 import BEGIN_ROUNDS, LEAST_PROPENSITY, settle
from clipper.selection.policy import Arm, Ensemble, Observation, State, Total
from clipper.selection.totals import prune

# In units of the exponent: exp(-36) is 2e-16, less than rounding leaves of a sum of 1. What
# lies below is not drawn any sooner, and could take for ever to come back.
LEAST_LOG_WEIGHT = -36.0


class Exp4Options(policy.PersonalOptions, frozen=True, forbid_unknown_fields=True):
    """`gamma` is the part of the probability that goes to all distinct answers evenly.
    `answers` is how many of them there can be, by default one for each arm."""

    gamma: float = 0.1
    answers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma <= 1:
            raise ValueError("gamma must be above 0 and at most 1")
        if self.answers is not None and not 2 <= self.answers <= 10**9:
            raise ValueError("answers must lie between 2 and 10^9")


class Exp4(Ensemble):
    """Exp4 of Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit
    problem", SIAM J. Comput. 32, 2002, section 7. The experts are the arms, the actions
    their K distinct answers, and an expert's advice is its own output.

    An answer is drawn with p = (1 - gamma) * its share of the weight + gamma / K; experts
    that gave it gain x / p for its reward x = 1 - loss, and a weight is
    exp(gamma / K * gains). With gamma = min(1, sqrt(K ln N / ((e - 1) T))) the expected
    regret after T rounds is at most 2.63 sqrt(T K ln N) (corollary 7.2).

    p is the one that was logged with the answer. An exponent grows by at most 1 in a round,
    as it does in the paper, where p is at least gamma / K; weights below
    exp(LEAST_LOG_WEIGHT) of the greatest are raised to that.
    """

    name = "exp4"
    Options: ClassVar[type[policy.Options]] = Exp4Options
    options: Exp4Options
    combination = "sample"
    full_information = False

    @property
    def exploration(self) -> float:  # type: ignore[override]
        return self.options.gamma

    def init(self) -> State:
        return {"weights": {}, "rounds": 0.0}

    def weights(self, state: State, arms: Sequence[Arm]) -> Sequence[float]:
        weights = [exp(one) for one in _logs(state["weights"], arms)]
        total = sum(weights)
        return [weight / total for weight in weights]

    def observe(self, state: State, seen: Observation) -> State:
        arms, table = seen.arms, state["weights"]
        if seen.loss is None or not any(arm in arms for arm in seen.chosen):
            return state
        reward = (1.0 - seen.loss) / max(seen.propensity, LEAST_PROPENSITY)
        gain = min(1.0, self._step(len(arms)) * reward)
        logs = _logs(table, arms)
        for i, arm in enumerate(arms):
            if arm in seen.chosen:
                logs[i] += gain
        greatest = max(logs)
        for arm, one in zip(arms, logs, strict=True):
            table.pop(arm, None)
            table[arm] = max(one - greatest, LEAST_LOG_WEIGHT)
        prune(table, arms)
        state["rounds"] += 1.0
        return state

    def blend(self, population: State, own: State) -> State:
        """The user's own exponents, and the population's by a part that fades as
        prior / (prior + rounds)."""
        prior = self.options.prior
        if not prior:
            return own
        part = prior / (prior + own["rounds"])
        arms = list(own["weights"] | population["weights"])
        if not arms:
            return own
        mine, theirs = _logs(own["weights"], arms), _logs(population["weights"], arms)
        logs = [a + part * b for a, b in zip(mine, theirs, strict=True)]
        return {"weights": dict(zip(arms, logs, strict=True)), "rounds": own["rounds"]}

    def begin(self, totals: Mapping[Arm, Total]) -> State:
        """As after so many rounds, at most BEGIN_ROUNDS, in which arms had their means."""
        known = {arm: [*total] for arm, total in totals.items() if total.count}
        prune(known, ())
        if not known:
            return self.init()
        rounds = min(max(count for count, _ in known.values()), BEGIN_ROUNDS)
        step = rounds * self._step(len(known))
        means = {arm: loss / count for arm, (count, loss) in known.items()}
        least = min(means.values())
        table = {
            arm: max(step * (least - mean), LEAST_LOG_WEIGHT) for arm, mean in means.items()
        }
        return {"weights": table, "rounds": rounds}

    def _step(self, arms: int) -> float:
        """gamma / K."""
        answers = self.options.answers
        return self.options.gamma / (arms if answers is None else min(arms, answers))


def _logs(table: Mapping[Arm, float], arms: Sequence[Arm]) -> list[float]:
    """Log weights, the greatest 0; an arm that is new has the mean weight."""
    known = [table.get(arm) for arm in arms]
    losses = settle([None if one is None else -one for one in known], 1.0)
    least = min(losses)
    return [least - loss for loss in losses]
