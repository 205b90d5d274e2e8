"""Policies judged on an application's own log: what they would have lost.

The log is what `GET /admin/feedback/{app}` exports: feedback, and the decisions it is on,
which know how probable every arm was and what the members of an ensemble said. Nothing
here needs a server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from clipper.errors import ClipperError, InvalidInput
from clipper.learning.events import Feedback
from clipper.records import PolicySettings
from clipper.selection.evidence import MOST_RECORDS
from clipper.selection.logged import LoggedDecision
from clipper.selection.losses import make_loss
from clipper.selection.offline import Evaluation, evaluate
from clipper.selection.policy import Arm
from clipper.selection.registry import make_policy

SEED = 1


class Verdict(msgspec.Struct):
    """What came of one policy: its evaluation, or why the log cannot say."""

    policy: str
    options: dict[str, Any]
    evaluation: Evaluation | None = None
    refused: str | None = None


class _Decision(msgspec.Struct):
    """What replay needs of a line of the log of decisions."""

    key: str
    ensemble: bool
    odds: tuple[float, ...]
    at: float = 0.0  # when it was written, soon after the decision
    outputs: dict[Arm, Any] = {}


class _Line(msgspec.Struct):
    """What is not in the entry itself."""

    key: str | None = None
    uid: str | None = None
    at: float = 0.0


class Recording:
    """A log in memory, at most MOST_RECORDS pieces of feedback of it: the newest.

    Of what was decided at `after` or later, and earlier than `before` (in seconds since the
    epoch). Feedback without a decision counts by when it came.
    """

    def __init__(self, after: float = -math.inf, before: float = math.inf) -> None:
        self._after = after
        self._before = before
        # All mutable state: decisions by key, until their feedback comes, and records.
        self._decisions: dict[str, _Decision] = {}
        self.records: list[LoggedDecision] = []

    def __len__(self) -> int:
        return len(self.records)

    def add_decision(self, line: Mapping[str, Any]) -> None:
        """A line of the log of decisions. All of them come before the feedback."""
        decision = _convert(line, _Decision)
        if decision.at < self._after:
            return
        if len(self._decisions) < 4 * MOST_RECORDS:
            self._decisions[decision.key] = decision

    def add_feedback(self, line: Mapping[str, Any]) -> None:
        """A line of the feedback log; kinds other than feedback are passed over."""
        if line.get("kind") != "feedback":
            return
        about, said = _convert(line, _Line), _convert(line, Feedback)
        if not self._after <= (said.decided or about.at) < self._before:
            return
        decision = self._decisions.pop(about.key, None) if about.key else None
        self.records.append(_record(about.uid, said, decision))
        if len(self.records) > MOST_RECORDS + MOST_RECORDS // 10:
            del self.records[:-MOST_RECORDS]

    def judge(
        self,
        policies: Sequence[PolicySettings],
        *,
        loss: str = "zero_one",
        logged_by: str = "",
        warm: int = 0,
        resamples: int = 1000,
        seed: int = SEED,
        tell: Callable[[PolicySettings], None] = lambda settings: None,
    ) -> list[Verdict]:
        """Every policy over the whole log, each in its turn; `tell` hears of each before
        it begins. Raises InvalidInput for a policy that there is not; what the log cannot
        support is a verdict too."""
        made = [(settings, make_policy(settings)) for settings in policies]
        found = []
        for settings, policy in made:
            tell(settings)
            verdict = Verdict(settings.name, settings.options)
            try:
                verdict.evaluation = evaluate(
                    self.records[-MOST_RECORDS:],
                    policy,
                    seed=seed,
                    resamples=resamples,
                    warm=warm,
                    logged_by=logged_by,
                    loss=make_loss(loss),
                )
            except ClipperError as error:
                verdict.refused = error.cause
            found.append(verdict)
        return found


def _record(uid: str | None, said: Feedback, decision: _Decision | None) -> LoggedDecision:
    odds, outputs = None, said.outputs
    if decision is not None:
        if not decision.ensemble and len(decision.odds) == len(said.arms):
            odds = decision.odds
        outputs = outputs or decision.outputs or None
    return LoggedDecision(
        arms=said.arms,
        chosen=said.chosen,
        propensity=said.propensity,
        loss=said.loss,
        uid=uid,
        context=said.context,
        odds=odds,
        losses=said.losses,
        outputs=outputs,
        label=said.label,
    )


def _convert(line: Mapping[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(line, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"a line of the log makes no sense: {error}") from None


def best(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The policy of which the log says that it is better than what answered, the one by
    most; None if it says so of none."""
    better = [
        (verdict.evaluation.difference.mean, verdict)
        for verdict in verdicts
        if verdict.evaluation is not None
        and verdict.evaluation.difference is not None
        and verdict.evaluation.difference.high < 0
    ]
    return min(better, key=lambda pair: pair[0])[1] if better else None
