"""The life of a server: start, serve, drain, stop; and the server inside one's own
asyncio program."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, to_builtins

from clipper import runtime
from clipper.batching.registry import Batching, batching_settings
from clipper.config import Settings, make_settings
from clipper.engine import Engine, Progress
from clipper.errors import ClipperError, InvalidInput
from clipper.inputs import encode_python
from clipper.pieces import make_item
from clipper.query import BatchQuery, Query
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.selection.policy import Subject
from clipper.store.base import Store
from clipper.store.memory import MemoryStore
from clipper.values import Prediction, check_name, check_uid

if TYPE_CHECKING:
    from clipper.frontend.ports import Ports

logger = logging.getLogger(__name__)

DEFAULT_SLO_MICROS = 100_000

# Pieces of feedback that one call has on their way to the log.
MOST_AT_ONCE = 1000

# How many seconds the thread of the store waits at most for the interpreter while the loop
# is busy. With Python's own 5 ms it would wait anew after each of the loop's short polls,
# and feedback for a second or two.
SWITCH_INTERVAL = 0.0002

# Net allocations of containers between collections of the youngest generation.
GC_THRESHOLD = 20_000


class Server:
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

    # -- models and applications --------------------------------------------------------

    async def deploy(
        self,
        name: str,
        version: str | int,
        function: Any,
        input_type: str,
        *,
        labels: Sequence[str] = (),
        num_replicas: int = 1,
        batching: Batching = "aimd",
        max_batch_size: int | None = None,
        example: Any = None,
        retry: bool = True,
        environment: Mapping[str, str] | None = None,
        memory_limit: int | None = None,
        progress: Progress | None = None,
    ) -> ModelRecord:
        """Deploy a function from a list of inputs to a list of outputs, or an object
        with such a `predict`, and make it the current version of its model.

        Returns when all replicas are ready and have run `example`, one input.
        `memory_limit` is in bytes per worker. Raises DeployFailed with the worker's own
        words; the version before then serves on.
        """
        from clipper.workers.packaging import pack

        package = await asyncio.get_running_loop().run_in_executor(None, pack, function)
        spec = ModelRecord(
            name=name,
            version=check_name("model version", version),
            input_type=input_type,
            generation=0,
            labels=list(labels),
            num_replicas=num_replicas,
            batching=batching_settings(batching, max_batch_size),
            retry=retry,
            example=example,
            python=package.python,
            packages=package.packages,
            source=package.source,
            environment=dict(environment or {}),
            memory_limit=memory_limit,
        )
        return await self.engine.deploy(spec, package.blob, progress)

    async def register_application(
        self,
        name: str,
        *,
        models: Sequence[str] = (),
        input_type: str,
        default_output: str | None = None,
        slo_micros: int = DEFAULT_SLO_MICROS,
        policy: str | PolicySettings | Mapping[str, Any] = "static",
        cache: bool = True,
        cache_ttl_seconds: float | None = None,
        parse_output: bool = True,
        on_overload: str = "default",
        loss: str = "zero_one",
    ) -> ApplicationRecord:
        """Register an application over models, which may be deployed later.
        `policy` is a name, or {"name": ..., "options": {...}}. `slo_micros`, its latency
        objective, is in microseconds; without a `default_output` a failed prediction
        raises. A cached output is used for `cache_ttl_seconds` at most; None: until it is
        evicted."""
        return await self.engine.register_application(
            ApplicationRecord(
                name=name,
                number=0,
                input_type=input_type,
                slo_micros=slo_micros,
                default_output=default_output,
                models=list(models),
                policy=_policy(policy),
                cache=cache,
                cache_ttl_seconds=cache_ttl_seconds,
                parse_output=parse_output,
                on_overload=on_overload,
                loss=loss,
            )
        )

    async def predict(
        self,
        application: str,
        input: Any,
        *,
        uid: str | int | None = None,
        context: Any = None,
        version: str | int | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
    ) -> Prediction:
        """One prediction. Raises ClipperError where the application has no default."""
        target = self.engine.application(application)
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        query = target.submit(
            encode_python(target.input_type, input),
            waiting,
            subject=Subject(check_uid(uid), context),
            version=None if version is None else str(version),
            deadline_ms=_checked_deadline(deadline_ms),
            cache=cache,
        )
        try:
            await waiting.future
        except asyncio.CancelledError:
            query.cancel()
            raise
        return query.prediction()

    async def predict_batch(
        self,
        application: str,
        inputs: Sequence[Any],
        *,
        uid: str | int | None = None,
        context: Any = None,
        version: str | int | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
    ) -> list[Prediction]:
        """Predictions for several inputs, in order. Raises if a row failed and the
        application has no default."""
        target = self.engine.application(application)
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        batch = target.submit_batch(
            [encode_python(target.input_type, row) for row in inputs],
            waiting,
            subject=Subject(check_uid(uid), context),
            version=None if version is None else str(version),
            deadline_ms=_checked_deadline(deadline_ms),
            cache=cache,
        )
        try:
            await waiting.future
        except asyncio.CancelledError:
            batch.cancel()
            raise
        return batch.predictions()

    # -- feedback -----------------------------------------------------------------------

    async def update(
        self,
        application: str,
        query_id: str | None = None,
        *,
        label: Any = UNSET,
        reward: float | None = None,
        uid: str | int | None = None,
        input: Any = UNSET,
        context: Any = None,
        feedback_id: str | None = None,
    ) -> bool:
        """Say what an answer was worth; whether the same was said before.

        On a query, by its id, with the `label` that its output should have had, or a
        `reward` from 0 to 1. Or on an `input` with its label, where the policy learns
        without a decision; `feedback_id` then names the feedback, so that it counts once.
        Returns when it is on the disk and learned from. Raises ClipperError: ResendInput
        where a query's decision is lost and has to come again as `input` and `context`.
        """
        fields = {
            "query_id": query_id, "label": label, "reward": reward, "uid": uid,
            "input": input, "context": context, "feedback_id": feedback_id,
        }  # fmt: skip
        [outcome] = await self.update_many(application, [fields])
        if isinstance(outcome, ClipperError):
            raise outcome
        return outcome

    async def update_many(
        self, application: str, items: Iterable[Mapping[str, Any]]
    ) -> list[bool | ClipperError]:
        """Give several pieces of feedback, each a mapping of what `update` takes. For
        each, in order, whether it was said before, or why it was refused."""
        target = self.engine.application(application)
        feedback, loop = self.engine.feedback[application], asyncio.get_running_loop()
        futures: list[asyncio.Future[bool | ClipperError]] = []
        for fields in items:
            future = loop.create_future()
            futures.append(future)
            tell = partial(_told_of_feedback, future)
            try:
                feedback.take(make_item(target.input_type, fields), tell)
            except ClipperError as error:
                tell(False, error)
            if len(futures) % MOST_AT_ONCE == 0:  # the log is not to be flooded
                await asyncio.wait(futures[-MOST_AT_ONCE:])
        return list(await asyncio.gather(*futures))

    async def set_policy(
        self, application: str, policy: str, **options: Any
    ) -> ApplicationRecord:
        """Choose by another policy, or with other options, from now on. What was learned
        is kept where it means something to the new policy."""
        return await self.engine.set_policy(application, PolicySettings(policy, options))

    async def state(self, application: str, uid: str | int | None = None) -> dict[str, Any]:
        """What an application has learned, or what it has learned of one user: for each
        arm its weight, how often feedback told its loss (`pulls`) and the mean loss."""
        from clipper.explanation.arms import learned

        target = self.engine.application(application)
        return await learned(self.engine.learning, target, check_uid(uid))

    async def forget_user(self, application: str, uid: str | int) -> None:
        """Delete what was learned of a user, and the uid from the logs of feedback."""
        name = check_uid(uid)
        if name is None:
            raise InvalidInput("Expected an integer or a string at uid")
        target = self.engine.application(application)
        await self.engine.learning.forget(target.learner, name)

    def explain(self, application: str) -> dict[str, Any]:
        """Why an application answers as it does: batch sizes with the speeds they follow
        from, what was given up and why, and the same as `sentences`, the most important
        first."""
        from clipper.explanation.collect import explain

        target = self.engine.application(application)
        explanation: dict[str, Any] = to_builtins(explain(target, self.engine.cache))
        return explanation


class _Waiting:
    """Wakes the coroutine that waits for an answer."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def query_settled(self, query: Query) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def batch_settled(self, batch: BatchQuery) -> None:
        if not self.future.done():
            self.future.set_result(None)


def _policy(policy: str | PolicySettings | Mapping[str, Any]) -> PolicySettings:
    if isinstance(policy, PolicySettings):
        return policy
    if isinstance(policy, str):
        return PolicySettings(policy)
    unknown = [name for name in policy if name not in ("name", "options")]
    name, options = policy.get("name"), policy.get("options") or {}
    if unknown or not isinstance(name, str) or not isinstance(options, Mapping):
        raise InvalidInput('policy must be a name, or {"name": ..., "options": {...}}')
    return PolicySettings(name, dict(options))


def _told_of_feedback(
    future: asyncio.Future[bool | ClipperError],
    duplicate: bool,
    error: ClipperError | None,
) -> None:
    if not future.done():
        future.set_result(duplicate if error is None else error)


def _checked_deadline(deadline_ms: float | None) -> float | None:
    if deadline_ms is not None and not deadline_ms > 0:
        raise InvalidInput("deadline_ms must be a positive number of milliseconds")
    return deadline_ms


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
