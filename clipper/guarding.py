"""What a guard looks at: how each arm of an application does, lately enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipper.metrics import Histogram, time_buckets
from clipper.selection.policy import Arm, Score, SingleChoice, Total, Verdict

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
        # All mutable state.
        self._seen: dict[Arm, _Seen] = {}
        self._since = 0

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
        return self.policy.judge(self.scores(arms, totals))

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
