"""What feedback means: the losses that a label or a reward tells of the arms.

Of a label each output known has a loss of its own. A reward is for the answer alone, so it
tells of those that gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from clipper.application import Application
from clipper.errors import InvalidInput
from clipper.learning import events
from clipper.learning.chunks import Decision
from clipper.pieces import Item
from clipper.selection.losses import reward_losses, same
from clipper.selection.policy import Arm


def said(item: Item) -> events.Feedback:
    """What the client said, and nothing of what it means."""
    label = None if item.label is UNSET else item.label
    return events.Feedback(losses={}, label=label, reward=item.reward)


class Judge:
    """Makes feedback on one application's answers what its log will hold of it.

    Raises InvalidInput where the label fits none of the outputs.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._learner = application.learner

    def on_decision(
        self, item: Item, decision: Decision, outputs: Mapping[Arm, bytes | str]
    ) -> events.Feedback:
        """Feedback on a query, with the outputs that are known of its arms."""
        event = said(item)
        event.arms, event.chosen = decision.arms, decision.chosen
        event.propensity, event.context = decision.propensity, decision.context
        event.policy = decision.generation
        if item.reward is not None:
            self._reward(event, item.reward, decision, outputs)
            return event
        self._label(event, item.label, outputs)
        event.loss = self._loss_of_answer(item.label, decision)
        if decision.failed and decision.chosen and event.loss is not None:
            event.losses = {decision.chosen[0]: event.loss}
        return event

    def on_input(
        self,
        item: Item,
        arms: tuple[Arm, ...],
        digest: str,
        outputs: Mapping[Arm, bytes | str],
    ) -> events.Feedback:
        """A label for an input on which nothing was decided; `digest` names the input."""
        event = said(item)
        event.arms, event.input = arms, digest
        event.policy = self._learner.generation
        self._label(event, item.label, outputs)
        return event

    def _reward(
        self,
        event: events.Feedback,
        reward: float,
        decision: Decision,
        outputs: Mapping[Arm, bytes | str],
    ) -> None:
        event.loss = 1.0 - reward
        if decision.ensemble and decision.chosen:
            agreeing = self._agreeing(decision, outputs)
            loss = self._application.loss
            event.losses = reward_losses(reward, list(outputs), agreeing, loss)
        elif decision.chosen:
            event.losses = {decision.chosen[0]: event.loss}

    def _agreeing(
        self, decision: Decision, outputs: Mapping[Arm, bytes | str]
    ) -> list[Arm]:
        """The members whose output the answer was, also those who came too late for it."""
        agreeing = list(decision.chosen)
        if decision.answer is not None:
            value = self._application.rendering.value
            answer = value(decision.answer)
            agreeing += [
                arm
                for arm, output in outputs.items()
                if arm not in agreeing and same(value(output), answer)
            ]
        return agreeing

    def _label(
        self, event: events.Feedback, label: Any, outputs: Mapping[Arm, bytes | str]
    ) -> None:
        """The losses of these outputs under a label."""
        loss, value = self._application.loss, self._application.rendering.value
        values = {arm: value(output) for arm, output in outputs.items()}
        refused: InvalidInput | None = None
        for arm, found in values.items():
            try:
                event.losses[arm] = loss(label, found)
            except InvalidInput as error:
                refused = error
        if refused is not None:
            if not event.losses:
                raise refused  # it is the label that fits nothing
            # the others can be judged, so an output that cannot be is wrong
            event.losses.update(dict.fromkeys(values.keys() - event.losses.keys(), 1.0))
        if self._learner.policy.needs_outputs:
            event.outputs = values

    def _loss_of_answer(self, label: Any, decision: Decision) -> float | None:
        """None where it is not known what the answer was."""
        rendering, loss = self._application.rendering, self._application.loss
        # where the arm failed, its answer was the default output
        answer = rendering.default if decision.failed else decision.answer
        if answer is None:
            return 1.0 if decision.failed else None
        try:
            return loss(label, rendering.value(answer))
        except InvalidInput:  # an answer that this loss cannot judge
            return 1.0
