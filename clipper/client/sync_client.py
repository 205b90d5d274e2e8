"""`Clipper`: the same verbs, each waiting for its answer.

They run on an event loop in a thread of its own, so that they work wherever Python
does, in a notebook with a running loop too.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
)
from concurrent.futures import Future
from functools import update_wrapper, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from clipper.client.async_client import AsyncClipper
from clipper.errors import ClipperError

P = ParamSpec("P")
T = TypeVar("T")

_ENTRIES_AT_ONCE = 200  # of a log that is read entry by entry


class _LoopThread:
    """An event loop that runs in a daemon thread until it is closed."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._turn, name="clipper-client", daemon=True
        )
        self._thread.start()

    def _turn(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except ClipperError as error:
            # Its sentence says it all; the frames of the loop would only bury it.
            raise error.with_traceback(None) from None
        except BaseException:
            # Ctrl-C here has to end the work there.
            future.cancel()
            raise

    def close(self, client: AsyncClipper) -> None:
        """Close the client's connections and end the thread. Runs at exit, too."""
        if self.pid != os.getpid() or not self._thread.is_alive():
            return  # the thread is the parent's, or the work is done
        if threading.current_thread() is self._thread:  # called by the collector
            closing = self._loop.create_task(client.close())
            closing.add_done_callback(lambda _: self._loop.stop())
            return
        self.run(client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _waiting(
    verb: Callable[Concatenate[AsyncClipper, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Clipper, P], T]:
    """The blocking form of a verb of AsyncClipper."""

    def wait(self: Clipper, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(verb(self._client, *args, **kwargs))

    update_wrapper(wait, verb)
    return wait


class Clipper:
    """A client of the server at `host`.

    For a server on this machine the admin token is found by itself; for another it is
    given as `token` or as the environment variable CLIPPER_TOKEN. `data_dir` is for
    start(). Every verb raises a subclass of ClipperError with the server's sentence, and
    ServerUnreachable where no server answers. As a context manager the client stops, at
    the end, the server that it started, and closes its connections.

    Safe to use from several threads.
    """

    def __init__(
        self,
        host: str = "localhost",
        *,
        port: int = 1337,
        admin_port: int = 1338,
        data_dir: str | Path | None = None,
        token: str | None = None,
    ) -> None:
        self._client = AsyncClipper(
            host, port=port, admin_port=admin_port, data_dir=data_dir, token=token
        )
        self._lock = threading.Lock()
        self._thread: _LoopThread | None = None  # made on first use, anew after a fork

    def __repr__(self) -> str:
        return f"<Clipper {self.query_url}>"

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._thread is None or self._thread.pid != os.getpid():
                self._thread = _LoopThread()
                weakref.finalize(self, self._thread.close, self._client)
            thread = self._thread
        return thread.run(coroutine)

    @property
    def port(self) -> int:
        """The query port; with port=0, the one that start() was given."""
        return self._client.port

    @property
    def query_url(self) -> str:
        """The base URL of predictions."""
        return self._client.query_url

    @property
    def admin_url(self) -> str:
        """The base URL of everything else."""
        return self._client.admin_url

    # -- life of the server ------------------------------------------------------------

    def start(self, *, ephemeral: bool = False, timeout: float = 120.0) -> None:
        """Start a server on this machine unless one runs.

        Waits at most `timeout` seconds for it to be ready, and leaves it running when
        this program ends. With `ephemeral` it keeps nothing on disk. Port 0 takes any
        free port. Raises ServerUnreachable with the server's last lines if it fails.
        """
        self._run(self._client.start(ephemeral=ephemeral, timeout=timeout))
        _say("Clipper is running")

    def stop(self, *, timeout: float = 30.0) -> None:
        """End the server, whoever started it.

        It answers what it has accepted first; waits at most `timeout` seconds for that.
        """
        stopped = self._run(self._client.stop(timeout=timeout))
        _say("Clipper has stopped" if stopped else "Clipper was not running")

    def connect(self) -> Self:
        """Check that a server answers and accepts our token."""
        self._run(self._client.connect())
        return self

    def close(self) -> None:
        """Close the connections. The server goes on; a later call connects again."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._run(self._client.__aexit__(kind, error, trace))
        finally:
            self.close()

    # -- applications ------------------------------------------------------------------

    @wraps(AsyncClipper.register_application)
    def register_application(self, *args: Any, **kwargs: Any) -> None:
        self._run(self._client.register_application(*args, **kwargs))
        _say("Success!")

    unregister_application = _waiting(AsyncClipper.unregister_application)
    delete_application = unregister_application
    link_model_to_app = _waiting(AsyncClipper.link_model_to_app)
    unlink_model_from_app = _waiting(AsyncClipper.unlink_model_from_app)
    get_linked_models = _waiting(AsyncClipper.get_linked_models)
    get_all_apps = _waiting(AsyncClipper.get_all_apps)
    get_app_info = _waiting(AsyncClipper.get_app_info)

    # -- models ------------------------------------------------------------------------

    deploy_predict_function = _waiting(AsyncClipper.deploy_predict_function)
    deploy_model = deploy_predict_function
    set_model_version = _waiting(AsyncClipper.set_model_version)
    rollback = _waiting(AsyncClipper.rollback)
    set_num_replicas = _waiting(AsyncClipper.set_num_replicas)
    scale = set_num_replicas
    undeploy = _waiting(AsyncClipper.undeploy)
    get_all_models = _waiting(AsyncClipper.get_all_models)
    get_model_info = _waiting(AsyncClipper.get_model_info)
    get_current_model_version = _waiting(AsyncClipper.get_current_model_version)
    get_all_model_replicas = _waiting(AsyncClipper.get_all_model_replicas)
    logs = _waiting(AsyncClipper.logs)

    # -- queries, a look at the server -------------------------------------------------

    predict = _waiting(AsyncClipper.predict)
    predict_batch = _waiting(AsyncClipper.predict_batch)
    update = _waiting(AsyncClipper.update)
    update_many = _waiting(AsyncClipper.update_many)
    set_policy = _waiting(AsyncClipper.set_policy)
    get_state = _waiting(AsyncClipper.get_state)
    forget_user = _waiting(AsyncClipper.forget_user)

    def export_feedback(
        self, name: str, *, after: int = 0, kind: str = "feedback"
    ) -> Iterator[dict[str, Any]]:
        """The feedback log of an application, or with kind="decisions" the log of what was
        decided, entry by entry from behind number `after`."""
        entries = self._client.export_feedback(name, after=after, kind=kind)
        try:
            while some := self._run(_take(entries, _ENTRIES_AT_ONCE)):
                yield from some
        finally:
            self._run(_close(entries))

    status = _waiting(AsyncClipper.status)
    explain = _waiting(AsyncClipper.explain)
    metrics = _waiting(AsyncClipper.metrics)
    drain = _waiting(AsyncClipper.drain)


async def _take(entries: AsyncIterator[T], most: int) -> list[T]:
    """The next few; to cross from one thread to the other costs more than an entry."""
    some: list[T] = []
    async for entry in entries:
        some.append(entry)
        if len(some) >= most:
            break
    return some


async def _close(entries: AsyncIterator[T]) -> None:
    assert isinstance(entries, AsyncGenerator)
    await entries.aclose()


def _say(sentence: str) -> None:
    """Print for the person at the prompt."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()
