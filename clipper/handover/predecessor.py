"""The old server, as the new one sees it: what it offers, and when it lets go."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import NamedTuple

from clipper.handover.link import (
    Failed,
    HandoverFailed,
    Hello,
    Link,
    Offer,
    Passed,
    Prepared,
    Preparing,
    Received,
    Serving,
    Take,
    close_all,
)
from clipper.handover.successor import VARIABLE
from clipper.listening import Listening, adopt
from clipper.records import ModelRecord
from clipper.version import __version__

# Seconds that the old server may take to say the next thing: it waits for deploys, keeps
# what was learned, and answers what is under way.
PATIENCE = 900.0


class Offered(NamedTuple):
    """What there is to take over."""

    data_dir: str
    records: list[ModelRecord]
    listening: Listening | None


class Predecessor:
    """The server that started this one to be its successor."""

    def __init__(self, end: socket.socket) -> None:
        self._link = Link(end)
        # All mutable state beside the link: connections that came too early to be served.
        self._passed: list[Received] = []

    def __repr__(self) -> str:
        return f"<Predecessor {self._link!r}>"

    def hello(self) -> None:
        self._link.send(Hello(__version__))

    async def offer(self) -> Offered:
        """What it offers first."""
        received = await self._link.receive(PATIENCE)
        message, numbers = received
        if not isinstance(message, Offer) or not 0 < message.query < len(numbers):
            close_all(numbers)
            raise HandoverFailed("the server to take over from did not offer its sockets")
        listening = adopt(numbers[: message.query], numbers[message.query :])
        return Offered(message.data_dir, message.records, listening)

    async def gone(self) -> None:
        """Until it has ended."""
        await self._link.over.wait()

    def preparing(self, model: str) -> None:
        self._link.send(Preparing(model))

    async def offer_or_take(self) -> Offered | float:
        """After `prepared`: another offer, since something changed; or the word to take
        over, with the monotonic time from which on nobody accepted connections."""
        self._link.send(Prepared())
        while isinstance((received := await self._link.receive(PATIENCE)).message, Passed):
            self._passed.append(received)
        message, numbers = received
        close_all(numbers)
        if isinstance(message, Offer):
            return Offered(message.data_dir, message.records, None)
        if isinstance(message, Take):
            return message.since
        raise HandoverFailed(f"it said {type(message).__name__} out of turn")

    def serving(self) -> None:
        self._link.send(Serving())

    async def receive_connections(self, adopt: Callable[[bool, int, bytes], None]) -> None:
        """Take the connections that it passes until it has ended."""
        passed, self._passed = deque(self._passed), []
        with suppress(HandoverFailed):
            while True:
                message, numbers = (
                    passed.popleft() if passed else await self._link.receive(PATIENCE)
                )
                if isinstance(message, Passed) and len(numbers) == 1:
                    adopt(message.admin, numbers[0], message.data)
                else:
                    close_all(numbers)
        self._link.close()

    async def fail(self, reason: str) -> None:
        """Say why it comes to nothing."""
        self._link.send(Failed(reason))
        await self._link.flush()
        self._link.close()

    def close(self) -> None:
        self._link.close()


def find_predecessor(
    environment: MutableMapping[str, str] = os.environ,
) -> Predecessor | None:
    """The server that started this process to take over, None for an ordinary start. The
    variable is taken out: it is not for our children."""
    number = environment.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        end = socket.socket(fileno=int(number))
    except (ValueError, OSError):
        raise HandoverFailed(
            f"{VARIABLE} is set by a server for the one that follows it; unset it"
        ) from None
    end.set_inheritable(False)
    return Predecessor(end)
