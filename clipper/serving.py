"""A server as a process of its own: signals, the service manager, and one server after
another.

A hand-over, seen from the old server: start the new one; offer it the listening sockets
and the versions that answer, and serve on until their workers are up there as well; then
accept no more, pass connections on, close the store, and say "take". Whatever goes wrong
before that word leaves everything as it was; after it, this process begins again with the
same sockets and connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

from clipper import memory, runtime
from clipper.config import Settings
from clipper.errors import ClipperError
from clipper.handover.link import HandoverFailed
from clipper.handover.predecessor import Offered, Predecessor, find_predecessor
from clipper.handover.successor import VARIABLE, Successor, check_possible
from clipper.listening import Listening, from_manager, from_numbers
from clipper.runtime import Restart
from clipper.server import Server
from clipper.succession import prepare
from clipper.tasks import to_its_end

logger = logging.getLogger(__name__)

OnReady = Callable[[Server], None]
OnEnd = Callable[[int | None], None]

# Bounds in seconds of the old server in a hand-over: for answers that are owed, while
# nobody is accepted; and for what was learned to be kept.
ANSWERS_SECONDS = 0.5
KEEP_SECONDS = 10.0


def run(
    settings: Settings,
    on_ready: OnReady | None = None,
    listening: Listening | None = None,
    on_end: OnEnd | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, or until another process serves in place of this one
    (SIGUSR2); the exit code. A second SIGTERM or SIGINT does not wait. `listening` are
    sockets that somebody else opened. `on_end` is told the process that serves on, or None.

    Raises ConfigError or StoreError, before `on_ready`, when a port or the data
    directory cannot be had, and HandoverFailed when this process was to take over and
    cannot; StoreError after it when the database is found damaged.
    """
    process = Process(settings, on_ready or _tell_nobody, listening)
    if settings.loop == "uvloop":
        import uvloop

        uvloop.run(process.run())
    else:
        asyncio.run(process.run())
    if on_end is not None:
        on_end(process.followed_by)
    return 0


def passed_sockets(numbers: str | None) -> Listening | None:
    """The listening sockets of descriptors `numbers` ("3" or "3,4"), or else those that a
    service manager passed; None where the server opens its own, or will be given those of
    the server before it."""
    if VARIABLE in os.environ:
        return None
    managed = from_manager()
    return managed if numbers is None else from_numbers(numbers)


