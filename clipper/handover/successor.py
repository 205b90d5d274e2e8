"""The new server, as the old one sees it: started, asked, given everything, or given up."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from clipper.handover.link import (
    FORMAT,
    HandoverFailed,
    Hello,
    Link,
    Message,
    Offer,
    Passed,
    Prepared,
    Preparing,
    Serving,
    Take,
    close_all,
)
from clipper.listening import Listening
from clipper.records import ModelRecord
from clipper.version import __version__

VARIABLE = "CLIPPER_HANDOVER"  # names the descriptor of the new server's end

# Bounds in seconds: until the new server has started and said hello; between two versions
# that it brings up (a worker has half a minute to start, and five to load and to run its
# example each); until it serves once the data directory is free.
HELLO_SECONDS = 60.0
PREPARE_SECONDS = 660.0
TAKE_SECONDS = 30.0
END_SECONDS = 5.0
_POLL_SECONDS = 0.02


class Successor:
    """A server that was started to take over. It runs the command that this one was started
    with, so what was installed or configured meanwhile takes effect."""

    def __init__(self) -> None:
        """Start it. Raises HandoverFailed when it cannot be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, VARIABLE: str(theirs.fileno())},
                )
            except OSError as error:
                ours.close()
                raise HandoverFailed(f"it could not be started: {error}") from None
        self._link = Link(ours)
        # All mutable state beside the process and the link: connections that were passed,
        # kept open here until it is sure that nobody will need them back; and whether it
        # serves.
        self._passed: list[tuple[Passed, int]] = []
        self.serves = False

    def __repr__(self) -> str:
        return f"<Successor {self.pid} passed={len(self._passed)}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hello(self) -> str:
        """Its version, once it has started."""
        message = await self._receive(HELLO_SECONDS)
        if not isinstance(message, Hello):
            raise HandoverFailed("it did not say hello")
        if message.format != FORMAT:
            raise HandoverFailed(
                f"its version {message.version} takes over in another way than "
                f"{__version__} hands over; stop the server and start the new one"
            )
        return message.version

    async def prepare(
        self,
        data_dir: str,
        records: Sequence[ModelRecord],
        listening: Listening | None,
    ) -> None:
        """Have it bring up the workers of these versions. `listening` is for the first
        offer."""
        query = [one.fileno() for one in listening.query] if listening else []
        admin = [one.fileno() for one in listening.admin] if listening else []
        offer = Offer(__version__, data_dir, len(query), list(records))
        self._link.send(offer, [*query, *admin])
        while not isinstance(message := await self._receive(PREPARE_SECONDS), Prepared):
            if not isinstance(message, Preparing):
                raise HandoverFailed(f"it said {type(message).__name__} out of turn")

    def check_alive(self) -> None:
        """Raises HandoverFailed where it has ended."""
        if not self._link.open:
            raise HandoverFailed("it has ended")

    def pass_connection(self, admin: bool, descriptor: int, data: bytes) -> None:
        """Give it an open connection, with what was read of a request and not answered.
        The descriptor is ours from here on."""
        passed = Passed(admin, data)
        self._passed.append((passed, descriptor))
        self._link.send(passed, (descriptor,))

    async def take(self, since: float) -> None:
        """Tell it that the data directory is free and wait until it serves."""
        self._link.send(Take(since))
        if not isinstance(await self._receive(TAKE_SECONDS), Serving):
            raise HandoverFailed("it did not say that it serves")
        self.serves = True

    def taken_back(self) -> list[tuple[Passed, int]]:
        """Every connection that was passed: it serves none of them, and they are the
        caller's again."""
        passed, self._passed = self._passed, []
        return passed

    async def _receive(self, seconds: float) -> Message:
        try:
            received = await self._link.receive(seconds)
        except HandoverFailed as error:
            if not self._link.open and await self._gone():
                code = self._process.returncode
                raise HandoverFailed(f"{error} (status {code}), its log says why") from None
            raise
        close_all(received.descriptors)  # it has none to give
        return received.message

    async def finish(self) -> None:
        """Everything was passed: see to it that it is sent, and let go."""
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._link.flush()
        self._release()

    async def end(self) -> None:
        """It came to nothing: end the process and collect it."""
        self._release()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
        if not await self._gone():
            self._process.kill()
            await self._gone()

    def stop(self) -> None:
        """Ask it to stop, as one would ask us."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def _gone(self) -> bool:
        for _ in range(int(END_SECONDS / _POLL_SECONDS)):
            if self._process.poll() is not None:
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    def _release(self) -> None:
        self._link.close()
        close_all([descriptor for _, descriptor in self._passed])
        self._passed.clear()


def check_possible(ephemeral: bool) -> None:
    """Raises HandoverFailed where no other process could take over from this one."""
    if ephemeral:
        raise HandoverFailed(
            "this server keeps nothing on disk (--ephemeral): a new one would have "
            "forgotten every model and application"
        )
    if os.getpid() == 1:
        raise HandoverFailed(
            "this server is process 1 of its container, which ends with it; start the "
            "server under an init process (docker run --init), or replace the container"
        )
