"""The server's end of one worker's socket: batches go out, answers come back in order.

Rules of this file:
- every batch is done exactly once: by its answer here, or by whoever took it out with
  `close`;
- a stream that failed in mid-frame, or answered out of turn, is never used again;
- no task, future or timer per batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import NamedTuple, Protocol, cast

from clipper.clock import Clock
from clipper.values import Batch, BatchFailure, BatchResult, FailureKind
from clipper.workers import wire

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who hears of what comes from the worker."""

    def answered(self, batch: Batch) -> None:
        """The oldest batch has been answered and is done."""
        ...

    def told(self, message: wire.Message) -> None:
        """Something else than an answer. May raise WireError."""
        ...

    def lost(self, fault: wire.WireError | None) -> None:
        """The stream has ended, or broke the protocol: nothing more will come."""
        ...


class Sent(NamedTuple):
    id: int
    batch: Batch
    at: float


class Channel(asyncio.Protocol):
    """An ordered exchange of batches for outputs."""

    # State: `sent` holds the unanswered batches in the order they were sent;
    # `_answered_at` is when the latest answer came.

    def __init__(self, listener: Listener, clock: Clock) -> None:
        self._listener = listener
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._decoder = wire.Decoder(wire.FROM_WORKER)
        self._transport: asyncio.Transport | None = None
        self.sent: deque[Sent] = deque()
        self._next_id = 0
        self._answered_at = 0.0
        self._closed = False

    @property
    def oldest(self) -> tuple[Batch, float] | None:
        """The batch that is being worked on, and for how many seconds."""
        if not self.sent:
            return None
        _, batch, at = self.sent[0]
        return batch, self._clock.now() - max(at, self._answered_at)

    def submit(self, batch: Batch) -> None:
        """Send a batch. `done` is never called from in here."""
        lengths, shapes = batch.layout
        call = wire.Call(self._next_id, batch.rows, lengths)
        if isinstance(shapes, tuple):
            call.shape = shapes
        else:
            call.shapes = shapes
        try:
            frame = wire.encode(call, batch.buffers)
        except wire.WireError:
            cause = "the batch is larger than a worker takes"
            failure = BatchFailure(FailureKind.RAISED, cause)
            self._loop.call_soon(settle, batch, failure)
            return
        self._next_id += 1
        self.sent.append(Sent(call.id, batch, self._clock.now()))
        self._write(frame)

    def load(self, load: wire.Load, blob: bytes) -> None:
        """Send the function. Raises WireError if it is too large."""
        self._write(wire.encode(load, (blob,)))

    def _write(self, frame: list[wire.Buffer]) -> None:
        assert self._transport is not None
        if len(frame) == 1:
            self._transport.write(frame[0])
        else:
            self._transport.writelines(frame)

    def close(self) -> list[Batch]:
        """Hear nothing more, and give up the unanswered batches, oldest first."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()
        left = [sent.batch for sent in self.sent]
        self.sent.clear()
        return left

    def mute(self) -> None:
        """Hear nothing more of what the worker says; its end is still noticed."""
        self._closed = True

    # -- called by the event loop ----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast: uvloop's transports do not derive from asyncio's
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:
            self._transport.abort()  # the end came while the connection was being made

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.lost(None)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        try:
            self._decoder.feed(data)
            while (received := self._decoder.next()) is not None:
                self._received(*received)
        except wire.WireError as fault:
            self._closed = True
            self._listener.lost(fault)

    def _received(self, message: wire.Message, body: bytearray) -> None:
        if self._closed:
            return  # by what the message before it set off
        if isinstance(message, wire.Answer):
            batch = self._expect(message.id)
            outputs = wire.decode_outputs(body)
            if len(outputs) != batch.rows:
                raise wire.WireError("an answer has another number of outputs than rows")
            self._answered(batch, outputs)
        elif isinstance(message, wire.Failed):
            self._answered(self._expect(message.id), _failure(message))
        else:
            self._listener.told(message)

    def _expect(self, batch_id: int) -> Batch:
        """The oldest batch, which this answer must be for."""
        if not self.sent or self.sent[0].id != batch_id:
            raise wire.WireError("an answer came for a batch that is not the oldest")
        return self.sent[0].batch

    def _answered(self, batch: Batch, result: BatchResult) -> None:
        at = self.sent.popleft().at
        now = self._clock.now()
        batch.seconds = now - max(at, self._answered_at)
        self._answered_at = now
        settle(batch, result)
        self._listener.answered(batch)


def settle(batch: Batch, result: BatchResult) -> None:
    """Call the batch's callback. The worker is innocent of what that raises."""
    try:
        batch.done(batch, result)
    except Exception:
        logger.exception("the callback of a batch raised")


_KINDS = {kind.value: kind for kind in (FailureKind.RAISED, FailureKind.WRONG_COUNT)}


def _failure(message: wire.Failed) -> BatchFailure:
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise wire.WireError(f"a worker cannot fail a batch as {message.kind!r}")
    return BatchFailure(kind, message.cause, message.detail)
