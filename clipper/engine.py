"""Owns every application, model and task: register, deploy, roll out, roll back, drain.

Changes are committed to the store before they take effect in memory and before they are
acknowledged; what a query sees changes between two turns of the loop, never within one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from weakref import WeakValueDictionary

from msgspec.structs import replace

from clipper.application import Application
from clipper.batching.job import Job
from clipper.cache import PredictionCache
from clipper.catalog import Catalog
from clipper.clock import Clock, SystemClock
from clipper.config import Settings
from clipper.errors import (
    Conflict,
    DeployFailed,
    InvalidInput,
    NotFound,
    StoreError,
    TooManyRequests,
    Unavailable,
)
from clipper.inventory import Inventory, is_prepared
from clipper.learning.service import Learning
from clipper.model import MakeReplicas, Model
from clipper.query_id import QueryIds
from clipper.query_keys import QueryKeys
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.registration import check_application
from clipper.selection.registry import load_policy
from clipper.store.base import Change, DeleteApplication, PutApplication, PutModel, Store
from clipper.tasks import Tasks, to_its_end
from clipper.values import ModelId

logger = logging.getLogger(__name__)

TAKING_OVER = "another server is taking over; try again in a moment"

Progress = Callable[[str, dict[str, Any]], None]

# Seconds between looks at what learning has to keep.
TICK = 1.0

# Cache entries of a deleted version that are dropped per turn of the loop.
PURGE_SLICE = 2000


class Engine:
    """The whole server but its sockets."""

    # `rng` is all chance there is, but for keys and tokens, which are the store's, and
    # pauses between restarts, which are those of `make_replicas`
    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock | None = None,
        rng: Random | None = None,
        make_replicas: MakeReplicas | None = None,
    ) -> None:
        rng = rng or Random()
        self.settings = settings
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.cache: PredictionCache[Job] = PredictionCache(
            settings.cache_bytes, settings.cache_policy, self.clock
        )
        self._keys = QueryKeys(store, self.clock, rng)
        # All mutable state: what is registered, changed under one lock, and what stands
        # for it in memory; a lock for each model name whose workers are started or ended,
        # as long as somebody has it; what is being deployed, and the tasks of that;
        # background tasks; and whether the end has come, whether workers are another's to
        # start, and whether the store is another's.
        self._inventory = Inventory(
            settings, store, self.clock, self.cache, rng, make_replicas
        )
        self.applications = self._inventory.applications
        self.feedback = self._inventory.feedback
        self.models = self._inventory.models
        self.application = self._inventory.application
        self.model = self._inventory.model
        self._records = asyncio.Lock()
        self._workers: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._deploys: dict[ModelId, ModelRecord] = {}
        self._deploying: set[asyncio.Task[ModelRecord]] = set()
        self._tasks = Tasks()
        self.draining = False
        self.held = self._released = False
        self._ticker: asyncio.TimerHandle | None = None
        self.learning: Learning
        self.ids: QueryIds
        self.token = ""

    def __repr__(self) -> str:
        return f"<Engine applications={len(self.applications)} models={len(self.models)}>"

    @property
    def catalog(self) -> Catalog:
        """What is registered."""
        return self._inventory.catalog

    # -- life ---------------------------------------------------------------------------

    async def start(
        self, on_damage: Callable[[StoreError], None] = lambda error: None
    ) -> None:
        """Open the store and bring back what it holds; workers come up in the
        background, those of current versions first. `on_damage` is told of what the store
        finds when it looks over the rest, which goes on while queries are answered."""
        self._load_policies()
        state = await self.store.open()
        self.ids = await self._keys.open()
        self.token = (await self.store.secret("admin-token")).hex()
        self._inventory.restore(state)
        self.learning = self._make_learning()
        refresh = self._inventory.refresh
        await asyncio.gather(
            *(self.learning.restore(r, refresh) for r in state.applications.values())
        )
        self._inventory.begin(self.learning, self.ids)
        self._tasks.spawn(self._verify(on_damage))
        self._tasks.spawn(self.learning.drop_left())
        self._tick()
        for model in self._inventory.prepared.values():
            self._tasks.spawn(model.stop(0.0))  # it was deleted meanwhile
        self._inventory.prepared.clear()
        await self._drop_unused_blobs()

    def _load_policies(self) -> None:
        for place in self.settings.learning.policies:
            try:
                load_policy(place)
            except InvalidInput as error:
                # its applications choose by their first model and say why; others go on
                logger.error("%s", error, exc_info=error.__cause__)

    def _make_learning(self) -> Learning:
        loop = asyncio.get_running_loop()
        return Learning(
            self.store,
            self.clock,
            self.settings.learning,
            call_soon=loop.call_soon,
            call_later=loop.call_later,
            spawn=self._tasks.spawn,
        )

    async def _verify(self, on_damage: Callable[[StoreError], None]) -> None:
        try:
            await self.store.verify()
        except StoreError as error:
            logger.critical("%s", error)
            on_damage(error)

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)
        self.learning.tick()
        if self._keys.due(self.ids):
            self._tasks.spawn(self._keys.change(self.ids))

    def begin_drain(self) -> None:
        """Take no more. Deploys end now: none could go live any more."""
        self.draining = True
        for deploy in self._deploying:
            deploy.cancel()

    async def drain(self, seconds: float) -> None:
        """Take no more, answer what was accepted, stop every worker."""
        self.begin_drain()
        await asyncio.gather(*self._deploying, return_exceptions=True)
        models = [*self.models.values(), *self._inventory.prepared.values()]
        await asyncio.gather(*(model.stop(seconds) for model in models))
        for application in self.applications.values():
            application.close()
        await self._close_learning()
        await self._tasks.join()

    async def _close_learning(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
            await self.learning.close()

    async def close(self) -> None:
        await self.store.close()

    @property
    def ready(self) -> bool:
        """True once every restored model answers or has failed for good."""
        return not self.draining and not any(m.starting for m in self.models.values())

    # -- one server after another -------------------------------------------------------

    @property
    def changing(self) -> bool:
        """Whether a deploy or another change is under way."""
        locks = (self._records, *self._workers.values())
        return bool(self._deploying) or any(lock.locked() for lock in locks)

    def answering(self) -> list[ModelRecord]:
        """Records of the versions whose workers answer at present."""
        return [m.record for m in self.models.values() if m.replicas.live]

    async def prepare(
        self, records: Sequence[ModelRecord], told: Callable[[str], None]
    ) -> None:
        """Bring workers of these versions up before the store is open, a few at a time
        since another server still works. `told` hears of each version that is up. Raises
        DeployFailed, with the worker's own words, for the first that does not come up."""
        self._load_policies()
        prepared = self._inventory.prepared
        wanted = {ModelId(r.name, r.version): r for r in records}
        for model in list(prepared.values()):
            if model.id not in wanted or not is_prepared(model, wanted[model.id]):
                del prepared[model.id]
                await model.stop(0.0)
        room = asyncio.Semaphore(os.cpu_count() or 1)
        tasks = [
            asyncio.create_task(self._prepare(record, room, told))
            for model_id, record in wanted.items()
            if model_id not in prepared
        ]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            for left in tasks:
                left.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(
        self, record: ModelRecord, room: asyncio.Semaphore, told: Callable[[str], None]
    ) -> None:
        async with room:
            model = self._inventory.make_model(record)
            try:
                await model.replicas.start(record.num_replicas)
            except DeployFailed as error:
                raise DeployFailed(f"{record.key} does not come up: {error}") from None
        self._inventory.prepared[model.id] = model
        told(record.key)

    async def save(self, seconds: float) -> None:
        """Keep what was learned until now, so that closing the store takes little."""
        self.learning.snapshots.begin_due(math.inf)
        await self._tasks.settle(seconds)

    async def release(self, seconds: float) -> None:
        """Close the store for another server. What is with the models goes on."""
        self.held = self._released = True
        await self._close_learning()
        await self._tasks.settle(seconds)
        await self.store.close()

    # -- applications -------------------------------------------------------------------

    async def register_application(self, spec: ApplicationRecord) -> ApplicationRecord:
        """Add an application; its number is given here. The models it names need not
        exist yet."""
        async with self._changing():
            spec = self.catalog.check_new_application(spec)
            record = replace(
                spec, number=self.catalog.next_number(), created=self.clock.wall()
            )
            await self._inventory.commit(PutApplication(record))
        return record

    async def delete_application(self, name: str) -> None:
        async with self._changing():
            await to_its_end(self._delete_application(self.application(name)))

    async def _delete_application(self, application: Application) -> None:
        await self._inventory.commit(DeleteApplication(application.name))
        await self.learning.drop(application.number)

    async def link(self, name: str, models: list[str]) -> None:
        """Add candidate models, which must exist, to an application."""
        async with self._changing():
            record = self.application(name).record
            for model in models:
                if not self.catalog.versions(model):
                    raise NotFound(f"No model with name '{model:.100}' exists.")
                self.catalog.check_link(record, model)
                if model in record.models:
                    raise Conflict(
                        f"The model with name '{model}' is already linked to '{name}'"
                    )
            record = check_application(replace(record, models=[*record.models, *models]))
            await self._inventory.commit(PutApplication(record))

    async def unlink(self, name: str, models: list[str]) -> None:
        async with self._changing():
            record = self.application(name).record
            for model in models:
                if model not in record.models:
                    raise NotFound(
                        f"Cannot remove nonexistent link between app {name} and "
                        f"model {model:.100}"
                    )
            rest = [model for model in record.models if model not in models]
            await self._inventory.commit(PutApplication(replace(record, models=rest)))

    async def set_policy(self, name: str, policy: PolicySettings) -> ApplicationRecord:
        """Change how an application chooses among its models. What was learned is kept
        where it means something to the new policy. A disk that is full once the record
        is kept puts the change off until there is room."""
        async with self._changing():
            application = self.application(name)
            record, learner = application.record, application.learner
            if learner.damaged:  # the change would be taken for the end of the log
                raise Unavailable(f"the policy cannot be changed: {learner.missing}")
            record = check_application(
                replace(
                    record,
                    policy=policy,
                    policy_generation=record.policy_generation + 1,
                    previous_policy=learner.settings,
                    previous_generation=learner.generation,
                )
            )
            await to_its_end(self._set_policy(record))
        return record

    async def _set_policy(self, record: ApplicationRecord) -> None:
        await self._inventory.commit(PutApplication(record))
        await self.learning.change_policy(record, self._inventory.refresh)

    # -- models -------------------------------------------------------------------------

    async def add_model(self, spec: ModelRecord) -> ModelRecord:
        """Register a version without a function, as the original's clients do. It
        becomes current only where no current version has replicas."""
        async with self._changing():
            spec = self.catalog.check_new_model(spec)
            record = replace(
                spec, generation=self.catalog.next_number(), created=self.clock.wall()
            )
            changes: list[Change] = [PutModel(record)]
            current = self.catalog.current(record.name)
            if current is None or current.blob is None:
                changes.append(self.catalog.make_current(record.name, record.version))
            await self._inventory.commit(*changes)
        return record

    def check_deploy(self, spec: ModelRecord) -> ModelRecord:
        """The specification in canonical form, if it could be deployed now."""
        self._check_may_start()
        spec = self.catalog.check_new_model(spec)
        if ModelId(spec.name, spec.version) in self._deploys:
            raise Conflict(f"model {spec.key} is being deployed already")
        if len(self._deploys) >= self.settings.limits.deploys:
            raise TooManyRequests(
                f"{len(self._deploys)} deploys are under way, the most allowed"
            )
        self._check_replicas(spec.workers)
        return spec

    async def deploy(
        self, spec: ModelRecord, blob: bytes, progress: Progress | None = None
    ) -> ModelRecord:
        """Bring a new version up and make it current.

        The version goes live only after all its replicas have loaded it and run the
        example; until then, and if that fails, the old one serves. Raises DeployFailed
        with the worker's own words.
        """
        return await self.begin_deploy(spec, blob, progress)

    def begin_deploy(
        self, spec: ModelRecord, blob: bytes, progress: Progress | None = None
    ) -> asyncio.Task[ModelRecord]:
        """The same in a task of ours, which ends with the server, not with its caller.
        What `check_deploy` refuses is raised at once."""
        spec = replace(self.check_deploy(spec), function_bytes=len(blob))
        under_way = sum(other.function_bytes for other in self._deploys.values())
        self.catalog.check_functions(under_way + len(blob))
        model = ModelId(spec.name, spec.version)
        self._deploys[model] = spec
        task = asyncio.create_task(self._deploy(spec, blob, progress or _silent))
        self._deploying.add(task)

        def finished(task: asyncio.Task[ModelRecord]) -> None:
            self._deploying.discard(task)
            del self._deploys[model]
            self._tasks.spawn(self._drop_unused_blobs())  # its own, if it failed

        task.add_done_callback(finished)
        return task

    async def _deploy(
        self, spec: ModelRecord, blob: bytes, report: Progress
    ) -> ModelRecord:
        async with self._workers_of(spec.name):
            digest = await self.store.put_blob(blob)
            record = replace(
                spec,
                generation=self.catalog.next_number(),
                blob=digest,
                created=self.clock.wall(),
            )
            model = self._inventory.make_model(record)
            try:
                await model.replicas.start(record.num_replicas, report)
                await self._go_live(model)
            except BaseException:
                # cancelled while it was committed, it is live all the same
                if self.models.get(model.id) is not model:
                    await asyncio.shield(self._tasks.spawn(model.stop(0.0)))
                raise
        report("live", {"model_name": record.name, "model_version": record.version})
        return record

    async def _go_live(self, model: Model) -> None:
        record = model.record
        async with self._changing():
            # much may have been registered while the workers started
            self.catalog.check_new_model(record)
            await self._inventory.commit_with(
                model,
                PutModel(record),
                self.catalog.make_current(record.name, record.version),
            )

    async def set_version(self, name: str, version: str) -> None:
        """Make a deployed version the current one."""
        async with self._changing():
            if not self.catalog.versions(name):
                raise NotFound(f"Cannot set version for nonexistent model '{name:.100}'")
            if f"{name}:{version}" not in self.catalog.models:
                raise NotFound(
                    f"Cannot set non-existent version '{version:.100}' for model with "
                    f"name '{name}'"
                )
            await self._inventory.commit(self.catalog.make_current(name, version))

    async def rollback(self, name: str) -> str:
        """Go back to the version that was current before; its name."""
        async with self._changing():
            change = self.catalog.roll_back(name)
            await self._inventory.commit(change)
        assert change.version is not None
        return change.version

    async def delete_model(self, name: str, version: str) -> None:
        """Take a version out of service and forget it."""
        async with self._changing():
            model = self.model(name, version)
            await self._inventory.commit(*self.catalog.remove(name, version))
        self._tasks.spawn(self._retire(model))

    async def scale(self, name: str, version: str | None, replicas: int) -> ModelRecord:
        """Change the number of replicas of a version, by default the current one."""
        async with self._workers_of(name):
            self._check_may_start()
            record = self.catalog.check_scale(name, version, replicas)
            scaled = replace(record, num_replicas=replicas)
            self._check_replicas(scaled.workers - record.workers)
            model = self.model(name, record.version)
            if replicas > model.replicas.wanted:
                await model.replicas.scale(replicas)
            try:
                record = await self._keep_scale(model, replicas)
            finally:  # those that are too many now, or still, if it was not kept
                if model.record.num_replicas < model.replicas.wanted:
                    await to_its_end(model.replicas.scale(model.record.num_replicas))
        return record

    async def _keep_scale(self, model: Model, replicas: int) -> ModelRecord:
        async with self._changing():
            if self.models.get(model.id) is not model:
                raise Conflict(f"model {model.id} was removed meanwhile")
            record = replace(model.record, num_replicas=replicas)
            await self._inventory.commit(PutModel(record))
        return record

    # -- pieces -------------------------------------------------------------------------

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Records change one at a time, so that what was checked still holds when it is
        committed. Nothing in here waits for workers: a rollback never waits for a
        deploy."""
        async with self._records:
            self._check_open()
            yield

    def _workers_of(self, name: str) -> asyncio.Lock:
        """Held while workers of a model start or end; taken before `_changing`."""
        return self._workers.setdefault(name, asyncio.Lock())

    def _check_open(self) -> None:
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self._released:
            raise Unavailable(TAKING_OVER)

    def _check_may_start(self) -> None:
        self._check_open()
        if self.held:
            raise Unavailable(TAKING_OVER)

    def _check_replicas(self, more: int) -> None:
        starting = sum(spec.workers for spec in self._deploys.values())
        self.catalog.check_replicas(more, starting)

    async def _retire(self, model: Model) -> None:
        """End a deleted version: its workers, its cache entries, its blob."""
        await model.stop(self.settings.drain_seconds)
        keys = self.cache.keys_of(model.prefix)
        for start in range(0, len(keys), PURGE_SLICE):
            self.cache.discard(keys[start : start + PURGE_SLICE])
            await asyncio.sleep(0)
        await self._drop_unused_blobs()

    async def _drop_unused_blobs(self) -> None:
        # a deploy under way has put its blob and not committed its record yet
        if not self._deploys and not self.draining and not self.held:
            kept = {r.blob for r in self.catalog.models.values() if r.blob is not None}
            await self.store.delete_blobs(kept)


def _silent(stage: str, details: dict[str, Any]) -> None:
    """Nobody watches this deploy."""
