"""New versions on their way: from a function to workers that answer, and to the records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from clipper.changes import Changes
from clipper.clock import Clock
from clipper.config import Limits
from clipper.errors import Conflict, TooManyRequests
from clipper.inventory import Inventory
from clipper.model import Model
from clipper.records import ModelRecord
from clipper.store.base import PutModel, Store
from clipper.tasks import Tasks

Progress = Callable[[str, dict[str, Any]], None]


class Deploys:
    """The deploys under way, and the functions kept for them and for what is registered."""

    def __init__(
        self,
        inventory: Inventory,
        changes: Changes,
        store: Store,
        clock: Clock,
        limits: Limits,
        tasks: Tasks,
    ) -> None:
        self._inventory = inventory
        self._changes = changes
        self._store = store
        self._clock = clock
        self._limits = limits
        self._tasks = tasks
        # All mutable state: what is being deployed, by the task of that.
        self._under_way: dict[asyncio.Task[ModelRecord], ModelRecord] = {}

    def __repr__(self) -> str:
        return f"<Deploys under_way={len(self)}>"

    def __len__(self) -> int:
        return len(self._under_way)

    # -- what may begin -----------------------------------------------------------------

    def check(self, spec: ModelRecord) -> ModelRecord:
        """The specification in canonical form, if it could be deployed now."""
        self._changes.check_may_start()
        spec = self._inventory.catalog.check_new_model(spec)
        if any(other.key == spec.key for other in self._under_way.values()):
            raise Conflict(f"model {spec.key} is being deployed already")
        if len(self) >= self._limits.deploys:
            raise TooManyRequests(f"{len(self)} deploys are under way, the most allowed")
        self.check_workers(spec.workers)
        return spec

    def check_workers(self, more: int) -> None:
        """Refuse more workers than the server may have, with those that are starting."""
        starting = sum(spec.workers for spec in self._under_way.values())
        self._inventory.catalog.check_replicas(more, starting)

    # -- one deploy ---------------------------------------------------------------------

    def begin(
        self, spec: ModelRecord, blob: bytes, progress: Progress | None = None
    ) -> asyncio.Task[ModelRecord]:
        """A deploy in a task of ours, which ends with the server, not with its caller.
        What `check` refuses is raised at once."""
        spec = replace(self.check(spec), function_bytes=len(blob))
        under_way = sum(other.function_bytes for other in self._under_way.values())
        self._inventory.catalog.check_functions(under_way + len(blob))
        task = asyncio.create_task(self._deploy(spec, blob, progress or _silent))
        self._under_way[task] = spec
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[ModelRecord]) -> None:
        del self._under_way[task]
        self._tasks.spawn(self.drop_unused_blobs())  # its own, if it failed

    async def _deploy(
        self, spec: ModelRecord, blob: bytes, report: Progress
    ) -> ModelRecord:
        async with self._changes.of_workers(spec.name):
            digest = await self._store.put_blob(blob)
            record = replace(
                spec,
                generation=self._inventory.catalog.next_number(),
                blob=digest,
                created=self._clock.wall(),
            )
            model = self._inventory.make_model(record)
            try:
                await model.replicas.start(record.num_replicas, report)
                await self._go_live(model)
            except BaseException:
                # cancelled while it was committed, it is live all the same
                if self._inventory.models.get(model.id) is not model:
                    await asyncio.shield(self._tasks.spawn(model.stop(0.0)))
                raise
        report("live", {"model_name": record.name, "model_version": record.version})
        return record

    async def _go_live(self, model: Model) -> None:
        record, catalog = model.record, self._inventory.catalog
        async with self._changes.of_records():
            # much may have been registered while the workers started
            catalog.check_new_model(record)
            await self._inventory.commit_with(
                model,
                PutModel(record),
                catalog.make_current(record.name, record.version),
            )

    # -- the end ------------------------------------------------------------------------

    def cancel(self) -> None:
        for task in self._under_way:
            task.cancel()

    async def join(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def drop_unused_blobs(self) -> None:
        # a deploy under way has put its blob and not committed its record yet, and of a
        # version whose record cannot be read nobody knows which is its
        catalog = self._inventory.catalog
        if not self._under_way and self._changes.may_start and not catalog.damaged.models:
            models = catalog.models.values()
            await self._store.delete_blobs({r.blob for r in models if r.blob is not None})


def _silent(stage: str, details: dict[str, Any]) -> None:
    """Nobody watches this deploy."""
