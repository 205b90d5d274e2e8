"""Models whose workers come up before the store is open, since another server still has
it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from clipper.errors import DeployFailed
from clipper.model import Model
from clipper.records import ModelRecord
from clipper.values import ModelId


class Prepared:
    """Models that are up and wait for the store to be opened."""

    def __init__(self, make_model: Callable[[ModelRecord], Model]) -> None:
        self._make_model = make_model
        # All mutable state: those that wait.
        self._models: dict[ModelId, Model] = {}

    def __repr__(self) -> str:
        return f"<Prepared models={len(self._models)}>"

    @property
    def models(self) -> tuple[Model, ...]:
        return tuple(self._models.values())

    async def bring_up(
        self, records: Sequence[ModelRecord], told: Callable[[str], None]
    ) -> None:
        """Have workers of these versions and no others, a few at a time since another
        server still works. `told` hears of each version that is up. Raises DeployFailed,
        with the worker's own words, for the first that does not come up."""
        wanted = {ModelId(r.name, r.version): r for r in records}
        for model in self.models:
            if model.id not in wanted or not _fits(model, wanted[model.id]):
                del self._models[model.id]
                await model.stop(0.0)
        room = asyncio.Semaphore(os.cpu_count() or 1)
        tasks = [
            asyncio.create_task(self._bring_up(record, room, told))
            for model_id, record in wanted.items()
            if model_id not in self._models
        ]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            for left in tasks:
                left.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring_up(
        self, record: ModelRecord, room: asyncio.Semaphore, told: Callable[[str], None]
    ) -> None:
        async with room:
            model = self._make_model(record)
            try:
                await model.replicas.start(record.num_replicas)
            except DeployFailed as error:
                raise DeployFailed(f"{record.key} does not come up: {error}") from None
        self._models[model.id] = model
        told(record.key)

    def take(self, record: ModelRecord) -> Model | None:
        """The model with the workers that the record asks for, if there is one."""
        model = self._models.get(ModelId(record.name, record.version))
        if model is None or not _fits(model, record):
            return None
        return self._models.pop(model.id)

    def take_rest(self) -> tuple[Model, ...]:
        """Those that nothing asked for."""
        rest = self.models
        self._models.clear()
        return rest


def _fits(model: Model, record: ModelRecord) -> bool:
    return (
        model.record.generation == record.generation
        and model.record.blob == record.blob
        and model.replicas.wanted == record.num_replicas
    )
