"""The connection of two servers, one of which follows the other: messages and descriptors.

A frame is its length, how many descriptors go with it, and a message in msgpack. Both ends
are this project, but may be of different versions: what one does not know it ignores.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias

import msgspec

from clipper.errors import ClipperError
from clipper.records import ModelRecord

FORMAT = 1  # of the whole conversation; one who speaks another is refused

_HEAD = struct.Struct("<IB")
_READ = 256 * 1024
_MOST_DESCRIPTORS = 64  # of one frame
_LARGEST = 1 << 30  # bytes of a frame; records and unfinished requests stay far below
_RETRY = 0.005  # seconds, where the system takes no more descriptors for now
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class HandoverFailed(ClipperError):
    """The other server cannot go on with it, or has ended."""

    code = "handover_failed"


class _Message(msgspec.Struct, tag_field="kind"):
    pass


class Hello(_Message, tag="hello"):
    """New to old: I have started."""

    version: str
    format: int = FORMAT


class Offer(_Message, tag="offer"):
    """Old to new: what there is to take over. The descriptors are the listening sockets,
    `query` of them for queries and the others for admin requests; later offers, after
    something has changed, bring none."""

    version: str
    data_dir: str
    query: int
    records: list[ModelRecord]  # of versions whose workers answer


class Preparing(_Message, tag="preparing"):
    """New to old: another version is up; the silence between two of these is bounded."""

    model: str


class Prepared(_Message, tag="prepared"):
    """New to old: everything of the last offer is up."""


class Take(_Message, tag="take"):
    """Old to new: the data directory is free. `since` is the monotonic time from which on
    nobody has accepted connections."""

    since: float


class Serving(_Message, tag="serving"):
    """New to old: I accept connections."""


class Failed(_Message, tag="failed"):
    """Either to the other: it comes to nothing, and why."""

    reason: str


class Passed(_Message, tag="passed"):
    """Old to new, with the descriptor: an open connection and what was read of it."""

    admin: bool
    data: bytes


Message: TypeAlias = Hello | Offer | Preparing | Prepared | Take | Serving | Failed | Passed


class Received(NamedTuple):
    message: Message
    descriptors: list[int]  # they are the receiver's to close


class Link:
    """One end, in the running event loop."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Message)
        # All mutable state: what was read and is no whole frame yet, with descriptors that
        # came; whole messages, who waits for one, and why no more will come; frames to be
        # sent with what is left of them, and whether the loop watches for room.
        self._bytes = bytearray()
        self._came: deque[int] = deque()
        self._messages: deque[Received] = deque()
        self._news = asyncio.Event()
        self._ended: str | None = None
        self.over = asyncio.Event()  # set once the other end is gone
        self._unsent: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting = False
        self._sent = asyncio.Event()
        self._sent.set()
        self._loop.add_reader(end.fileno(), self._readable)

    def __repr__(self) -> str:
        return f"<Link received={len(self._messages)} unsent={len(self._unsent)}>"

    # -- sending ------------------------------------------------------------------------

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send soon. The descriptors stay the caller's, and open until `flush`."""
        if self._ended is not None:
            return
        body = self._encoder.encode(message)
        frame = _HEAD.pack(len(body), len(descriptors)) + body
        self._unsent.append((memoryview(frame), descriptors))
        self._sent.clear()
        if not self._waiting:
            self._write()

    async def flush(self) -> None:
        """Until everything is sent, or the other end is gone."""
        await self._sent.wait()

    def _write(self) -> None:
        while self._unsent and self._ended is None:
            frame, descriptors = self._unsent[0]
            try:
                if descriptors:
                    done = socket.send_fds(self._socket, [frame], list(descriptors))
                else:
                    done = self._socket.send(frame)
            except (BlockingIOError, InterruptedError):
                self._watch(True)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    self._watch(False)
                    self._waiting = True
                    self._loop.call_later(_RETRY, self._again)
                    return
                self._end(f"the connection to it broke: {error.strerror}")
                return
            if done < len(frame):
                self._unsent[0] = frame[done:], ()
            else:
                self._unsent.popleft()
        self._watch(False)
        self._sent.set()

    def _again(self) -> None:
        self._waiting = False
        if self._ended is None:
            self._write()

    def _watch(self, room: bool) -> None:
        if room != self._waiting:
            self._waiting = room
            if room:
                self._loop.add_writer(self._socket.fileno(), self._write)
            else:
                self._loop.remove_writer(self._socket.fileno())

    # -- receiving ----------------------------------------------------------------------

    async def receive(self, seconds: float) -> Received:
        """The next message. Raises HandoverFailed where the other end says so, is gone,
        or says nothing for so long."""
        try:
            async with asyncio.timeout(seconds):
                while not self._messages:
                    if self._ended is not None:
                        raise HandoverFailed(self._ended)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise HandoverFailed(f"it said nothing for {seconds:g} seconds") from None
        received = self._messages.popleft()
        if isinstance(received.message, Failed):
            raise HandoverFailed(received.message.reason)
        return received

    def _readable(self) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._socket, _READ, _MOST_DESCRIPTORS, _CLOSE_ON_EXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(f"the connection to it broke: {error.strerror}")
            return
        for number in descriptors:
            os.set_inheritable(number, False)
        self._came.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            self._end("descriptors were lost; there are too many open files")
        elif not data:
            self._end("it has ended")
        else:
            self._bytes += data
            self._parse()

    def _parse(self) -> None:
        start = 0
        while len(self._bytes) - start >= _HEAD.size:
            length, count = _HEAD.unpack_from(self._bytes, start)
            end = start + _HEAD.size + length
            if length > _LARGEST or count > len(self._came):
                self._end("it speaks another language")
                return
            if end > len(self._bytes):
                break
            body = bytes(memoryview(self._bytes)[start + _HEAD.size : end])
            descriptors = [self._came.popleft() for _ in range(count)]
            try:
                message = self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                close_all(descriptors)
                self._end(f"it said what this version does not understand: {error}")
                return
            self._messages.append(Received(message, descriptors))
            start = end
        del self._bytes[:start]
        self._news.set()

    # -- the end ------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether the other end is there."""
        return self._ended is None

    def close(self) -> None:
        """Say and hear nothing more."""
        self._end("it was given up")
        for received in self._messages:
            close_all(received.descriptors)
        self._messages.clear()
        self._socket.close()

    def _end(self, why: str) -> None:
        if self._ended is not None:
            return
        self._watch(False)
        self._loop.remove_reader(self._socket.fileno())
        self._ended = why
        self.over.set()
        close_all(self._came)
        self._came.clear()
        self._unsent.clear()
        self._sent.set()
        self._news.set()


def close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for number in descriptors:
        with suppress(OSError):
            os.close(number)
