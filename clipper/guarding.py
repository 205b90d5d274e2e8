"""What a guard looks at: how each arm of an application does, lately enough."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from clipper.metrics import Histogram, time_buckets
from clipper.selection.policy import Arm, Score, SingleChoice, Total, Verdict
from clipper.selection.totals import prune

logger = logging.getLogger(__name__)

# A guard looks again after this many queries.
EVERY = 10

QUANTILE = 0.95


class _Seen:
    __slots__ = ("failures", "latency", "queries")

    def __init__(self) -> None:
        self.queries = self.failures = 0
        self.latency = Histogram(time_buckets())


class Guard:
    """Counts queries by arm, from when its policy was set, and has the policy judge."""

    def __init__(self, policy: SingleChoice) -> None:
        self.policy = policy
        # All mutable state: what was seen of each arm, queries since the last verdict,
        # whether it was told that the policy fails, and arms that are about to be taken
        # out.
        self._seen: dict[Arm, _Seen] = {}
        self._since = 0
        self._failed = False
        self.halting: set[Arm] = set()

    def keep(self, arms: Collection[Arm]) -> None:
        """Forget the oldest arms that are not among these, if they are too many."""
        prune(self._seen, arms)

    def saw(self, arm: Arm, failed: bool, seconds: float) -> bool:
        """One query of an arm is over; true if it is time to judge."""
        seen = self._seen.get(arm)
        if seen is None:
            seen = self._seen[arm] = _Seen()
        seen.queries += 1
        if failed:
            seen.failures += 1
        seen.latency.observe(seconds)
        self._since += 1
        return self._since >= EVERY

    def judge(self, arms: Sequence[Arm], totals: Mapping[Arm, Total]) -> Verdict | None:
        """The policy's verdict on the arms that are there."""
        self._since = 0
        scores = self.scores(arms, totals)
        try:
            return self.policy.judge(scores)
        except Exception:  # a policy of somebody's own; answers go on without it
            if not self._failed:
                self._failed = True
                logger.exception("policy %s failed to judge", self.policy.name)
            return None

    def scores(self, arms: Sequence[Arm], totals: Mapping[Arm, Total]) -> dict[Arm, Score]:
        scores = {}
        for arm in arms:
            seen = self._seen.get(arm) or _Seen()
            scores[arm] = Score(
                seen.queries,
                seen.failures,
                seen.latency.quantile(QUANTILE),
                totals.get(arm, Total(0.0, 0.0)),
            )
        return scores
