"""Exponential weights on estimated losses: sure of a bound whatever the losses are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import e, exp, log, sqrt
from typing import Any, Literal

from clipper.selection.policy import (
    Arm,
    Observation,
    PersonalOptions,
    SingleChoice,
    State,
    Total,
)
from clipper.selection.totals import known_losses, prune

# A propensity below this counts as this, so that no estimate is beyond all others for ever.
LEAST_PROPENSITY = 1e-6

# Another policy's experience counts for at most so many rounds to begin with: means alone
# cannot say how the losses of an arm lay in time.
BEGIN_ROUNDS = 1000.0


class WeightsOptions(PersonalOptions, frozen=True, forbid_unknown_fields=True):
    """The rate is `eta`, or tuned for a `horizon` of so many rounds, or, with neither,
    falls as the rounds go on. `share` is the part of the weight that is spread evenly after
    each round, so that an arm that gets better comes back; the rate then falls for the
    first 1 / share rounds only."""

    eta: float | None = None
    horizon: int | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta is not None and not 1e-9 <= self.eta <= 100:
            raise ValueError("eta must lie between 0.000000001 and 100")
        if self.horizon is not None and not 1 <= self.horizon <= 10**15:
            raise ValueError("horizon must lie between 1 and 10^15")
        if self.eta is not None and self.horizon is not None:
            raise ValueError("give eta or horizon, not both")
        if not 0 <= self.share < 1:
            raise ValueError("share must be at least 0 and below 1")


class Exp3Options(WeightsOptions, frozen=True, forbid_unknown_fields=True):
    """`form` is "loss", whose rate `eta` is, or "gain", which has `gamma` in its place."""

    form: Literal["loss", "gain"] = "loss"
    gamma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("loss", "gain"):
            raise ValueError("form must be loss or gain")
        if self.eta is not None and self.form != "loss":
            raise ValueError("eta belongs to the loss form, the gain form takes gamma")
        if self.gamma is not None and self.form != "gain":
            raise ValueError("gamma belongs to the gain form, the loss form takes eta")
        if self.gamma is not None and not 1e-9 <= self.gamma <= 1:
            raise ValueError("gamma must lie between 0.000000001 and 1")
        if self.gamma is not None and self.horizon is not None:
            raise ValueError("give gamma or horizon, not both")


class ExponentialWeights(SingleChoice):
    """What Exp3 and its relatives share: an arm's weight is exp(-rate * losses).

    The state keeps the estimated losses themselves, so that a rate that changes applies to
    all of them. They are kept less what the arms lost together (the change of the weights'
    sum), which changes no probability; so an arm that was away is where it was among the
    others when it returns, and one that is new starts at the mean weight.

    The importance weight is by the propensity that was logged with the choice, however
    late the feedback. Only the chosen arm's loss is used, also where more are known.
    """

    Options = WeightsOptions
    options: WeightsOptions

    def init(self) -> State:
        return {"losses": {}, "rounds": 0.0}

    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        count = len(arms)
        if count == 1:
            return [1.0]
        rate = self.rate(count, state["rounds"])
        losses = settle([state["losses"].get(arm) for arm in arms], rate)
        if "population" in state:
            theirs = settle([state["population"].get(arm) for arm in arms], rate)
            best, prior = min(theirs), self.options.prior
            losses = [
                mine + min(loss - best, prior)
                for mine, loss in zip(losses, theirs, strict=True)
            ]
        least = min(losses)
        weights = [exp(rate * (least - loss)) for loss in losses]
        even = self.mixture(count, state["rounds"])
        scale = (1.0 - even) / sum(weights)
        even /= count
        return [scale * weight + even for weight in weights]

    def observe(self, state: State, seen: Observation) -> State:
        arm = seen.chosen[0] if len(seen.chosen) == 1 else None
        loss = None if arm is None else known_losses(seen).get(arm, seen.loss)
        if arm is None or loss is None:
            return state
        arms = seen.arms if arm in seen.arms else (*seen.arms, arm)
        if len(arms) == 1:
            return state
        table, rate = state["losses"], self.rate(len(arms), state["rounds"])
        losses = settle([table.get(one) for one in arms], rate)
        middle = mix(losses, rate)  # stays, so that nothing adds up for ever
        propensity = max(seen.propensity, LEAST_PROPENSITY)
        losses[arms.index(arm)] += self.estimate(loss, propensity, rate)
        _, losses = level(losses, rate, self.options.share)
        keep(table, arms, [loss + middle for loss in losses])
        state["rounds"] += 1.0
        return state

    def blend(self, population: State, own: State) -> State:
        """Where the population finds an arm behind the best of those there are, the user's
        own estimate is behind as well, by at most as much as `prior` losses of 1."""
        if not own["rounds"]:
            return population
        return {
            "losses": own["losses"],
            "population": population["losses"],
            "rounds": own["rounds"] + min(population["rounds"], self.options.prior),
        }

    def begin(self, totals: Mapping[Arm, Total]) -> State:
        """As after so many rounds, at most BEGIN_ROUNDS, each with the mean losses."""
        means = {arm: total.mean for arm, total in totals.items()}
        known = {arm: mean for arm, mean in means.items() if mean is not None}
        rounds = min(sum(total.count for total in totals.values()), BEGIN_ROUNDS)
        least = min(known.values(), default=0.0)
        table = {arm: rounds * (mean - least) for arm, mean in known.items()}
        prune(table, ())
        return {"losses": table, "rounds": float(rounds)}

    def rate(self, arms: int, rounds: float) -> float:
        """The learning rate for `arms` (at least 2) after so many rounds."""
        raise NotImplementedError

    def mixture(self, arms: int, rounds: float) -> float:
        """The part of the probability that goes to all arms evenly."""
        return 0.0

    def estimate(self, loss: float, propensity: float, rate: float) -> float:
        """The estimate of the chosen arm's loss; that of every other arm is 0."""
        raise NotImplementedError

    def horizon(self, rounds: float) -> float:
        """The rounds that the rate is for: those that were said, or those until now, or,
        under a share, those that are not forgotten."""
        if self.options.horizon is not None:
            return float(self.options.horizon)
        share = self.options.share
        return min(rounds + 1.0, 1.0 / share) if share else rounds + 1.0


