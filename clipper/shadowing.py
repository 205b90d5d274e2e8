"""Shadows of a query: models that are asked after the answer, and compared with it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from clipper.evaluation import SECONDS
from clipper.inputs import Row
from clipper.metrics import Histogram, time_buckets
from clipper.rows import SLICE
from clipper.selection.losses import same
from clipper.selection.policy import Arm
from clipper.values import Output, RowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipper.application import Application
    from clipper.choosing import Choice
    from clipper.query import BatchQuery, BatchReceiver, Query, Receiver

logger = logging.getLogger(__name__)


class Comparison:
    """What became of the queries that a shadow was asked for. Plain counters."""

    def __init__(self) -> None:
        self.agreed = 0
        self.differed = 0
        self.failed = 0
        self.latency = Histogram(time_buckets())

    @property
    def agreement(self) -> float | None:
        """The share of its outputs that were the answer; None before the first."""
        compared = self.agreed + self.differed
        return self.agreed / compared if compared else None


class Shadowed:
    """Takes an answer in the receiver's place: hands it on, then asks the shadows."""

    __slots__ = ("_application", "_receiver", "_rows")

    def __init__(
        self,
        application: Application,
        receiver: Receiver | BatchReceiver,
        rows: Sequence[Row],
    ) -> None:
        self._application = application
        self._receiver = receiver
        self._rows = rows

    def query_settled(self, query: Query) -> None:
        self._receiver.query_settled(query)  # type: ignore[union-attr]
        self._try_to_ask(query.choice, [query.output])

    def batch_settled(self, batch: BatchQuery) -> None:
        self._receiver.batch_settled(batch)  # type: ignore[union-attr]
        self._try_to_ask(batch.choice, batch.outputs)

    def _try_to_ask(
        self, choice: Choice, outputs: Sequence[Output | None], start: int = 0
    ) -> None:
        """Ask for a slice of the rows, and for the rest in later turns of the loop."""
        end = start + SLICE
        try:
            self._ask(choice, self._rows[start:end], outputs[start:end])
            if end < len(outputs):
                later = asyncio.get_running_loop().call_soon
                later(self._try_to_ask, choice, outputs, end)
        except Exception:  # who is answered already has nothing to do with it
            logger.exception("the shadows of %s were not asked", self._application.name)

    def _ask(
        self, choice: Choice, rows: Sequence[Row], outputs: Sequence[Output | None]
    ) -> None:
        application, now = self._application, self._application.now()
        for row, output in zip(rows, outputs, strict=True):
            if output is None or isinstance(output, RowError):
                continue  # nothing to compare with
            for arm, model in choice.shadows:
                seat = _Seat(application, arm, output, now)
                application.ask(model, row, now + SECONDS, seat, background=True)


class _Seat:
    """Waits for a shadow's output."""

    __slots__ = ("_answer", "_arm", "_asked", "source")

    def __init__(
        self, application: Application, arm: Arm, answer: bytes | str, asked: float
    ) -> None:
        self.source = application
        self._arm = arm
        self._answer = answer
        self._asked = asked

    def job_done(self, output: Output) -> None:
        application = self.source
        comparison = application.watch.comparison(self._arm)
        if comparison is None:
            return
        if isinstance(output, RowError):
            comparison.failed += 1
            return
        comparison.latency.observe(application.now() - self._asked)
        value = application.rendering.value
        if output == self._answer or same(value(output), value(self._answer)):
            comparison.agreed += 1
        else:
            comparison.differed += 1
