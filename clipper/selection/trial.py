"""A policy under test: what it would choose at each decision of a log, and what it learns
on the way."""

from __future__ import annotations

from collections import OrderedDict
from random import Random
from typing import Any

import msgspec

from clipper.errors import Conflict
from clipper.selection.combine import make_combiner
from clipper.selection.draw import as_logged, draw_once, normalised
from clipper.selection.logged import LoggedDecision
from clipper.selection.losses import Loss
from clipper.selection.policy import (
    Arm,
    Ensemble,
    Observation,
    SelectionPolicy,
    SingleChoice,
    State,
    model_of,
)
from clipper.selection.vote import Combiner, Sample, Vote

# Users that are told apart at a time; of more, those seen last.
MOST_USERS = 100_000


class Trial:
    """One policy from its initial state, with states for users if it is personal."""

    def __init__(self, policy: SelectionPolicy, loss: Loss) -> None:
        self.policy = policy
        self._loss = loss
        self._combiner: Combiner | None = None
        if isinstance(policy, Ensemble):
            self._combiner = make_combiner(policy, loss)
        # All mutable state: what was learned, for all and for each user, seen last at the
        # end; the candidates among the arms of a record, once worked out; and the models
        # that the policy names and no record had so far.
        self._population: State = policy.init()
        self._own: OrderedDict[str, State] = OrderedDict()
        self._arms: dict[tuple[Arm, ...], tuple[Arm, ...]] = {}
        self.missing: set[str] = set()
        self._met: set[str] = set()

    def arms(self, record: LoggedDecision) -> tuple[Arm, ...]:
        """Those of a record's arms that the policy chooses from, in its order."""
        found = self._arms.get(record.arms)
        if found is None:
            found = self._arms[record.arms] = self._among(record.arms)
        return found

    def _among(self, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = {arm: (model_of(arm).name, arm.partition("#")[0]) for arm in arms}
        models = list(dict.fromkeys(name for name, _ in names.values()))
        found: dict[Arm, None] = {}
        for wanted in self.policy.candidates(models):
            matching = [arm for arm in arms if wanted in names[arm]]
            found.update(dict.fromkeys(matching))
            (self._met if matching else self.missing).add(wanted)
        self.missing -= self._met
        return tuple(found)

    def features(self, record: LoggedDecision) -> Any:
        """What the policy makes of the record's context."""
        return self.policy.features(record.context) if self.policy.contextual else None

    def odds(self, record: LoggedDecision, features: Any) -> dict[Arm, float]:
        """How probable each of its arms is to a single choice."""
        assert isinstance(self.policy, SingleChoice)
        arms, state = self.arms(record), self._state(record.uid)
        found = normalised(self.policy.probabilities(state, arms, features))
        return dict(zip(arms, found, strict=True))

    def live(self, record: LoggedDecision, features: Any, rng: Random) -> float:
        """The loss to expect on a record that knows all of them, and learning as after an
        answer of one's own."""
        arms = self.arms(record)
        if self._combiner is not None:
            losses = {arm: record.losses[arm] for arm in arms}
            loss = self._combined(record, arms, rng)
            self._learn(record, Observation(arms, losses, context=features))
            return loss
        odds = self.odds(record, features)
        arm = arms[draw_once(list(odds.values()), rng.random())]
        loss = record.losses[arm]
        seen = Observation(arms, {arm: loss}, (arm,), as_logged(odds[arm]), loss, features)
        self._learn(record, seen)
        return sum(p * record.losses[other] for other, p in odds.items())

    def _combined(
        self, record: LoggedDecision, arms: tuple[Arm, ...], rng: Random
    ) -> float:
        """The loss of an ensemble's answer."""
        policy, combiner = self.policy, self._combiner
        assert isinstance(policy, Ensemble) and combiner is not None
        taken = isinstance(combiner, Vote | Sample)  # as some member gave it
        outputs = record.outputs or {}
        labelled = taken or record.label is not None
        if not labelled or any(arm not in outputs for arm in arms):
            raise Conflict(
                f"policy {policy.name} combines the outputs of all models, and the log does"
                f" not hold {'them all' if taken else 'them all with their labels'}: log"
                " under an ensemble for a while, then replay"
            )
        texts = [msgspec.json.encode(outputs[arm]) for arm in arms]
        weights = policy.weights(self._state(record.uid), arms)
        answer = combiner.combine(texts, weights, rng)
        if taken:
            return record.losses[arms[answer.agreeing[0]]]
        return self._loss(record.label, msgspec.json.decode(answer.output))

    def follow(self, record: LoggedDecision, features: Any) -> None:
        """Learn from what was chosen and logged."""
        seen = Observation(
            self.arms(record),
            record.known,
            record.chosen,
            record.propensity,
            record.loss,
            features,
        )
        self._learn(record, seen)

    def _state(self, uid: str | None) -> State:
        own = self._own.get(uid) if uid is not None else None
        return self._population if own is None else self.policy.blend(self._population, own)

    def _learn(self, record: LoggedDecision, seen: Observation) -> None:
        policy, uid = self.policy, record.uid
        if not policy.learns:
            return
        if policy.needs_outputs:
            seen = seen._replace(outputs=record.outputs, label=record.label)
        self._population = policy.observe(self._population, seen)
        if uid is None or not policy.personal:
            return
        own = self._own.pop(uid, None)
        self._own[uid] = policy.observe(policy.init() if own is None else own, seen)
        if len(self._own) > MOST_USERS:
            self._own.popitem(last=False)
