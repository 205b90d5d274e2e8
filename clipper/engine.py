"""Owns every application, model and task: register, deploy, roll out, roll back, drain.

Changes are committed to the store before they take effect in memory and before they are
acknowledged; what a query sees changes between two turns of the loop, never within one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from random import Random

from msgspec.structs import replace

from clipper.application import Application
from clipper.batching.job import Job
from clipper.cache import PredictionCache
from clipper.catalog import Catalog
from clipper.changes import Changes
from clipper.clock import Clock, SystemClock
from clipper.config import Settings
from clipper.deploys import Deploys, Progress
from clipper.errors import (
    Conflict,
    InvalidInput,
    StoreError,
    Unavailable,
)
from clipper.inventory import Inventory
from clipper.learning.service import Learning
from clipper.model import MakeReplicas, Model
from clipper.query_id import QueryIds
from clipper.query_keys import QueryKeys
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.registration import check_application
from clipper.selection.registry import load_policy
from clipper.store.base import Change, DeleteApplication, PutApplication, PutModel, Store
from clipper.tasks import Tasks, to_its_end

logger = logging.getLogger(__name__)

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
        # All mutable state: who may change what; what is registered, and what stands for
        # it in memory; background tasks and deploys; and what comes with `start`.
        self.changes = Changes()
        self._inventory = Inventory(
            settings, store, self.clock, self.cache, rng, make_replicas
        )
        self.applications = self._inventory.applications
        self.feedback = self._inventory.feedback
        self.models = self._inventory.models
        self.application = self._inventory.application
        self.model = self._inventory.model
        self._tasks = Tasks()
        self.deploys = Deploys(
            self._inventory,
            self.changes,
            store,
            self.clock,
            settings.limits,
            self._tasks,
        )
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
        self.learning.unowned_stay = bool(state.damaged.applications)
        refresh = self._inventory.refresh
        await asyncio.gather(
            *(self.learning.restore(r, refresh) for r in state.applications.values())
        )
        self._inventory.begin(self.learning, self.ids)
        self._tasks.spawn(self._verify(on_damage))
        self._tasks.spawn(self.learning.drop_left())
        self._tick()
        for model in self._inventory.prepared.take_rest():
            self._tasks.spawn(model.stop(0.0))  # it was deleted meanwhile

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
        else:  # in a damaged file records may be missing whose blobs are needed
            await self.deploys.drop_unused_blobs()

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)
        self.learning.tick()
        if self._keys.due(self.ids):
            self._tasks.spawn(self._keys.change(self.ids))

    def begin_drain(self) -> None:
        """Take no more. Deploys end now: none could go live any more."""
        self.changes.drain()
        self.deploys.cancel()

    async def drain(self, seconds: float) -> None:
        """Take no more, answer what was accepted, stop every worker."""
        self.begin_drain()
        await self.deploys.join()
        models = [*self.models.values(), *self._inventory.prepared.models]
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

    @property
    def draining(self) -> bool:
        return self.changes.draining

    # -- one server after another -------------------------------------------------------

    @property
    def changing(self) -> bool:
        """Whether a deploy or another change is under way."""
        return bool(self.deploys) or self.changes.under_way

    def answering(self) -> list[ModelRecord]:
        """Records of the versions whose workers answer at present."""
        return [m.record for m in self.models.values() if m.replicas.live]

    async def prepare(
        self, records: Sequence[ModelRecord], told: Callable[[str], None]
    ) -> None:
        """Bring workers of these versions up before the store is open. `told` hears of
        each version that is up. Raises DeployFailed, with the worker's own words, for the
        first that does not come up."""
        self._load_policies()
        await self._inventory.prepared.bring_up(records, told)

    async def save(self, seconds: float) -> None:
        """Keep what was learned until now, so that closing the store takes little."""
        self.learning.snapshots.begin_due(math.inf)
        await self._tasks.settle(seconds)

    async def release(self, seconds: float) -> None:
        """Close the store for another server. What is with the models goes on."""
        self.changes.release()
        await self._close_learning()
        await self._tasks.settle(seconds)
        await self.store.close()

    # -- applications -------------------------------------------------------------------

    async def register_application(self, spec: ApplicationRecord) -> ApplicationRecord:
        """Add an application; its number is given here. The models it names need not
        exist yet."""
        async with self.changes.of_records():
            spec = self.catalog.check_new_application(spec)
            record = replace(
                spec, number=self.catalog.next_number(), created=self.clock.wall()
            )
            await self._inventory.commit(PutApplication(record))
        return record

    async def delete_application(self, name: str) -> None:
        async with self.changes.of_records():
            if name in self.catalog.damaged.applications:
                await to_its_end(self._delete_damaged_application(name))
            else:
                await to_its_end(self._delete_application(self.application(name)))

    async def _delete_application(self, application: Application) -> None:
        await self._inventory.commit(DeleteApplication(application.name))
        await self.learning.drop(application.number)

    async def _delete_damaged_application(self, name: str) -> None:
        """Its number is not known: what it learned is what is nobody's, once that can be
        told."""
        await self._inventory.commit(DeleteApplication(name))
        if not self.catalog.damaged.applications:
            self.learning.unowned_stay = False
            await self.learning.drop_left()

    async def link(self, name: str, models: list[str]) -> None:
        """Add candidate models, which must exist, to an application."""
        async with self.changes.of_records():
            record = self.application(name).record
            await self._inventory.commit(self.catalog.link(record, models))

    async def unlink(self, name: str, models: list[str]) -> None:
        async with self.changes.of_records():
            record = self.application(name).record
            await self._inventory.commit(self.catalog.unlink(record, models))

    async def set_policy(self, name: str, policy: PolicySettings) -> ApplicationRecord:
        """Change how an application chooses among its models. What was learned is kept
        where it means something to the new policy. A disk that is full once the record
        is kept puts the change off until there is room."""
        async with self.changes.of_records():
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
        async with self.changes.of_records():
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

    async def deploy(
        self, spec: ModelRecord, blob: bytes, progress: Progress | None = None
    ) -> ModelRecord:
        """Bring a new version up and make it current.

        The version goes live only after all its replicas have loaded it and run the
        example; until then, and if that fails, the old one serves. Raises DeployFailed
        with the worker's own words.
        """
        return await self.deploys.begin(spec, blob, progress)

    async def set_version(self, name: str, version: str) -> None:
        """Make a deployed version the current one."""
        async with self.changes.of_records():
            await self._inventory.commit(self.catalog.set_version(name, version))

    async def rollback(self, name: str) -> str:
        """Go back to the version that was current before; its name."""
        async with self.changes.of_records():
            change = self.catalog.roll_back(name)
            await self._inventory.commit(change)
        assert change.version is not None
        return change.version

    async def delete_model(self, name: str, version: str) -> None:
        """Take a version out of service and forget it."""
        async with self.changes.of_records():
            unreadable = f"{name}:{version}" in self.catalog.damaged.models
            model = None if unreadable else self.model(name, version)
            await self._inventory.commit(*self.catalog.remove(name, version))
        if model is not None:
            self._tasks.spawn(self._retire(model))
        else:
            self._tasks.spawn(self.deploys.drop_unused_blobs())

    async def scale(self, name: str, version: str | None, replicas: int) -> ModelRecord:
        """Change the number of replicas of a version, by default the current one."""
        async with self.changes.of_workers(name):
            self.changes.check_may_start()
            record = self.catalog.check_scale(name, version, replicas)
            scaled = replace(record, num_replicas=replicas)
            self.deploys.check_workers(scaled.workers - record.workers)
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
        async with self.changes.of_records():
            if self.models.get(model.id) is not model:
                raise Conflict(f"model {model.id} was removed meanwhile")
            record = replace(model.record, num_replicas=replicas)
            await self._inventory.commit(PutModel(record))
        return record

    async def _retire(self, model: Model) -> None:
        """End a deleted version: its workers, its cache entries, its blob."""
        await model.stop(self.settings.drain_seconds)
        keys = self.cache.keys_of(model.prefix)
        for start in range(0, len(keys), PURGE_SLICE):
            self.cache.discard(keys[start : start + PURGE_SLICE])
            await asyncio.sleep(0)
        await self.deploys.drop_unused_blobs()