class Exp3(ExponentialWeights):
    """Exp3 in two forms.

    "loss": Lattimore and Szepesvari, "Bandit algorithms", 2020, chapter 11, with estimates
    loss / propensity and no forced exploration; with eta = sqrt(2 ln K / (K T)) the
    expected regret is at most sqrt(2 T K ln K) (theorem 11.2). The default rate has the
    rounds until now for T.

    "gain": Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit
    problem", SIAM J. Comput. 32, 2002, section 3, on rewards 1 - loss, with a part gamma of
    even exploration; with gamma = min(1, sqrt(K ln K / ((e - 1) T))) the expected regret is
    at most 2.63 sqrt(T K ln K) (corollary 3.2). With `share` it is Exp3.S of section 8.
    """

    name = "exp3"
    Options = Exp3Options
    options: Exp3Options

    def rate(self, arms: int, rounds: float) -> float:
        if self.options.form == "gain":
            return self.mixture(arms, rounds) / arms
        if self.options.eta is not None:
            return self.options.eta
        return sqrt(2.0 * log(arms) / (arms * self.horizon(rounds)))

    def mixture(self, arms: int, rounds: float) -> float:
        if self.options.form == "loss":
            return 0.0
        if self.options.gamma is not None:
            return self.options.gamma
        return min(1.0, sqrt(arms * log(arms) / ((e - 1.0) * self.horizon(rounds))))

    def estimate(self, loss: float, propensity: float, rate: float) -> float:
        if self.options.form == "gain":
            return -(1.0 - loss) / propensity
        return loss / propensity


def settle(losses: Sequence[float | None], rate: float) -> list[float]:
    """Losses with those of arms that are new, None, at the mean weight of the others."""
    known = [loss for loss in losses if loss is not None]
    start = mix(known, rate) if len(known) < len(losses) else 0.0
    return [start if loss is None else loss for loss in losses]


def mix(losses: Sequence[float], rate: float) -> float:
    """The loss whose weight is the mean of the weights of these; 0 of none."""
    if not losses:
        return 0.0
    least = min(losses)
    total = sum([exp(rate * (least - loss)) for loss in losses])
    return least - log(total / len(losses)) / rate


def level(losses: Sequence[float], rate: float, share: float) -> tuple[float, list[float]]:
    """The loss of the mean weight, and the losses less this, so that their weights are 1 in
    the mean, after a part `share` of the weights is spread evenly (Herbster and Warmuth,
    "Tracking the best expert", 1998; Exp3.S). `losses` are not empty."""
    least = min(losses)
    weights = [exp(rate * (least - loss)) for loss in losses]
    mean = sum(weights) / len(weights)
    middle = least - log(mean) / rate
    if not share:
        return middle, [loss - middle for loss in losses]
    kept = (1.0 - share) / mean
    return middle, [-log(kept * weight + share) / rate for weight in weights]


def keep(table: dict[Arm, float], arms: Sequence[Arm], losses: Sequence[float]) -> None:
    """Enter losses into the table of all arms, the newest last."""
    if table.keys() != set(arms):
        for arm in arms:
            table.pop(arm, None)
    table.update(zip(arms, losses, strict=True))
    prune(table, arms)