class Process:
    """The one server that this process runs at a time."""

    def __init__(
        self, settings: Settings, on_ready: OnReady, listening: Listening | None
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        # All mutable state: sockets that were given and are not taken yet; the server, once
        # there is one; whether the end has come, since somebody asked for it, another
        # process serves, or of an error; the hand-over under way, whether the store goes
        # with it by now, and how many there were; the process that serves on; and the task
        # that takes the connections of the server before.
        self._listening = listening
        self._server: Server | None = None
        self._over = asyncio.Event()
        self._error: BaseException | None = None
        self._handing_over: asyncio.Task[None] | None = None
        self._switching = False
        self._restart = Restart()
        self.followed_by: int | None = None
        self._receiving: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Process {os.getpid()} {self._server!r}>"

    @property
    def _running(self) -> Server:
        assert self._server is not None
        return self._server

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGUSR2, self._begin_hand_over)
        predecessor = find_predecessor()
        if predecessor is None:
            await self._start()
        elif not await self._take_over(predecessor):
            return
        try:
            self._on_ready(self._running)
            await self._over.wait()
            await self._end_hand_over()
        finally:
            if self.followed_by is None:
                runtime.notify(STOPPING=1)
            await self._running.stop()
            if self._receiving is not None:
                self._receiving.cancel()
        failure = self._error or self._running.failure
        if failure is not None:
            raise failure

    def _stop(self) -> None:
        if self._server is not None:
            self._server.request_stop()
        self._over.set()

    # -- beginning ----------------------------------------------------------------------

    def _make_server(self) -> Server:
        self._server = server = Server(
            listen=True, settings=self._settings, listening=self._listening
        )
        server.restart = self._restart
        server.stopping = self._over  # whichever server is asked, it is meant for all
        return server

    async def _start(self) -> None:
        await self._begin(self._make_server())
        memory.settle()
        runtime.notify(READY=1)

    def _tell_restart(self, state: str, reason: str = "") -> None:
        number = self._restart.number + (state == "preparing")
        self._restart = Restart(number, state, reason)
        self._running.restart = self._restart
        try:
            self._running.announce()
        except ClipperError as error:  # nobody hears of it, and all else goes on
            logger.warning("%s", error)

    async def _begin(self, server: Server) -> None:
        """Start, and let go of the sockets that were given: the server has its own."""
        await server.start()
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def _take_over(self, predecessor: Predecessor) -> bool:
        """Follow another server; false if we were asked to stop before it let go."""
        taking = asyncio.ensure_future(self._follow(predecessor))
        stopping = asyncio.ensure_future(self._over.wait())
        alone = asyncio.ensure_future(predecessor.gone())
        try:
            waited = (taking, stopping, alone)
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done() and not self._switching:
                taking.cancel()
            await taking
        except asyncio.CancelledError:
            predecessor.close()
            asked = self._over.is_set()
            await self._give_up()
            if not asked:
                # whoever ended it would not know of this one
                raise HandoverFailed("the server to take over from has ended") from None
            return False
        except Exception as error:
            if not isinstance(error, ClipperError):
                logger.exception("this server cannot take over")
            await predecessor.fail(str(error) or repr(error))
            await self._give_up()
            raise
        finally:
            stopping.cancel()
            alone.cancel()
        self._receiving = asyncio.ensure_future(
            predecessor.receive_connections(self._running.admit)
        )
        return True

    async def _give_up(self) -> None:
        if self._server is not None:
            self._server.request_stop()
            self._server.request_stop()  # there is nothing to wait for
            await self._server.stop()

    async def _follow(self, predecessor: Predecessor) -> None:
        predecessor.hello()
        offered = await predecessor.offer()
        self._listening = offered.listening
        server = self._make_server()
        self._check_same(server, offered)
        records = offered.records
        while True:
            await server.prepare(records, predecessor.preparing)
            memory.settle()
            answer = await predecessor.offer_or_take()
            if isinstance(answer, float):
                break
            records = answer.records
        self._switching = True
        await self._begin(server)
        predecessor.serving()
        logger.info(
            "took over with %d models; connections waited for %.0f ms at most",
            len(records), 1000 * (time.monotonic() - answer),
        )  # fmt: skip

    def _check_same(self, server: Server, offered: Offered) -> None:
        if server.data_dir != offered.data_dir:
            raise HandoverFailed(
                f"it is configured for {server.data_dir or 'no data directory'}, but "
                f"{offered.data_dir} is in use; stop the server and start it anew"
            )
        wanted, found = self._settings, server.settings
        for name, port, kept in (
            ("port", wanted.port, found.port),
            ("admin port", wanted.admin_port, found.admin_port),
        ):
            if port not in (0, kept):
                logger.warning("the %s stays %d until the server is stopped", name, kept)

    # -- being followed -----------------------------------------------------------------

    def _begin_hand_over(self) -> None:
        if self._server is None or not self._server.port or self._over.is_set():
            logger.warning("SIGUSR2 is ignored: the server starts or stops")
        elif self._handing_over is not None and not self._handing_over.done():
            logger.warning("SIGUSR2 is ignored: a new server is starting already")
        else:
            self._tell_restart("preparing")
            self._handing_over = asyncio.ensure_future(self._hand_over())

    async def _end_hand_over(self) -> None:
        """The end has come: give a hand-over up, or let it be finished."""
        task = self._handing_over
        if task is not None:
            if not self._switching:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("the hand-over failed", exc_info=error)

    async def _hand_over(self) -> None:
        successor: Successor | None = None
        try:
            check_possible(self._running.settings.ephemeral)
            await self._all_received()
            successor = Successor()
            logger.info("process %d is to take over", successor.pid)
            version = await prepare(self._running, successor)
            listening = self._running.listening()
            self._switching = True
        except Exception as error:
            why = str(error) or repr(error)
            logger.error("no other server takes over, this one goes on: %s", why)
            if not isinstance(error, ClipperError):
                logger.exception("the hand-over failed")
            self._running.engine.changes.go_on()
            if successor is not None:
                await to_its_end(successor.end())
            self._tell_restart("failed", why)
        except asyncio.CancelledError:
            if successor is not None:
                await to_its_end(successor.end())
            raise
        else:
            logger.info("version %s is ready to take over", version)
            await self._switch(successor, listening)

    async def _all_received(self) -> None:
        """Until the server before has passed its last connection: once this one lets go
        it could not pass that on."""
        if self._receiving is not None:
            await asyncio.wait((self._receiving,))

    async def _switch(self, successor: Successor, listening: Listening) -> None:
        """Let go of everything. From here on the new server has the data, or this process
        begins again."""
        server = self._running
        since = time.monotonic()
        try:
            await server.pass_on(successor.pass_connection, ANSWERS_SECONDS)
            await server.engine.release(KEEP_SECONDS)
            await successor.take(since)
        except Exception as error:
            await self._begin_again(successor, listening, error)
            return
        listening.close()
        self.followed_by = successor.pid
        runtime.notify(MAINPID=successor.pid)
        if self._over.is_set():
            successor.stop()
        logger.info("process %d serves now", successor.pid)
        # what is still owed is answered here
        drain = self._settings.drain_seconds
        try:
            await server.unless_forced(server.pass_on(successor.pass_connection, drain))
            await successor.finish()
        finally:
            self._over.set()

    async def _begin_again(
        self, successor: Successor, listening: Listening, error: Exception
    ) -> None:
        """The new server did not serve when everything was its own: serve again, with the
        same sockets, where clients wait, and the connections that were passed."""
        why = str(error) or repr(error)
        logger.error(
            "process %d was to take over and failed, this one begins again: %s",
            successor.pid, why,
        )  # fmt: skip
        returned = successor.taken_back()
        await successor.end()
        # its models, with what it still owes
        ending = asyncio.ensure_future(self._running.stop())
        await asyncio.sleep(0)  # it withdraws what it has announced
        self._listening = listening
        try:
            self._restart = Restart(self._restart.number, "failed", why)
            await self._start()
        except BaseException as fault:
            logger.critical("this server cannot begin again: %s", fault)
            self._error = fault
            self._over.set()
        else:
            for passed, descriptor in returned:
                self._running.admit(passed.admin, descriptor, passed.data)
            self._switching = False
            logger.warning("this server serves again")
        finally:
            await ending


def _tell_nobody(server: Server) -> None:
    """Nobody waits for it to be ready."""
