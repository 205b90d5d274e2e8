"""The life of a server: start, serve, drain, stop; in one's own asyncio program, or as a
process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clipper import runtime
from clipper.config import Settings, make_settings
from clipper.embedded import Embedded
from clipper.engine import Engine
from clipper.store.base import Store
from clipper.store.memory import MemoryStore

if TYPE_CHECKING:
    from clipper.frontend.ports import Ports

logger = logging.getLogger(__name__)

# How many seconds the thread of the store waits at most for the interpreter while the loop
# is busy. With Python's own 5 ms it would wait anew after each of the loop's short polls,
# and feedback for a second or two.
SWITCH_INTERVAL = 0.0002

# Net allocations of containers between collections of the youngest generation.
GC_THRESHOLD = 20_000


class Server(Embedded):
    """A prediction server in the running event loop.

    Without arguments it keeps everything in memory and opens no sockets: an asyncio
    program deploys and predicts by calling it. `data_dir` keeps applications and models
    over restarts; `listen=True` opens the query and the admin port as well.

        async with Server() as server:
            await server.deploy("sum", 1, lambda xs: xs.sum(axis=1), input_type="doubles")
            await server.register_application("sum", models=["sum"], input_type="doubles")
            prediction = await server.predict("sum", [1.0, 2.0])
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        listen: bool = False,
        settings: Settings | None = None,
    ) -> None:
        if settings is None:
            settings = make_settings(
                {
                    "data_dir": None if data_dir is None else os.fspath(data_dir),
                    "ephemeral": data_dir is None,
                }
            )
        self.settings = settings
        self._listen = listen
        # All mutable state: the engine, the sockets if there are any, the interpreter's
        # switch interval as it was before, and the requests to stop (the first drains, the
        # second does not wait).
        self.engine = Engine(settings, _make_store(settings))
        self._ports: Ports | None = None
        self._announced = False
        self._switch_interval: float | None = None
        self.stopping = asyncio.Event()
        self._forced = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {self.engine!r} port={self.port}>"

    @property
    def port(self) -> int:
        """The query port, 0 when there are no sockets."""
        return self._ports.port if self._ports is not None else 0

    @property
    def admin_port(self) -> int:
        return self._ports.admin_port if self._ports is not None else 0

    @property
    def data_dir(self) -> str | None:
        """The data directory; None when nothing is kept."""
        return None if self.settings.ephemeral else str(_data_dir(self.settings))

    @property
    def token(self) -> str:
        """The admin token."""
        return self.engine.token

    # -- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the store, bring models back, listen. What was started is stopped again
        if a later step fails."""
        if not self.settings.ephemeral:
            self._switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(min(self._switch_interval, SWITCH_INTERVAL))
        try:
            # workers come up while the HTTP stack is imported
            await self.engine.start()
            if self._listen:
                await self._open_ports()
        except BaseException:
            await self.stop()
            raise

    async def _open_ports(self) -> None:
        from clipper.frontend.ports import Ports

        self._ports = ports = Ports(self.engine, on_drain=self.request_stop)
        await ports.open()
        runtime.announce(
            ports.port,
            ports.admin_port,
            self.settings.host,
            self.settings.admin_host,
            os.getpid(),
            self.data_dir,
            self.token,
        )
        self._announced = True

    async def stop(self) -> None:
        """Stop in order, each step within the drain time: take nothing new, answer what
        was accepted, end the workers, close the store."""
        seconds = 0.0 if self._forced.is_set() else self.settings.drain_seconds
        # 1. health turns to draining, new predictions are refused
        self.engine.draining = True
        if self._ports is not None:
            if self._announced:
                runtime.withdraw(self._ports.port)
                self._announced = False
            # 2. stop listening; idle connections close, others after their answers
            await self._unless_forced(self._ports.close(seconds))
        # 3. replicas finish their batches and end
        await self._unless_forced(self.engine.drain(seconds))
        # 4. accepted changes are on disk
        await self.engine.close()
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
            self._switch_interval = None

    def request_stop(self) -> None:
        """Stop soon; called again, stop without waiting."""
        if self.stopping.is_set():
            self._forced.set()
        self.stopping.set()

    async def _unless_forced(self, step: Any) -> None:
        """Run one step of stopping; a second request to stop cuts it short."""
        work = asyncio.ensure_future(step)
        forced = asyncio.ensure_future(self._forced.wait())
        try:
            await asyncio.wait((work, forced), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self._forced.is_set():
                await asyncio.wait((work,), timeout=0.5)
        finally:
            forced.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            # the steps after this one must not be left out for it
            logger.error("a step of stopping failed", exc_info=error)


def _data_dir(settings: Settings) -> Path:
    if settings.data_dir is not None:
        return Path(settings.data_dir).expanduser().absolute()
    return runtime.default_data_dir()


def _make_store(settings: Settings) -> Store:
    if settings.ephemeral:
        return MemoryStore()
    from clipper.store.sqlite import SQLiteStore

    return SQLiteStore(_data_dir(settings), durability=settings.durability)


# -- a process of its own ---------------------------------------------------------------


def run(settings: Settings, on_ready: Callable[[Server], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. A second signal does not wait.

    Raises ConfigError or StoreError, before `on_ready`, when a port or the data
    directory cannot be had.
    """
    if settings.loop == "uvloop":
        import uvloop

        return uvloop.run(_serve(settings, on_ready))
    return asyncio.run(_serve(settings, on_ready))


async def _serve(settings: Settings, on_ready: Callable[[Server], None] | None) -> int:
    server = Server(listen=True, settings=settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.request_stop)
    async with server:
        # What lives now lives to the end: keep the collector from walking it again. What
        # a query allocates is freed by reference counts; the collector is for the rest,
        # and need not look for it after every few hundred queries.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        if on_ready is not None:
            on_ready(server)
        await server.stopping.wait()
    return 0
