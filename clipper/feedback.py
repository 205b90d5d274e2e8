"""The feedback path of one application: join, judge, give it to the log, acknowledge.

Feedback is joined with the decision it is about, in which arm and propensity are as they
were logged. It is acknowledged last, after it was learned from.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import partial

import msgspec

from clipper.appending import Appender, FeedbackDone, check_same, refusal_of
from clipper.application import Application
from clipper.clock import Clock
from clipper.errors import (
    ClipperError,
    Conflict,
    InvalidInput,
    NotFound,
    ResendInput,
    StoreError,
    Unavailable,
)
from clipper.evaluation import Evaluation, not_evaluated
from clipper.inputs import Row
from clipper.judging import Judge, said
from clipper.learning.chunks import Decision
from clipper.learning.service import Learning
from clipper.model import Model
from clipper.pieces import Item
from clipper.query_id import QueryIds, QueryToken
from clipper.selection.policy import Arm, generation_of, make_arm
from clipper.store.base import Logged
from clipper.values import ModelId, Output, RowError

logger = logging.getLogger(__name__)

CLOSED = "the server stops or another is taking over; send the feedback again in a moment"


class Feedback:
    """Takes feedback for one application."""

    def __init__(
        self,
        application: Application,
        learning: Learning,
        ids: QueryIds,
        clock: Clock,
        deployed: Mapping[ModelId, Model],
    ) -> None:
        self._application = application
        self._learner = application.learner
        self._judge = Judge(application)
        self._learning = learning
        self._decisions = learning.decisions
        self._ids = ids
        self._clock = clock
        self._deployed = deployed  # of all models, with those the application has left
        appender = Appender(application, learning, clock)
        self._append = appender.append
        self.close = appender.close

    def take(self, item: Item, done: FeedbackDone) -> None:
        """Take one item. `done` is told once, perhaps before this returns, and not if this
        raises the ClipperError of an item that cannot be taken."""
        try:
            self._take(item, partial(self._tell, done))
        except ClipperError as error:
            self._application.stats.refused[error.code] += 1
            raise

    def _tell(
        self, done: FeedbackDone, duplicate: bool, error: ClipperError | None
    ) -> None:
        stats = self._application.stats
        if isinstance(error, StoreError) and self._learning.closed:
            error = Unavailable(CLOSED)  # which clients send again
        elif isinstance(error, StoreError):  # whose sentence names files of the server
            logger.error("feedback of %s is refused: %s", self._application.name, error)
            error = StoreError("the logs cannot be used; the server's own log says why")
        if error is not None:
            stats.refused[error.code] += 1
        elif duplicate:
            stats.duplicates += 1
        try:
            done(duplicate, error)
        except Exception:
            logger.exception("who gave feedback and was told raised")

    def _take(self, item: Item, done: FeedbackDone) -> None:
        if self._learner.missing is not None:
            raise Unavailable(self._learner.missing)
        if item.label is not msgspec.UNSET:
            self._application.loss.check_label(item.label)
        if item.query_id is None:
            self._by_input(item, done)
            return
        token = self._ids.read(item.query_id)
        if token.application != self._application.number:
            raise NotFound("no such query id")
        self._decisions.find(
            token.nonce,
            token.row,
            self._learner.policy.logged
            or token.policy_generation != self._learner.generation,
            partial(self._found, item, token, done),
        )

    # -- on a query ---------------------------------------------------------------------

    def _found(
        self,
        item: Item,
        token: QueryToken,
        done: FeedbackDone,
        found: Decision | Output | None,
        error: ClipperError | None,
    ) -> None:
        try:
            if error is not None:
                raise error
            if found is None:
                self._lost(item, token, done)
            elif isinstance(found, Decision):
                self._join(item, token, found, done)
            else:
                decision = self._decision_of(token, found)
                decision.uid = item.uid
                self._join(item, token, decision, done)
        except ResendInput as lost:
            self._unless_known(item, token, lost, done)
        except Exception as failed:
            done(False, refusal_of(failed))

    def _unless_known(
        self, item: Item, token: QueryToken, lost: ResendInput, done: FeedbackDone
    ) -> None:
        """Ask for the input, unless the log has this feedback already."""

        def found(logged: Logged | None, error: ClipperError | None) -> None:
            if logged is None:
                done(False, error or lost)
                return
            try:
                check_same(said(item), logged)
            except Exception as failed:
                done(False, refusal_of(failed))
            else:
                done(True, None)

        self._learning.look_up(self._application.number, _key(token), found)

    def _decision_of(self, token: QueryToken, output: Output | None) -> Decision:
        """A decision of which the id says all but the output. The chosen arm may have left
        since."""
        arms = tuple(self._application.arms)
        chosen: tuple[Arm, ...] = ()
        if token.arm:
            chosen = (self._arm(token.arm),)
            arms = arms if chosen[0] in arms else (*arms, chosen[0])
        decision = Decision(
            self._application.number, token.policy_generation, arms, (), not token.arm,
            chosen, token.propensity, None, None, {}, None, isinstance(output, RowError),
        )  # fmt: skip
        if output is not None and not isinstance(output, RowError):
            decision.answer = output
            decision.outputs = dict.fromkeys(chosen, output)
        return decision

    def _join(
        self, item: Item, token: QueryToken, decision: Decision, done: FeedbackDone
    ) -> None:
        if item.uid is not None and item.uid != decision.uid:
            raise InvalidInput("$.uid is not that of the query")
        kept = decision.failed or decision.answer is not None
        if not kept and item.label is not msgspec.UNSET:
            # the output was too large to be kept
            if item.row is None:
                raise _resend("its output was too large to be kept")
            models = self._models(decision.chosen)
            self._evaluate(item, item.row, models, token, decision, done)
            return
        event = self._judge.on_decision(item, decision, decision.outputs)
        self._append(_key(token), decision.uid, event, token.issued, done)

    def _lost(self, item: Item, token: QueryToken, done: FeedbackDone) -> None:
        """All that is left of the decision is what its id says."""
        if not token.propensity or (item.reward is not None and not token.arm):
            # nobody was chosen, or nobody knows who agreed: there is nothing to learn
            self._append(_key(token), item.uid, said(item), token.issued, done)
            return
        decision = self._decision_of(token, None)
        decision.uid = item.uid
        if self._asks(item):
            decision.context = self._application.roster.chooser.features(item.context)
        models: Mapping[Arm, Model] = self._application.arms
        if token.arm:
            models = {} if item.reward is not None else self._models(decision.chosen)
        if token.arm and item.reward is not None:
            event = self._judge.on_decision(item, decision, {})
            self._append(_key(token), item.uid, event, token.issued, done)
        elif item.row is None:
            raise _resend("the decision behind this query id was lost")
        else:
            self._evaluate(item, item.row, models, token, decision, done)

    def _asks(self, item: Item) -> bool:
        """Whether the policy learns from the context; it must have come again then."""
        if self._learner.policy.contextual and item.context is None:
            raise _resend("the decision behind this query id was lost")
        return self._learner.policy.contextual

    def _evaluate(
        self,
        item: Item,
        row: Row,
        models: Mapping[Arm, Model],
        token: QueryToken,
        decision: Decision,
        done: FeedbackDone,
    ) -> None:
        def evaluated(outputs: dict[Arm, bytes | str], failure: RowError | None) -> None:
            try:
                if not outputs:
                    raise not_evaluated(failure)
                if decision.chosen and decision.answer is None:
                    decision.answer = outputs.get(decision.chosen[0])
                event = self._judge.on_decision(item, decision, outputs)
                self._append(_key(token), decision.uid, event, token.issued, done)
            except Exception as failed:
                done(False, refusal_of(failed))

        Evaluation(self._application, row, models, self._clock.now(), evaluated)

    # -- on an input --------------------------------------------------------------------

    def _by_input(self, item: Item, done: FeedbackDone) -> None:
        policy = self._learner.policy
        if item.row is None or item.label is msgspec.UNSET:
            raise InvalidInput(
                "Expected $.query_id, or $.input with $.label (a reward needs a query_id)"
            )
        if not policy.full_information:
            raise InvalidInput(
                f"policy {policy.name} learns from its own decisions alone: "
                "give $.query_id instead of $.input"
            )
        arms = self._application.arms
        if not arms:
            raise Unavailable("the application has no models to learn about")
        row, taken = item.row, self._clock.wall()
        digest = hashlib.blake2b(row.payload, digest_size=16).hexdigest()

        def evaluated(outputs: dict[Arm, bytes | str], failure: RowError | None) -> None:
            try:
                if not outputs:
                    raise not_evaluated(failure)
                event = self._judge.on_input(item, tuple(arms), digest, outputs)
                key = None if item.feedback_id is None else f"f:{item.feedback_id}"
                self._append(key, item.uid, event, taken, done)
            except Exception as failed:
                done(False, refusal_of(failed))

        Evaluation(self._application, row, arms, self._clock.now(), evaluated)

    def _arm(self, generation: int) -> Arm:
        for arm in self._application.arms:
            if generation_of(arm) == generation:
                return arm
        for model in self._deployed.values():
            if model.record.generation == generation:
                return make_arm(model.id, generation)
        return make_arm(ModelId("deleted", ""), generation)

    def _models(self, arms: tuple[Arm, ...]) -> dict[Arm, Model]:
        """The models of these arms, which must be there to be evaluated."""
        by_generation = {m.record.generation: m for m in self._deployed.values()}
        found = {arm: by_generation.get(generation_of(arm)) for arm in arms}
        models = {arm: model for arm, model in found.items() if model is not None}
        if len(models) < len(arms):
            raise Conflict("the model version that answered is not deployed any more")
        return models


def _key(token: QueryToken) -> str:
    return f"{token.nonce:x}.{token.row:x}"


def _resend(why: str) -> ResendInput:
    return ResendInput(f"{why}; send the feedback again with the query's input and context")
