"""One request's way through an application: a single query, or the rows of a batch.

Both are settled exactly once: by their outputs, by their deadline, or by their client
going away, whichever comes first. What comes later still fills the cache. A settled one
may be given an id, for feedback, and made a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from clipper.batching.job import EXPIRED, Block, Job
from clipper.learning.decisions import Made
from clipper.values import Output, Prediction, RowError

if TYPE_CHECKING:
    from clipper.application import Application
    from clipper.choosing import Choice
    from clipper.panel import Panel
    from clipper.selection.policy import Subject

NO_MODEL = RowError("no_model", "No connected models found for query")

_new = tuple.__new__


class Receiver(Protocol):
    """Who gets the answer of a query. Called once, perhaps before submit returns."""

    def query_settled(self, query: Query) -> None: ...


class BatchReceiver(Protocol):
    def batch_settled(self, batch: BatchQuery) -> None: ...


class Query:
    """One input waiting for one answer: of one model, by its job, or of an ensemble, by a
    panel, which stays for what the answer says of it."""

    __slots__ = (
        "application", "arrived", "choice", "deadline", "job", "output", "panel",
        "receiver", "settled", "subject",
    )  # fmt: skip

    def __init__(
        self,
        application: Application,
        receiver: Receiver,
        choice: Choice,
        subject: Subject,
        arrived: float,
        deadline: float,
    ) -> None:
        self.application = application
        self.receiver = receiver
        self.choice = choice
        self.subject = subject
        self.arrived = arrived
        self.deadline = deadline
        self.job: Job | None = None
        self.panel: Panel | None = None
        self.output: Output = NO_MODEL
        self.settled = False

    @property
    def source(self) -> object:
        return self.application

    def job_done(self, output: Output) -> None:
        if self.settled:
            return
        self.settled = True
        self.job = None
        self.output = output
        self.application.count(self)
        self.receiver.query_settled(self)

    def expire(self, error: RowError = EXPIRED) -> None:
        """The deadline passed, or `error` says why nobody can wait for it."""
        if self.panel is not None:
            self.job_done(self.panel.expire(error, self.application.rng))
            return
        self._leave()
        self.job_done(error)

    def cancel(self) -> None:
        """The client went away: nobody is told, and work that is still queued for this
        query alone is dropped."""
        if not self.settled:
            self.settled = True
            self._leave()
            self.application.stats.cancelled += 1

    def issue_id(self) -> bytes:
        """The query id; whoever has it may give feedback, so the decision is kept."""
        application, choice, output = self.application, self.choice, self.output
        text = choice.stamp.issue(self.arrived)
        decisions, nonce = application.decisions, application.ids.nonce
        if choice is application.roster.standing:
            decisions.keep_output(nonce, output)  # the id says all the rest
            return text
        uid, context = self.subject
        if context is not None:
            context = choice.keep(context)
        kept = output if self.panel is None else self.panel
        made = _new(Made, (application.number, choice, uid, context, kept))
        decisions.keep(nonce, made, application.durable)
        return text

    def prediction(self) -> Prediction:
        """The settled query as a value. Raises where there is no default output."""
        query_id = self.issue_id().decode()
        return _prediction(query_id, self.output, self.choice, self.panel, self.application)

    def _leave(self) -> None:
        if self.job is not None:
            self.job.leave(self)
            self.job = None
        if self.panel is not None:
            self.panel.leave()


class BatchQuery:
    """The rows of one input_batch. `outputs` has one entry per row when it is settled.

    Without a cache the rows are blocks; with one, each is a job of its own, so that rows
    can hit, join and fill the cache. Under an ensemble each row has a panel.
    """

    __slots__ = (
        "_left", "application", "arrived", "blocks", "choice", "deadline", "jobs",
        "outputs", "panels", "receiver", "settled", "subject",
    )  # fmt: skip

    def __init__(
        self,
        application: Application,
        receiver: BatchReceiver,
        choice: Choice,
        subject: Subject,
        arrived: float,
        deadline: float,
        rows: int,
    ) -> None:
        self.application = application
        self.receiver = receiver
        self.choice = choice
        self.subject = subject
        self.arrived = arrived
        self.deadline = deadline
        self.outputs: list[Output | None] = [None] * rows
        self.blocks: list[Block] = []
        self.jobs: list[tuple[Job, RowWaiter]] = []
        self.panels: list[Panel] = []
        self.settled = False
        self._left = rows

    @property
    def source(self) -> object:
        return self.application

    def block_done(self, outputs: list[Output | None]) -> None:
        """The one block of this batch is complete."""
        if not self.settled:
            self.outputs = outputs
            self.finish()

    def row_done(self, index: int, output: Output) -> None:
        if not self.settled:
            self.outputs[index] = output
            self._left -= 1
            if not self._left:
                self.finish()

    def expire(self, error: RowError = EXPIRED) -> None:
        """The deadline passed: rows that are in keep their outputs."""
        for index, panel in enumerate(self.panels):
            if self.outputs[index] is None:
                self.outputs[index] = panel.expire(error, self.application.rng)
        for block in self.blocks:
            self.outputs = block.outputs.copy()
        self.outputs = [error if output is None else output for output in self.outputs]
        self._leave()  # of panels, those that are settled keep waiting for late members
        self.finish()

    def cancel(self) -> None:
        if not self.settled:
            self.settled = True
            self._leave()
            self.application.stats.cancelled += len(self.outputs)

    def issue_id(self) -> bytes:
        """The id that all rows share; each appends its index."""
        application, choice = self.application, self.choice
        text = choice.stamp.issue(self.arrived, len(self.outputs))
        uid, context = self.subject
        if context is not None:
            context = choice.keep(context)
        made = Made(application.number, choice, uid, context, self.panels or self.outputs)
        application.decisions.keep(application.ids.nonce, made, application.durable)
        return text

    def predictions(self) -> list[Prediction]:
        """The settled rows as values, in order. Raises where one has no output and there
        is no default output."""
        shared, panels = self.issue_id().decode(), self.panels
        return [
            _prediction(
                f"{shared}.{index}",
                output,
                self.choice,
                panels[index] if panels else None,
                self.application,
            )
            for index, output in enumerate(self.outputs)
            if output is not None
        ]

    def finish(self) -> None:
        """All rows are in."""
        self.settled = True
        self.jobs.clear()
        self.blocks.clear()
        self.application.count_batch(self)
        self.receiver.batch_settled(self)

    def _leave(self) -> None:
        for block in self.blocks:
            block.leave()
        for job, waiter in self.jobs:
            job.leave(waiter)
        for panel in self.panels:
            if not panel.settled:
                panel.leave()
        self.blocks.clear()
        self.jobs.clear()


class RowWaiter:
    """One row of a batch, waiting for its job."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: BatchQuery, index: int) -> None:
        self.batch = batch
        self.index = index

    @property
    def source(self) -> object:
        return self.batch.application

    def job_done(self, output: Output) -> None:
        self.batch.row_done(self.index, output)


def _prediction(
    query_id: str,
    output: Output,
    choice: Choice,
    panel: Panel | None,
    application: Application,
) -> Prediction:
    value, default, why = application.rendering.answer(output)
    prediction = Prediction(query_id, value, default, why)
    if choice.told and choice.model is not None and not default:
        prediction.model = str(choice.model.id)
    if panel is not None:
        prediction.missing = panel.missing
        prediction.confidence = None if default else panel.confidence
    return prediction
