"""What a policy can be judged on: the part of a log that says something of it.

Where one arm alone could answer, because the application had no other or its policy always
chose the same, nothing can be learned about a choice. Such decisions are left out where
there are others. That follows from the past alone, so the estimates of what is left hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clipper.errors import Conflict
from clipper.selection.logged import LoggedDecision
from clipper.selection.policy import Ensemble, model_of
from clipper.selection.trial import Trial

# A log of more decisions is refused: it is held in memory.
MOST_RECORDS = 1_000_000

# Below this effective sample size an interval means nothing.
LEAST_EFFECTIVE = 30.0

# The share of decisions that may be left out because they do not know the losses of all
# arms while the others do.
MOST_INCOMPLETE = 0.05


class Evidence(NamedTuple):
    """The records to judge by. `exact` says whether it knows the losses of all arms of
    the policy, `one_arm` how many decisions are left out because there was no other
    answer; `hint` is advice where the losses of an arm are often missing."""

    records: list[LoggedDecision]
    exact: bool
    one_arm: int
    hint: str

    @property
    def told(self) -> str:
        """The decisions left out, as a part of a sentence."""
        return _told(self.one_arm)


def _told(one_arm: int) -> str:
    if not one_arm:
        return ""
    return f" ({one_arm} more are left out, because one arm alone could answer)"


def gather(records: Sequence[LoggedDecision], trial: Trial, warm: int) -> Evidence:
    """What a policy can be judged on after `warm` records to learn from. Raises
    InvalidInput for a record that cannot be, Conflict where too little is left."""
    if len(records) > MOST_RECORDS:
        raise Conflict(
            f"the log holds {len(records)} decisions, and at most {MOST_RECORDS} can be"
            " replayed: choose a shorter period"
        )
    for index, record in enumerate(records):
        record.check(f"record {index}")
    policy, arms = trial.policy, trial.arms
    known = [record for record in records if record.decided or record.tells(arms(record))]
    known, one_arm = _apart(known, lambda record: len(record.arms) < 2)
    complete = [record for record in known if record.tells(arms(record))]
    # now and then a member of an ensemble fails or comes too late to be known
    exact = len(complete) >= (1.0 - MOST_INCOMPLETE) * len(known)
    hint = "" if exact else _hint(known, trial)
    if exact:
        known = complete
    elif isinstance(policy, Ensemble):
        raise Conflict(
            f"policy {policy.name} combines the outputs of all models, and the log does not"
            " hold the losses of all: log under an ensemble, with labels as feedback, for a"
            f" while, then replay{hint}"
        )
    else:
        known = [record for record in known if record.decided]
        known, certain = _apart(known, lambda record: record.certain)
        one_arm += certain
    usable = [record for record in known if arms(record)]
    if known and trial.missing:
        raise Conflict(
            f"policy {policy.name} names {min(trial.missing)}, which is nowhere in the"
            " log: replay without it, or let it take part for a while"
        )
    if len(usable) <= warm:
        raise Conflict(
            f"of {len(records)} decisions in the log {len(usable)} can be judged by their"
            f" feedback{_told(one_arm)}, and more than {warm} are needed: send labels or"
            " rewards, or replay a longer period"
        )
    return Evidence(usable, exact, one_arm, hint)


def _hint(known: Sequence[LoggedDecision], trial: Trial) -> str:
    """Where an ensemble wrote the log, which member it seldom heard of."""
    panels = [record for record in known if len(record.losses) > 1]
    missing = Counter(
        str(model_of(arm))
        for record in panels
        for arm in trial.arms(record)
        if arm not in record.losses
    )
    if 2 * len(panels) < len(known) or not missing:
        return ""
    name, times = missing.most_common(1)[0]
    return (
        f"; or leave out {name}, whose loss is unknown in {times / len(known):.0%} of the"
        " log: the option arms names the others"
    )


def _apart(
    records: list[LoggedDecision], alone: Callable[[LoggedDecision], bool]
) -> tuple[list[LoggedDecision], int]:
    """The records without those that are `alone`, and how many these are; all of them
    where the others are too few to judge by."""
    others = [record for record in records if not alone(record)]
    if len(others) < LEAST_EFFECTIVE:
        return records, 0
    return others, len(records) - len(others)
