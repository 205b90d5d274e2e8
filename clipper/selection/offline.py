"""What a policy would have lost on the queries of a log: it is judged before it goes live.

The log is replayed in order. At each decision the policy under test says how probable
each arm is to it, given what it has learned so far, and then learns from the decision's
feedback. So its probabilities follow from the past alone, and the estimates
(clipper.selection.estimators) hold for a policy that learned from this log.

It learns from what was logged: the chosen arm, its loss and the propensity it was chosen
with. That is off-policy learning, and what the policies are made for: importance-weighted
ones divide by the logged propensity, the others average or regress the losses of each
arm, whoever chose it. Live, a policy gathers its experience by its own choices: more of
the arms that it favours, less of the others.

Where a log knows the losses of all arms (labels, and the outputs of all models), nothing
needs to be estimated: the policy draws its own arms, learns from those alone, as it would
live, and its expected loss is known at each query.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import numpy as np

from clipper.errors import Conflict, InvalidInput
from clipper.selection.direct import DirectModel, width_of
from clipper.selection.estimators import Estimate, Ratios, Vector, effective_size, estimate
from clipper.selection.evidence import LEAST_EFFECTIVE, Evidence, gather
from clipper.selection.logged import LoggedDecision
from clipper.selection.losses import Loss, ZeroOne
from clipper.selection.policy import Arm, SelectionPolicy
from clipper.selection.trial import Trial

MOST_RESAMPLES = 100_000

# How much probability the policy may give, on average, to arms that the log says nothing
# of. An estimate is wrong by at most this.
MOST_UNSUPPORTED = 0.01

_EXPLORE = (
    "let a policy that tries all arms answer for a while (epsilon_greedy, or an epsilon"
    " above 0), then replay"
)


_COLUMNS = ("weight", "loss", "policy_cost", "answer_cost", "unsupported")

# What a distribution may miss of 1 by rounding.
_ROUNDING = 1e-9


class Evaluation(msgspec.Struct, frozen=True):
    """Mean losses of one policy over one log, and what they rest on.

    `exact` is there if the losses of all arms are known, the estimates are otherwise.
    `difference` is the policy's loss, exact or by DR, less the logged one, over the same
    resamples: an interval below 0 says that the policy is better. `unsupported` is the
    share of records on which the policy gives probability to arms that could not have been
    chosen, `unsupported_mass` how much it gives them on average.
    """

    policy: str
    records: int  # that were judged
    warm: int  # that were learned from before
    left_out: int  # without feedback, without a decision, or, if it is exact, incomplete
    logged: Estimate | None  # what the answers lost
    one_arm: int = 0  # left out because one arm alone could answer
    exact: Estimate | None = None
    ips: Estimate | None = None
    snips: Estimate | None = None
    dr: Estimate | None = None
    difference: Estimate | None = None
    effective_size: float | None = None
    unsupported: float = 0.0
    unsupported_mass: float = 0.0


def evaluate(
    records: Sequence[LoggedDecision],
    policy: SelectionPolicy,
    *,
    seed: int,
    resamples: int = 1000,
    warm: int = 0,
    least_effective: float = LEAST_EFFECTIVE,
    logged_by: str = "",
    loss: Loss | None = None,
) -> Evaluation:
    """Replay a log, oldest decision first, under `policy`, from its initial state.

    The first `warm` records with feedback are learned from and not judged. Fewer than
    `least_effective` decisions, by their effective sample size, are refused. `logged_by`
    says in a refusal which policy wrote the log. `loss` is the application's, by default
    zero_one: an ensemble combines as it needs.

    Raises InvalidInput for a record or an argument that cannot be, Conflict where the log
    does not support the comparison, with what to do about it.
    """
    if not 1 <= resamples <= MOST_RESAMPLES:
        raise InvalidInput(
            f"resamples must lie between 1 and {MOST_RESAMPLES}, got {resamples}"
        )
    if warm < 0:
        raise InvalidInput(f"warm must not be negative, got {warm}")
    trial = Trial(policy, ZeroOne() if loss is None else loss)
    log = gather(records, trial, warm)
    usable = log.records
    if log.exact:
        terms = _exactly(usable, trial, Random(seed), warm)
        about: dict[str, Any] = {}
    else:
        weighted = _Weighted()
        weighted.replay(usable, trial, warm)
        weighted.refuse(log, warm, policy, logged_by, least_effective)
        terms, about = weighted.terms(), weighted.about()
    estimates: dict[str, Any] = {"logged": None}
    estimates |= estimate(terms, seed=seed, resamples=resamples)
    return Evaluation(
        policy=policy.name,
        records=len(usable) - warm,
        warm=warm,
        left_out=len(records) - len(usable) - log.one_arm,
        one_arm=log.one_arm,
        **estimates,
        **about,
    )


def _features(trial: Trial, record: LoggedDecision) -> Any:
    try:
        return trial.features(record)
    except InvalidInput as error:
        raise Conflict(
            f"the log's contexts do not suit it: {error.cause}; log queries with such a"
            " context for a while, then replay"
        ) from None


def _exactly(
    records: Sequence[LoggedDecision], trial: Trial, rng: Random, warm: int
) -> Ratios:
    """Replay a log that knows all losses."""
    expected = array("d")
    for record in records:
        expected.append(trial.live(record, _features(trial, record), rng))
    mine = np.array(expected)[warm:]
    losses = [record.loss for record in records[warm:]]
    if None in losses:
        return {"exact": (mine, None)}
    logged = np.array(losses, float)
    return {
        "exact": (mine, None),
        "logged": (logged, None),
        "difference": (mine - logged, None),
    }


class _Weighted:
    """The replay of a log that knows the losses of what was chosen."""

    def __init__(self) -> None:
        # All mutable state: for each judged record the weight, the loss, what the direct
        # model expected under the policy and, weighted, of the answer, and how much
        # probability had no support; and how much each arm was given in all.
        self._columns = {name: array("d") for name in _COLUMNS}
        self._given: dict[Arm, float] = {}

    def replay(self, records: Sequence[LoggedDecision], trial: Trial, warm: int) -> None:
        model = DirectModel(width_of(records[0].context))
        for index, record in enumerate(records):
            features = _features(trial, record)
            if index >= warm:
                odds = trial.odds(record, features)
                self._weigh(record, odds, model.predict(list(odds), record.context))
            trial.follow(record, features)
            model.learn(record.known, record.context, record.arms)

    def _weigh(
        self, record: LoggedDecision, given: dict[Arm, float], predicted: list[float]
    ) -> None:
        """Note one record, before anything was learned from it. `given` are the policy's
        probabilities, `predicted` the losses that the direct model has for the same."""
        assert record.loss is not None
        costs = dict(zip(given, predicted, strict=True))
        answer = [arm for arm in record.chosen if arm in given]
        possible = set(record.possible())
        row: tuple[float, ...] = (
            sum(given[arm] for arm in answer) / record.propensity,
            record.loss,
            sum(p * costs[arm] for arm, p in given.items()),
            sum(given[arm] * costs[arm] for arm in answer) / record.propensity,
            sum(p for arm, p in given.items() if arm not in possible),
        )
        for name, value in zip(_COLUMNS, row, strict=True):
            self._columns[name].append(value)
        for arm, p in given.items():
            self._given[arm] = self._given.get(arm, 0.0) + p

    def _column(self, name: str) -> Vector:
        return np.array(self._columns[name])

    def terms(self) -> Ratios:
        weight, loss = self._column("weight"), self._column("loss")
        dr = self._column("policy_cost") + weight * loss - self._column("answer_cost")
        return {
            "logged": (loss, None),
            "ips": (weight * loss, None),
            "snips": (weight * loss, weight),
            "dr": (dr, None),
            "difference": (dr - loss, None),
        }

    def about(self) -> dict[str, Any]:
        unsupported = self._column("unsupported")
        return {
            "effective_size": effective_size(self._column("weight")),
            "unsupported": float((unsupported > _ROUNDING).mean()),
            "unsupported_mass": float(unsupported.mean()),
        }

    def refuse(
        self,
        log: Evidence,
        warm: int,
        policy: SelectionPolicy,
        logged_by: str,
        least: float,
    ) -> None:
        """Raises Conflict where the log cannot say what the policy would have lost."""
        records = log.records[warm:]
        about, n = self.about(), len(records)
        lost = about["unsupported_mass"]
        if lost > MOST_UNSUPPORTED and all(record.propensity >= 1 for record in records):
            writer = f"policy {logged_by}" if logged_by else "a policy"
            raise Conflict(
                f"the log was written by {writer}, which leaves nothing to chance and so"
                f" never tries the other arms that {policy.name} would choose: {_EXPLORE}"
                f"{log.hint}"
            )
        chosen = {arm for record in records for arm in record.chosen}
        never = {arm: p / n for arm, p in self._given.items() if arm not in chosen}
        if sum(never.values()) > MOST_UNSUPPORTED:
            arm = max(sorted(never), key=never.__getitem__)
            raise Conflict(
                f"policy {policy.name} would give {never[arm]:.1%} of the queries to {arm},"
                f" which the log never chose: {_EXPLORE}"
            )
        if lost > MOST_UNSUPPORTED:
            raise Conflict(
                f"policy {policy.name} would give {lost:.1%} of its choices to arms that"
                f" could not be chosen when the log was written: {_EXPLORE}"
            )
        size = about["effective_size"]
        if size < least:
            raise Conflict(
                f"the log's {n} decisions{log.told} count for no more than {size:.1f} of"
                f" policy {policy.name}'s own (effective sample size), and {least:g} are"
                f" needed: replay a longer period, or {_EXPLORE}"
            )
