"""Hedge with fixed share: the weights of an ensemble follow its members' losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from typing import ClassVar

from clipper.selection import policy
from clipper.selection.combine import check_choice
from clipper.selection.crowd import Crowd, Prior, posterior
from clipper.selection.exp3 import WeightsOptions, keep, level, mix, settle
from clipper.selection.policy import Arm, Ensemble, Observation, State, Total
from clipper.selection.totals import prune

ETA = 0.2

# Another policy's experience counts for at most so many rounds to begin with: means alone
# cannot say how the losses of an arm lay in time.
BEGIN_ROUNDS = 100.0

# A user of fewer rounds is a new one.
FEW = 8.0


class HedgeOptions(WeightsOptions, frozen=True, forbid_unknown_fields=True):
    """The rate is `eta`, or tuned for a `horizon` of so many rounds, or, with neither,
    ETA. `share` is the part of the weight that is spread evenly after each round, so that a
    member that gets better comes back. `combine` is "vote", "mean", "median", or "auto",
    which is what suits the application's loss."""

    share: float = 1e-3
    combine: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.combine)


class Hedge(Ensemble):
    """Hedge (Freund and Schapire 1997), the exponentially weighted forecaster of
    Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006, chapter 2: a weight is
    exp(-eta * losses). With eta = sqrt(8 ln N / T) and no share the regret after T rounds
    is at most sqrt(T ln N / 2), whatever the losses (theorem 2.2). With a share it is the
    fixed share of Herbster and Warmuth, "Tracking the best expert", 1998.

    Members whose loss is unknown keep their weight: the others share out theirs among
    themselves, as specialists do (Freund, Schapire, Singer and Warmuth, "Using and
    combining predictors that specialize", 1997). A member is then judged by the rounds in
    which its loss is known: over those, the weighted mean loss of the members that are
    known exceeds its own by at most ln N / eta, and eta / 8 for each round.

    A reward for the answer teaches only where it tells members apart, that is, where the
    answer was right and others gave another one; `exp4` learns from any.

    The state keeps losses, not weights, so that another rate applies to all of them; less
    what the members lost together, so that one that was away is where it was among the
    others when it returns, and a new one starts at the mean weight. Beside it keeps what a
    user's prior is made of: count and sum of each arm's losses, forgotten at the rate at
    which the share forgets.
    """

    name = "hedge"
    Options: ClassVar[type[policy.Options]] = HedgeOptions
    options: HedgeOptions

    def init(self) -> State:
        return {"losses": {}, "totals": {}}

    def weights(self, state: State, arms: Sequence[Arm]) -> Sequence[float]:
        rate = self.rate(len(arms))
        losses = settle([state["losses"].get(arm) for arm in arms], rate)
        least = min(losses)
        weights = [exp(rate * (least - loss)) for loss in losses]
        total = sum(weights)
        return [weight / total for weight in weights]

    def observe(self, state: State, seen: Observation) -> State:
        arms, told, table = seen.arms, seen.losses, state["losses"]
        known = [i for i, arm in enumerate(arms) if arm in told]
        if not known:
            return state
        rate = self.rate(len(arms))
        losses = settle([table.get(arm) for arm in arms], rate)
        common = 0.0
        if len(known) < len(arms) or table.keys() != set(arms):
            # what is lost together is no reason to move others; where there are no others
            # it changes no weight
            before = [losses[i] for i in known]
            after = [losses[i] + told[arms[i]] for i in known]
            common = mix(after, rate) - mix(before, rate)
        for i in known:
            losses[i] += told[arms[i]] - common
        # all are moved alike, so that the mean weight of those there are is 1: else
        # rounding would add up for ever
        middle, losses = level(losses, rate, self.options.share)
        for arm in table:
            table[arm] -= middle
        keep(table, arms, losses)
        self._count(state["totals"], seen)
        return state

    def _count(self, totals: dict[Arm, list[float]], seen: Observation) -> None:
        keep = 1.0 - self.options.share
        for arm in seen.arms:
            if arm in seen.losses:
                count, loss = totals.pop(arm, (0.0, 0.0))
                totals[arm] = [keep * count + 1.0, keep * loss + seen.losses[arm]]
        prune(totals, seen.arms)

    def blend(self, population: State, own: State) -> State:
        """The user's own losses over the prior that the users' crowd made, if it said that
        they differ; if it said that they do not, a user is one of the population. Before
        it has said anything: the user's own losses, and of each arm up to `prior` losses
        at the population's mean; the rate is the one for so few rounds, sqrt(8 ln N / n)
        (section 2.3), as long as it is above the policy's. A user without evidence is one
        of the population."""
        prior: float = self.options.prior
        if not own["totals"]:
            return population if prior else own
        learned = self.prior_of(population)
        if prior and learned is not None:
            return self.blend_by(own, learned) if learned.rate else population
        arms = list(own["losses"] | population["losses"])
        rate = self.rate(len(arms))
        losses = settle([own["losses"].get(arm) for arm in arms], rate)
        means, counts = _means(population["totals"]), population["totals"]
        typical = sum(means.values()) / len(means) if means else 0.0
        rounds = max(count for count, _ in own["totals"].values())
        rounds += min(prior, max((count for count, _ in counts.values()), default=0.0))
        raised = max(1.0, sqrt(8.0 * log(max(len(arms), 2)) / rounds) / rate)
        for i, arm in enumerate(arms):
            if arm in means:
                # an arm of which nothing is known counts as a typical one
                losses[i] += min(prior, counts[arm][0]) * (means[arm] - typical)
            losses[i] *= raised
        return {"losses": dict(zip(arms, losses, strict=True)), "totals": own["totals"]}

    def make_crowd(self) -> Crowd | None:
        return Crowd(self) if self.options.personal and self.options.prior else None

    def with_prior(self, state: State, prior: Prior) -> State:
        state["prior"] = [prior.rate, dict(prior.weights)]
        return state

    def prior_of(self, state: State) -> Prior | None:
        return Prior(*state["prior"]) if "prior" in state else None

    def has_evidence(self, own: State) -> bool:
        return bool(own["totals"])

    def blend_by(self, own: State, prior: Prior) -> State:
        """A user's own losses over a prior. The rate is the prior's for the first FEW
        rounds and falls with their square root after them, as long as it is above the
        policy's: who is known well is followed as everybody is."""
        arms = list(own["losses"] | prior.weights)
        rate = self.rate(len(arms))
        losses = settle([own["losses"].get(arm) for arm in arms], rate)
        rounds = max((count for count, _ in own["totals"].values()), default=1.0)
        own_rate = max(rate, prior.rate * min(1.0, sqrt(FEW / rounds)))
        scaled = posterior(losses, own_rate, prior.weights, arms)
        losses = [value / rate for value in scaled]
        return {"losses": dict(zip(arms, losses, strict=True)), "totals": own["totals"]}

    def begin(self, totals: Mapping[Arm, Total]) -> State:
        """As after so many rounds, at most BEGIN_ROUNDS, in which arms lost their means."""
        known = {arm: [*total] for arm, total in totals.items() if total.count}
        prune(known, ())
        means = _means(known)
        if not means:
            return self.init()
        arms, rate = list(means), self.rate(len(means))
        rounds = min(max(count for count, _ in known.values()), BEGIN_ROUNDS)
        losses = [rounds * means[arm] for arm in arms]
        _, losses = level(losses, rate, self.options.share)
        kept = {
            arm: [min(count, BEGIN_ROUNDS), min(count, BEGIN_ROUNDS) * means[arm]]
            for arm, (count, _) in known.items()
        }
        return {"losses": dict(zip(arms, losses, strict=True)), "totals": kept}

    def rate(self, members: int) -> float:
        """The learning rate for so many members."""
        horizon = self.options.horizon
        if horizon is not None:
            return sqrt(8.0 * log(max(members, 2)) / horizon)
        return ETA if self.options.eta is None else self.options.eta


def _means(totals: Mapping[Arm, Sequence[float]]) -> dict[Arm, float]:
    return {arm: loss / count for arm, (count, loss) in totals.items() if count}
