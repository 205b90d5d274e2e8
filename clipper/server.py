"""The life of a server: start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from clipper import runtime
from clipper.config import Settings, make_settings
from clipper.embedded import Embedded
from clipper.engine import Engine
from clipper.errors import StoreError
from clipper.listening import Listening, address_of
from clipper.records import ModelRecord
from clipper.runtime import Restart
from clipper.store.base import Store
from clipper.store.memory import MemoryStore

if TYPE_CHECKING:
    from clipper.frontend.ports import PassOn, Ports

logger = logging.getLogger(__name__)

# How many seconds the thread of the store waits at most for the interpreter while the loop
# is busy. With Python's own 5 ms it would wait anew after each of the loop's short polls,
# and feedback for a second or two.
SWITCH_INTERVAL = 0.0002

# How many seconds a server whose sockets were opened by somebody else waits for the one
# before it to let go of the data directory, and then for its models, before it accepts:
# connections wait in the backlog meanwhile.
LOCK_SECONDS = 15.0
READY_SECONDS = 30.0
_LOOK_SECONDS = 0.01


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
        listening: Listening | None = None,
    ) -> None:
        """`listening` are sockets that somebody else opened, and keeps: the server listens
        on duplicates, and waits a while for a data directory that is in use."""
        if settings is None:
            settings = make_settings(
                {
                    "data_dir": None if data_dir is None else os.fspath(data_dir),
                    "ephemeral": data_dir is None,
                }
            )
        self.settings = settings if listening is None else _at(settings, listening)
        self._listen = listen or listening is not None
        self._listening = listening
        # All mutable state: the engine, the sockets if there are any, whether they were
        # announced, whether models were prepared before the start, how the process that it
        # is can be replaced, the interpreter's switch interval as it was before, the
        # requests to stop (the first drains, the second does not wait), and why the server
        # had to end by itself.
        patience = LOCK_SECONDS if listening is not None else 0.0
        self.engine = Engine(self.settings, _make_store(self.settings, patience))
        self._ports: Ports | None = None
        self._announced = self._prepared = False
        self.restart: Restart | None = None  # None: it is no process of its own
        self._switch_interval: float | None = None
        self.stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self.failure: StoreError | None = None

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
        if not self.settings.ephemeral and self._switch_interval is None:
            self._switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(min(self._switch_interval, SWITCH_INTERVAL))
        try:
            # workers come up while the HTTP stack is imported
            await self.engine.start(self._damaged)
            if self._listening is not None and not self._prepared:
                await self._models_up()
            if self._listen:
                await self._open_ports()
        except BaseException:
            await self.stop()
            raise

    async def _open_ports(self) -> None:
        from clipper.frontend.ports import Ports

        self._ports = ports = Ports(self.engine, self.request_stop, self._listening)
        await ports.open()
        self.announce()

    async def _models_up(self) -> None:
        """Nobody is refused meanwhile, so the models may come up first."""
        for _ in range(int(READY_SECONDS / _LOOK_SECONDS)):
            if self.engine.ready or self.stopping.is_set():
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def announce(self) -> None:
        """Tell local clients where the server is, and whether it can be replaced."""
        assert self._ports is not None
        runtime.announce(
            self.port,
            self.admin_port,
            self.settings.host,
            self.settings.admin_host,
            os.getpid(),
            self.data_dir,
            self.token,
            self.restart,
        )
        self._announced = True

    # -- one server after another -------------------------------------------------------

    async def prepare(
        self, records: Sequence[ModelRecord], told: Callable[[str], None]
    ) -> None:
        """All of a start that needs no data directory: what is imported, and the workers
        of these versions. Again, where others are wanted after all. `start` finds them."""
        from clipper.explanation import collect  # noqa: F401
        from clipper.frontend import ports  # noqa: F401

        self._prepared = True
        await self.engine.prepare(records, told)

    def listening(self) -> Listening:
        """Duplicates of the listening sockets."""
        assert self._ports is not None
        return self._ports.listening()

    async def pass_on(self, admit: PassOn, seconds: float) -> bool:
        """Accept no more and give away connections, each once nothing is owed to it;
        whether all have gone within the time."""
        assert self._ports is not None
        return await self._ports.pass_on(admit, seconds)

    def admit(self, admin: bool, descriptor: int, data: bytes) -> None:
        """Serve a connection that another server gave away, which had read `data`."""
        assert self._ports is not None
        self._ports.admit(admin, descriptor, data)

    # -- the end ------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop in order, and answer nobody after the drain time: take nothing new, answer
        what was accepted, end the workers, close the store."""
        loop = asyncio.get_running_loop()
        seconds = 0.0 if self._forced.is_set() else self.settings.drain_seconds
        end = loop.time() + seconds
        # 1. health turns to draining, new predictions are refused
        self.engine.begin_drain()
        if self._ports is not None:
            if self._announced:
                runtime.withdraw(self._ports.port)
                self._announced = False
            # 2. stop listening; idle connections close, others after their answers
            await self.unless_forced(self._ports.close(seconds))
        # 3. replicas finish their batches and end
        await self.unless_forced(self.engine.drain(max(0.0, end - loop.time())))
        # 4. accepted changes are on disk
        await self.engine.close()
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
            self._switch_interval = None

    def _damaged(self, failure: StoreError) -> None:
        self.failure = failure
        self.request_stop()

    def request_stop(self) -> None:
        """Stop soon; called again, stop without waiting."""
        if self.stopping.is_set():
            self._forced.set()
        self.stopping.set()

    async def unless_forced(self, step: Any) -> None:
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


def _make_store(settings: Settings, patience: float) -> Store:
    if settings.ephemeral:
        return MemoryStore()
    from clipper.store.sqlite import SQLiteStore

    return SQLiteStore(
        _data_dir(settings),
        durability=settings.durability,
        patience=patience,
        recover=settings.recover,
    )


def _at(settings: Settings, listening: Listening) -> Settings:
    """The settings with the addresses of the sockets; as strict about them as about any."""
    values = to_builtins(settings)
    if listening.query:
        values["host"], values["port"] = address_of(listening.query[0])
    if listening.admin:
        values["admin_host"], values["admin_port"] = address_of(listening.admin[0])
    return make_settings(values, "the sockets that were passed")
