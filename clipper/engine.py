"""Owns every application, model and task: register, deploy, roll out, roll back, drain.

Changes are committed to the store before they take effect in memory and before they are
acknowledged; what a query sees changes between two turns of the loop, never within one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from clipper.application import Application
from clipper.batching.queue import Job
from clipper.batching.registry import make_controller
from clipper.cache import PredictionCache
from clipper.clock import Clock, SystemClock
from clipper.config import Settings
from clipper.errors import ClipperError, Conflict, InvalidInput, NotFound, TooManyRequests
from clipper.inputs import encode_json_value, parse_input_type
from clipper.model import Model
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings, State
from clipper.registration import check_application, check_model
from clipper.store.base import (
    Change,
    DeleteApplication,
    DeleteModel,
    PutApplication,
    PutModel,
    SetCurrent,
    Store,
)
from clipper.values import ModelId

logger = logging.getLogger(__name__)

Progress = Callable[[str, dict[str, Any]], None]

# Earlier current versions that rollback can go back through.
HISTORY = 20
# Cache entries of a deleted version that are dropped per turn of the loop.
PURGE_SLICE = 2000


class Engine:
    """The whole server but its sockets."""

    def __init__(
        self, settings: Settings, store: Store, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.cache: PredictionCache[Job] = PredictionCache(settings.cache_bytes)
        # All mutable state: the stored records, what stands for them in memory, one lock
        # per model name, deploys under way, and background tasks.
        self.state = State()
        self.applications: dict[str, Application] = {}
        self.models: dict[ModelId, Model] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._deploys = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        self.ids: QueryIds
        self.token = ""

    def __repr__(self) -> str:
        return f"<Engine applications={len(self.applications)} models={len(self.models)}>"

    # -- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store and bring back what it holds; workers come up in the
        background, those of current versions first."""
        self.state = await self.store.open()
        self.ids = QueryIds(await self.store.secret("query-key"), self.clock)
        self.token = (await self.store.secret("admin-token")).hex()
        records = sorted(
            self.state.models.values(), key=lambda record: not self._leads(record)
        )
        for record in records:
            model = self._make_model(record)
            self.models[model.id] = model
            if record.blob is not None:
                model.replicas.restore(record.num_replicas)
        for application in self.state.applications.values():
            self._make_application(application)
        self._refresh()
        keep = {record.blob for record in records if record.blob is not None}
        await self.store.delete_blobs(keep)

    async def drain(self, seconds: float) -> None:
        """Take no more, answer what was accepted, stop every worker."""
        self.draining = True
        await asyncio.gather(*(model.stop(seconds) for model in self.models.values()))
        for application in self.applications.values():
            application.close()
        for task in list(self._tasks):
            await task

    async def close(self) -> None:
        await self.store.close()

    @property
    def ready(self) -> bool:
        """True once every restored model answers or has failed for good."""
        return not self.draining and not any(m.starting for m in self.models.values())

    # -- applications -------------------------------------------------------------------

    async def register_application(self, spec: ApplicationRecord) -> ApplicationRecord:
        """Add an application; its number is given here. The models it names need not
        exist yet."""
        spec = check_application(spec)
        if spec.name in self.applications:
            raise Conflict(f"application '{spec.name}' already exists")
        if len(self.applications) >= self.settings.limits.applications:
            raise TooManyRequests(
                f"there are {len(self.applications)} applications, the most allowed"
            )
        for name in spec.models:
            self._check_link(spec, name)
        record = replace(spec, number=self._next_number(), created=self.clock.wall())
        async with self._locks[f"application {spec.name}"]:
            if record.name in self.applications:
                raise Conflict(f"application '{record.name}' already exists")
            await self.store.commit(PutApplication(record))
            self._make_application(record)
            self._refresh()
        return record

    async def delete_application(self, name: str) -> None:
        async with self._locks[f"application {name}"]:
            self.application(name)
            await self.store.commit(DeleteApplication(name))
            self.applications.pop(name).close()
            del self.state.applications[name]
            self._refresh()

    async def link(self, name: str, models: list[str]) -> None:
        """Add candidate models, which must exist, to an application."""
        record = self.application(name).record
        for model in models:
            if not self.versions(model):
                raise NotFound(f"No model with name '{model}' exists.")
            self._check_link(record, model)
            if model in record.models:
                raise Conflict(
                    f"The model with name '{model}' is already linked to '{name}'"
                )
        await self._change_application(
            name, lambda r: replace(r, models=[*r.models, *models])
        )

    async def unlink(self, name: str, models: list[str]) -> None:
        record = self.application(name).record
        for model in models:
            if model not in record.models:
                raise NotFound(
                    f"Cannot remove nonexistent link between app {name} and model {model}"
                )
        await self._change_application(
            name, lambda r: replace(r, models=[m for m in r.models if m not in models])
        )

    async def set_policy(self, name: str, policy: PolicySettings) -> ApplicationRecord:
        """Change how an application chooses among its models."""
        record = check_application(replace(self.application(name).record, policy=policy))
        return await self._change_application(
            name,
            lambda r: replace(
                r, policy=record.policy, policy_generation=r.policy_generation + 1
            ),
        )

    async def _change_application(
        self, name: str, change: Callable[[ApplicationRecord], ApplicationRecord]
    ) -> ApplicationRecord:
        async with self._locks[f"application {name}"]:
            record = change(self.application(name).record)
            await self.store.commit(PutApplication(record))
            self.state.applications[name] = record
            self._refresh()
        return record

    def application(self, name: str) -> Application:
        application = self.applications.get(name)
        if application is None:
            raise NotFound(f"No application with name '{name}' exists.")
        return application

    # -- models -------------------------------------------------------------------------

    async def add_model(self, spec: ModelRecord) -> ModelRecord:
        """Register a version without a function, as the original's clients do. It
        becomes current only where no current version has replicas."""
        spec = self._check_new_model(spec)
        async with self._locks[f"model {spec.name}"]:
            self._check_new_model(spec)
            record = replace(
                spec, generation=self._next_number(), created=self.clock.wall()
            )
            changes: list[Change] = [PutModel(record)]
            current = self._current(record.name)
            if current is None or current.record.blob is None:
                changes.append(self._set_current(record.name, record.version))
            await self._adopt(self._make_model(record), changes)
        return record

    async def deploy(
        self, spec: ModelRecord, blob: bytes, progress: Progress | None = None
    ) -> ModelRecord:
        """Bring a new version up and make it current.

        The version goes live only after all its replicas have loaded it and run the
        example; until then, and if that fails, the old one serves. Raises DeployFailed
        with the worker's own words.
        """
        report = progress or _silent
        if self._deploys >= self.settings.limits.deploys:
            raise TooManyRequests(
                f"{self._deploys} deploys are under way, the most allowed"
            )
        self._deploys += 1
        try:
            async with self._locks[f"model {spec.name}"]:
                return await self._deploy(self._check_new_model(spec), blob, report)
        finally:
            self._deploys -= 1

    async def _deploy(
        self, spec: ModelRecord, blob: bytes, report: Progress
    ) -> ModelRecord:
        self._check_replicas(spec.num_replicas)
        digest = await self.store.put_blob(blob)
        number = self._next_number()
        record = replace(spec, generation=number, blob=digest, created=self.clock.wall())
        model = self._make_model(record)
        try:
            await model.replicas.start(record.num_replicas, report)
            current = self._set_current(record.name, record.version)
            await self._adopt(model, [PutModel(record), current])
        except BaseException:
            await asyncio.shield(self._spawn(model.stop(0.0)))
            raise
        report("live", {"model_name": record.name, "model_version": record.version})
        return record

    async def _adopt(self, model: Model, changes: list[Change]) -> None:
        """Commit a new version, then let queries see it."""
        if self.draining:
            raise Conflict("the server is shutting down")
        await self.store.commit(*changes)
        self.models[model.id] = model
        self.state.models[model.record.key] = model.record
        for change in changes:
            if isinstance(change, SetCurrent):
                self._apply_current(change)
        self._refresh()

    async def set_version(self, name: str, version: str) -> None:
        """Make a deployed version the current one."""
        if not self.versions(name):
            raise NotFound(f"Cannot set version for nonexistent model '{name}'")
        async with self._locks[f"model {name}"]:
            if ModelId(name, version) not in self.models:
                raise NotFound(
                    f"Cannot set non-existent version '{version}' for model with name '{name}'"
                )
            change = self._set_current(name, version)
            await self.store.commit(change)
            self._apply_current(change)
            self._refresh()

    async def rollback(self, name: str) -> str:
        """Go back to the version that was current before; its name."""
        async with self._locks[f"model {name}"]:
            if not self.versions(name):
                raise NotFound(f"no model '{name}' exists")
            history = list(self.state.previous.get(name, []))
            while history and ModelId(name, history[-1]) not in self.models:
                history.pop()
            if not history:
                raise Conflict(f"model '{name}' has no earlier version to go back to")
            version = history.pop()
            change = SetCurrent(name, version, history)
            await self.store.commit(change)
            self._apply_current(change)
            self._refresh()
        return version

    async def delete_model(self, name: str, version: str) -> None:
        """Take a version out of service and forget it. If it was current, the model has
        no current version until one is set or deployed."""
        async with self._locks[f"model {name}"]:
            model = self.model(name, version)
            changes: list[Change] = [DeleteModel(name, version)]
            if self.state.current.get(name) == version:
                changes.append(SetCurrent(name, None, self.state.previous.get(name, [])))
            await self.store.commit(*changes)
            del self.models[model.id]
            del self.state.models[model.record.key]
            for change in changes:
                if isinstance(change, SetCurrent):
                    self._apply_current(change)
            self._refresh()
        self._spawn(self._retire(model))

    async def scale(self, name: str, version: str | None, replicas: int) -> ModelRecord:
        """Change the number of replicas of a version, by default the current one."""
        if version is None:
            version = self.state.current.get(name)
            if version is None:
                raise NotFound(f"model '{name}' has no current version")
        if replicas < 0:
            raise InvalidInput("num_replicas must not be negative")
        async with self._locks[f"model {name}"]:
            model = self.model(name, version)
            if model.record.blob is None:
                raise Conflict(
                    f"Cannot resize the replica set for containerless model {model.id}"
                )
            self._check_replicas(replicas - model.record.num_replicas)
            await model.replicas.scale(replicas)
            record = replace(model.record, num_replicas=replicas)
            await self.store.commit(PutModel(record))
            model.record = self.state.models[record.key] = record
        return record

    def model(self, name: str, version: str) -> Model:
        model = self.models.get(ModelId(name, version))
        if model is None:
            raise NotFound(
                f"model with name '{name}' and version '{version}' does not exist"
            )
        return model

    def versions(self, name: str) -> dict[str, Model]:
        return {m.record.version: m for m in self.models.values() if m.record.name == name}

    async def _retire(self, model: Model) -> None:
        await model.stop(self.settings.drain_seconds)
        keys = self.cache.keys_of(model.prefix)
        for start in range(0, len(keys), PURGE_SLICE):
            self.cache.discard(keys[start : start + PURGE_SLICE])
            await asyncio.sleep(0)
        blob = model.record.blob
        if blob is not None and not self.draining:
            keep = {record.blob for record in self.state.models.values() if record.blob}
            if blob not in keep and not self._deploys:
                await self.store.delete_blobs(keep)

    # -- pieces -------------------------------------------------------------------------

    def _make_model(self, record: ModelRecord) -> Model:
        async def load_blob() -> bytes:
            assert record.blob is not None
            return await self.store.get_blob(record.blob)

        return Model(
            record,
            load_blob,
            self.cache,
            clock=self.clock,
            limits=self.settings.limits,
            on_change=self._model_changed,
        )

    def _make_application(self, record: ApplicationRecord) -> None:
        self.state.applications[record.name] = record
        self.applications[record.name] = Application(
            record,
            self.ids,
            self.cache,
            clock=self.clock,
            call_later=asyncio.get_running_loop().call_later,
        )

    def _model_changed(self, model: Model) -> None:
        replicas = model.replicas
        logger.info("%s is %s: %d live", model.id, replicas.state.name, replicas.live)

    def _refresh(self) -> None:
        """Let applications see the current versions, and versions their tightest SLO."""
        slos: defaultdict[ModelId, list[float]] = defaultdict(list)
        for name, application in self.applications.items():
            record = self.state.applications[name]
            current = [m for n in record.models if (m := self._current(n)) is not None]
            versions = self.versions(record.models[0]) if len(record.models) == 1 else {}
            application.update(record, current, versions)
            for model in {*current, *versions.values()}:
                slos[model.id].append(application.slo)
        for model in self.models.values():
            model.set_objective(min(slos.get(model.id, []), default=None))

    def _current(self, name: str) -> Model | None:
        version = self.state.current.get(name)
        return None if version is None else self.models.get(ModelId(name, version))

    def _leads(self, record: ModelRecord) -> bool:
        return self.state.current.get(record.name) == record.version

    def _set_current(self, name: str, version: str) -> SetCurrent:
        now = self.state.current.get(name)
        history = [v for v in self.state.previous.get(name, []) if v != version]
        if now is not None and now != version:
            history.append(now)
        return SetCurrent(name, version, history[-HISTORY:])

    def _apply_current(self, change: SetCurrent) -> None:
        self.state.previous[change.name] = list(change.previous)
        if change.version is None:
            self.state.current.pop(change.name, None)
        else:
            self.state.current[change.name] = change.version

    def _next_number(self) -> int:
        self.state.last_number += 1
        return self.state.last_number

    def _check_new_model(self, spec: ModelRecord) -> ModelRecord:
        spec = check_model(spec)
        make_controller(spec.batching, 1.0)
        if spec.example is not None:
            encode_json_value(parse_input_type(spec.input_type), spec.example, "example")
        if ModelId(spec.name, spec.version) in self.models:
            raise Conflict(
                f"model with name '{spec.name}' and version '{spec.version}' already exists"
            )
        if len(self.models) >= self.settings.limits.models:
            raise TooManyRequests(
                f"there are {len(self.models)} model versions, the most allowed"
            )
        for record in self.state.applications.values():
            if spec.name in record.models and record.input_type != spec.input_type:
                raise Conflict(
                    f"Model with name '{spec.name}' is already linked to app "
                    f"'{record.name}' using input type '{record.input_type}'. The input type "
                    f"you provided for a new version of the model, '{spec.input_type}', is "
                    "not compatible."
                )
        return spec

    def _check_link(self, record: ApplicationRecord, model: str) -> None:
        for version in self.versions(model).values():
            if version.record.input_type != record.input_type:
                raise Conflict(
                    f"Model with name '{model}' has incompatible input_type "
                    f"'{version.record.input_type}'. Requested app to link to has "
                    f"input_type '{record.input_type}'."
                )

    def _check_replicas(self, more: int) -> None:
        running = sum(m.record.num_replicas for m in self.models.values() if m.record.blob)
        if more > 0 and running + more > self.settings.limits.replicas:
            raise TooManyRequests(
                f"{running} replicas run and {self.settings.limits.replicas} are allowed"
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, ClipperError):
                logger.error("a background task failed", exc_info=error)
            else:
                logger.error("a background task failed: %s", error)


def _silent(stage: str, details: dict[str, Any]) -> None:
    """Nobody watches this deploy."""
