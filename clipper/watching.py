"""What is seen of an application's arms at work, and what follows from it.

A policy may guard its arms: each query counts for the arm that was chosen, and one that
does badly is taken out. Or it has shadows: what they say is compared with the answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from clipper.choosing import Choice
from clipper.guarding import Guard
from clipper.learning.learner import Learner
from clipper.learning.service import Learning
from clipper.selection.policy import Arm, Score, SelectionPolicy, SingleChoice
from clipper.selection.totals import prune
from clipper.shadowing import Comparison
from clipper.values import Output, RowError

logger = logging.getLogger(__name__)


class Watch:
    """Watches the arms of one application, from when its policy was set.

    `guard` is None where the policy guards nothing. `comparisons` has those shadows that
    were asked since, and of the present candidates no others.
    """

    def __init__(
        self, name: str, learner: Learner, learning: Learning, halted: Callable[[], None]
    ) -> None:
        """`halted` is told once an arm is out."""
        self._name = name
        self._learner = learner
        self._learning = learning
        self._halted = halted
        # All mutable state: the policy it is for, the candidates, which of them are
        # shadows, and the two above. What was seen of former candidates is kept for when
        # they return, within bounds.
        self._policy: SelectionPolicy | None = None
        self._arms: tuple[Arm, ...] = ()
        self._shadows: frozenset[Arm] = frozenset()
        self.guard: Guard | None = None
        self.comparisons: dict[Arm, Comparison] = {}

    def follow(self, arms: Collection[Arm], shadows: Collection[Arm]) -> None:
        """Watch these candidates from now on, under the learner's policy; `shadows` are
        those of them that do not answer."""
        policy = self._learner.policy
        if policy is not self._policy:
            self._policy = policy
            self.guard = None
            if isinstance(policy, SingleChoice) and policy.guards:
                self.guard = Guard(policy)
            self.comparisons.clear()
        self._arms = tuple(arms)
        self._shadows = frozenset(shadows)
        for arm in self._arms:
            if arm not in self._shadows:
                self.comparisons.pop(arm, None)
        prune(self.comparisons, self._arms)
        if self.guard is not None:
            self.guard.keep(self._arms)

    def comparison(self, arm: Arm) -> Comparison | None:
        """Where to count what an arm said as a shadow; None if it is none any more."""
        if arm not in self._shadows:
            return None
        return self.comparisons.setdefault(arm, Comparison())

    # -- the guard ----------------------------------------------------------------------

    def saw(self, choice: Choice, outputs: Sequence[Output | None], seconds: float) -> None:
        """Rows for which one arm was chosen are settled, after `seconds`."""
        arm, guard = choice.arm, self.guard
        assert arm is not None and guard is not None
        due = [guard.saw(arm, type(output) is RowError, seconds) for output in outputs]
        if any(due):
            self.judge()

    def judge(self) -> None:
        """Have the guard look at the arms; one that has to go is taken out."""
        guard, learner = self.guard, self._learner
        if guard is None:
            return
        arms = [arm for arm in self._arms if arm not in learner.halted]
        verdict = guard.judge(arms, learner.population.totals)
        if verdict is None or verdict.arm in guard.halting:
            return
        arm = verdict.arm

        def halted() -> None:
            guard.halting.discard(arm)
            self._halted()

        guard.halting.add(arm)
        logger.warning("%s takes %s out: %s", self._name, *verdict)
        self._learning.halt(learner, *verdict, halted)

    def scores(self) -> dict[Arm, Score]:
        """What the guard goes by; empty where nothing is guarded."""
        if self.guard is None:
            return {}
        return self.guard.scores(self._arms, self._learner.population.totals)
