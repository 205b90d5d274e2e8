"""The rows of a batch on their way to the models: a slice in each turn of the loop, so that
queries go between. Ten thousand rows of an ensemble take half a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipper.query import BatchQuery, RowWaiter

if TYPE_CHECKING:
    from clipper.application import Application
    from clipper.inputs import Row

SLICE = 500  # rows that are asked of one model in one turn


class Asking:
    """Asks for the rows of one batch until it is settled, by its deadline or because the
    client is gone."""

    __slots__ = ("_application", "_batch", "_cache", "_rows", "_step")

    def __init__(
        self, application: Application, batch: BatchQuery, rows: Sequence[Row], cache: bool
    ) -> None:
        self._application = application
        self._batch = batch
        self._rows = rows
        self._cache = cache
        members = len(batch.choice.models) if batch.panels else 1
        self._step = max(1, SLICE // members)

    def begin(self) -> None:
        self._ask_from(0)

    def _ask_from(self, start: int) -> None:
        if self._batch.settled:
            return
        end = start + self._step
        for index, row in enumerate(self._rows[start:end], start):
            self._ask(index, row)
        if end < len(self._rows):
            asyncio.get_running_loop().call_soon(self._ask_from, end)

    def _ask(self, index: int, row: Row) -> None:
        batch = self._batch
        waiter = RowWaiter(batch, index)
        model = batch.choice.model
        if model is None:
            batch.panels[index].begin(waiter, row, batch.deadline, self._cache)
            return
        job = self._application.ask(model, row, batch.deadline, waiter, self._cache)
        if job is not None:
            batch.jobs.append((job, waiter))
