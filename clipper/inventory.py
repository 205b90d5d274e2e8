"""The applications and models of a server, kept in line with what is registered.

Changes are committed to the store before they take effect in memory; what a query sees
changes between two turns of the loop, never within one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from random import Random

from clipper.application import Application
from clipper.batching.job import Job
from clipper.batching.registry import make_controller
from clipper.cache import PredictionCache
from clipper.catalog import Catalog
from clipper.clock import Clock
from clipper.config import Settings
from clipper.errors import InvalidInput, NotFound
from clipper.feedback import Feedback
from clipper.inputs import parse_input_type
from clipper.learning.service import Learning
from clipper.model import MakeReplicas, Model
from clipper.prepared import Prepared
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, ModelRecord, State
from clipper.selection.policy import SelectionPolicy
from clipper.store.base import Change, Store
from clipper.tasks import to_its_end
from clipper.values import ModelId
from clipper.workers.turns import Turns

logger = logging.getLogger(__name__)


class Inventory:
    """What is registered, and what stands for it in memory."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        cache: PredictionCache[Job],
        rng: Random,
        make_replicas: MakeReplicas | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._cache = cache
        self._rng = rng
        self._make_replicas = make_replicas
        # All mutable state: what is registered, changed by `commit` alone, and what stands
        # for it; versions that are up and wait for their commit, or for the store to be
        # opened; what every application needs, from `begin` on, and whether that was.
        self.catalog = Catalog(State(), settings.limits)
        self.applications: dict[str, Application] = {}
        self.feedback: dict[str, Feedback] = {}
        self.models: dict[ModelId, Model] = {}
        self._incoming: dict[ModelId, Model] = {}
        self.prepared = Prepared(self.make_model)
        self._learning: Learning
        self._ids: QueryIds
        self._begun = False

    def __repr__(self) -> str:
        return (
            f"<Inventory applications={len(self.applications)} models={len(self.models)}>"
        )

    def restore(self, state: State) -> None:
        """Take over what the store holds. Workers that were not prepared come up in the
        background, those of current versions first."""
        _set_unfit_aside(state)
        for found in state.damaged.listed():
            logger.error(
                "%s %s: %s; it stays as it is, all else goes on",
                found["kind"], found["name"], found["reason"],
            )  # fmt: skip
        catalog = self.catalog = Catalog(state, self._settings.limits)
        turns = Turns()
        for record in sorted(
            catalog.models.values(), key=lambda r: not catalog.is_current(r)
        ):
            model = self.prepared.take(record)
            if model is None:
                model = self.make_model(record)
                if record.blob is not None:
                    model.replicas.restore(record.num_replicas, turns)
            model.record = record
            self.models[model.id] = model

    def begin(self, learning: Learning, ids: QueryIds) -> None:
        """Make the applications, whose learners are there by now."""
        self._learning = learning
        self._ids = ids
        self._begun = True
        self.refresh()

    def application(self, name: str) -> Application:
        application = self.applications.get(name)
        if application is None:
            self.catalog.check_application(name)
            raise NotFound(f"No application with name '{name:.100}' exists.")
        return application

    def model(self, name: str, version: str) -> Model:
        model = self.models.get(ModelId(name, version))
        if model is None:
            self.catalog.check_version(name, version)
            raise NotFound(
                f"model with name '{name:.100}' and version '{version:.100}' does not exist"
            )
        return model

    # -- changes ------------------------------------------------------------------------

    async def commit(self, *changes: Change) -> None:
        """Make changes durable, then let queries see them. Once begun this goes on to
        its end, even where the caller is cancelled: memory and disk hold the same."""
        await to_its_end(self._write(changes))

    async def commit_with(self, model: Model, *changes: Change) -> None:
        """The same where a change registers a version that is up already."""
        self._incoming[model.id] = model
        try:
            await self.commit(*changes)
        finally:
            self._incoming.pop(model.id, None)

    async def _write(self, changes: tuple[Change, ...]) -> None:
        await self._store.commit(*changes)
        self.catalog.apply(changes)
        self.refresh()

    def refresh(self) -> None:
        """Bring applications and models in line with the catalog, in one turn."""
        if not self._begun:
            return
        catalog = self.catalog
        for model_record in catalog.models.values():
            model_id = ModelId(model_record.name, model_record.version)
            model = self.models.get(model_id)
            if model is None:
                model = self._incoming.pop(model_id, None) or self.make_model(model_record)
                self.models[model_id] = model
            model.record = model_record
        for model_id in [m for m in self.models if str(m) not in catalog.models]:
            del self.models[model_id]
        for name in [n for n in self.applications if n not in catalog.applications]:
            self.applications.pop(name).close()
            self.feedback.pop(name).close()
        slos: defaultdict[ModelId, list[float]] = defaultdict(list)
        for record in catalog.applications.values():
            application = self.applications.get(record.name) or self._make_application(
                record
            )
            self._connect(application, record)
            for model in application.reachable:
                slos[model.id].append(application.slo)
        for model in self.models.values():
            model.set_objectives(slos.get(model.id, []))

    def _connect(self, application: Application, record: ApplicationRecord) -> None:
        """Give an application the models that its record leads to."""
        candidates = _candidates(application.learner.policy, record)
        found = [self.catalog.arm(name) for name in candidates]
        linked = [r for r in found if r is not None and r.name in record.models]
        current = [self.model(r.name, r.version) for r in linked]
        versions: dict[str, Model] = {}
        if len(record.models) == 1:
            for other in self.catalog.versions(record.models[0]):
                versions[other.version] = self.model(other.name, other.version)
        application.update(record, current, versions)

    # -- what stands for a record -------------------------------------------------------

    def make_model(self, record: ModelRecord) -> Model:
        async def load_blob() -> bytes:
            assert record.blob is not None
            return await self._store.get_blob(record.blob)

        return Model(
            record,
            load_blob,
            self._cache,
            clock=self._clock,
            limits=self._settings.limits,
            on_connection=self._connection_changed,
            make_replicas=self._make_replicas,
        )

    def _connection_changed(self, model: Model) -> None:
        for application in self.applications.values():
            if model in application.reachable:
                application.connection_changed()

    def _make_application(self, record: ApplicationRecord) -> Application:
        application = self.applications[record.name] = Application(
            record,
            self._learning.begin(record),
            self._learning,
            self._ids,
            self._cache,
            clock=self._clock,
            call_later=asyncio.get_running_loop().call_later,
            rng=Random(self._rng.getrandbits(64)),
        )
        self.feedback[record.name] = Feedback(
            application, self._learning, self._ids, self._clock, self.models
        )
        return application


def _candidates(policy: SelectionPolicy, record: ApplicationRecord) -> Sequence[str]:
    """Those that the policy leaves to choose from; all models of the application if it, a
    program's own, fails to say: the record is kept already, and others must be served."""
    try:
        return [*policy.candidates(record.models)]
    except Exception:
        logger.exception("policy %s names no candidates for %s", policy.name, record.name)
        return record.models


def _set_unfit_aside(state: State) -> None:
    """Records that can be read and say what this version does not know are damaged, too."""
    for name, application in list(state.applications.items()):
        try:
            parse_input_type(application.input_type)
        except InvalidInput as error:
            state.damaged.applications[name] = str(error)
            del state.applications[name]
    for key, model in list(state.models.items()):
        try:
            parse_input_type(model.input_type)
            make_controller(model.batching, 1.0)
        except InvalidInput as error:
            state.damaged.models[key] = str(error)
            del state.models[key]
