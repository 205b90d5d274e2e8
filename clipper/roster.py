"""Who may answer an application's queries, and the decision for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from clipper.choosing import Choice, Chooser
from clipper.errors import InvalidInput
from clipper.learning.learner import Learner
from clipper.model import Model
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord
from clipper.selection.policy import Arm, Subject, make_arm


class Roster:
    """The candidates of an application by arm, and the versions of its single model.

    `standing` is the choice that every query gets where the policy always decides the
    same, and None where it has to be asked. `nobody` is the choice without any model.
    """

    def __init__(
        self, record: ApplicationRecord, learner: Learner, ids: QueryIds, rng: Random
    ) -> None:
        self._learner = learner
        self._ids = ids
        self.chooser = Chooser(learner, ids, rng)
        # All mutable state beside the chooser's: the record; the models that answer, by
        # arm, in order, and the versions of a single one by name; both choices above.
        self._record = record
        self.models: dict[Arm, Model] = {}
        self._versions: dict[str, Model] = {}
        self.nobody = self._choice_of_nobody()
        self.standing: Choice | None = self.nobody

    @property
    def reachable(self) -> set[Model]:
        """Every version that a query may reach: candidates, and versions by name."""
        return {*self.models.values(), *self._versions.values()}

    def update(
        self,
        record: ApplicationRecord,
        candidates: Sequence[Model],
        versions: Mapping[str, Model],
        now: float,
    ) -> None:
        """Take the models that a record leads to."""
        self._record = record
        self.models = {arm_of(model): model for model in candidates}
        self._versions = dict(versions)
        self.chooser.set_arms(self.models)
        self._settle(now)

    def renew(self, now: float) -> None:
        """Models, their connections or the policy are not what they were."""
        self.chooser.forget()
        self._settle(now)

    def _settle(self, now: float) -> None:
        self.nobody = self._choice_of_nobody()
        self.standing = None
        if not self.models:
            self.standing = self.nobody
        elif self.chooser.fixed:
            self.standing = self.chooser.choose(Subject(), now)

    def choose(self, subject: Subject, version: str | None, now: float) -> Choice:
        """The decision for one query. Raises InvalidInput for a version that is not there
        and for a context that the policy cannot use."""
        if version is not None:
            return self.name(version)
        return self.standing or self.chooser.choose(subject, now)

    def name(self, version: str) -> Choice:
        """The decision of somebody who named a version."""
        model = self._version(version)
        arm, generation = arm_of(model), self._learner.generation
        stamp = self._ids.stamp(
            self._record.number, generation, model.record.generation, 1.0
        )
        return Choice((arm,), (model,), [1.0], 0, 1.0, generation, stamp)

    def _version(self, version: str) -> Model:
        linked = self._record.models
        if len(linked) > 1:
            raise InvalidInput(
                f"version needs an application with one linked model; {self._record.name} "
                f"has {len(linked)}"
            )
        model = self._versions.get(version)
        if model is None:
            raise InvalidInput(
                f"Requested version: {version} does not exist for model: "
                f"{(linked or ['(none linked)'])[0]}"
            )
        return model

    def _choice_of_nobody(self) -> Choice:
        generation = self._learner.generation
        stamp = self._ids.stamp(self._record.number, generation, 0, 0.0)
        return Choice((), (), [], None, 0.0, generation, stamp)


def arm_of(model: Model) -> Arm:
    return make_arm(model.id, model.record.generation)
