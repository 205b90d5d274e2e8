"""What an asyncio program says to a server in its own event loop: deploy, register,
predict, update, explain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET, to_builtins

from clipper.batching.registry import Batching, batching_settings
from clipper.deploys import Progress
from clipper.engine import Engine
from clipper.errors import ClipperError, InvalidInput, PayloadTooLarge
from clipper.inputs import encode_python
from clipper.pieces import make_context, make_item
from clipper.query import BatchQuery, Query
from clipper.query_id import MOST_ROWS
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.selection.policy import Subject
from clipper.values import Prediction, check_name, check_uid

DEFAULT_SLO_MICROS = 100_000

# Pieces of feedback that one call has on their way to the log.
MOST_AT_ONCE = 1000
SLICE = 100  # pieces that are taken in one turn of the loop


class Embedded:
    """The verbs of a server, over its engine and without sockets."""

    engine: Engine

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
        spares: int = 0,
        recycle_after: int | None = None,
        recycle_memory: int | None = None,
        progress: Progress | None = None,
    ) -> ModelRecord:
        """Deploy a function from a list of inputs to a list of outputs, or an object
        with such a `predict`, and make it the current version of its model.

        Returns when all replicas are ready and have run `example`, one input.
        `memory_limit` is in bytes per worker. `spares` more workers stand by, to follow at
        once one that ends; one is replaced after about `recycle_after` batches, or once it
        and its children have `recycle_memory` resident bytes. Raises DeployFailed with the
        worker's own words; the version before then serves on.
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
            spares=spares,
            recycle_after=recycle_after,
            recycle_memory=recycle_memory,
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
            subject=Subject(check_uid(uid), make_context(context)),
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
        """Predictions for several inputs, in order; 65,535 at most. Raises if a row failed
        and the application has no default."""
        target = self.engine.application(application)
        if len(inputs) > MOST_ROWS:
            raise PayloadTooLarge(f"predict_batch takes at most {MOST_ROWS} inputs")
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        batch = target.submit_batch(
            [encode_python(target.input_type, row) for row in inputs],
            waiting,
            subject=Subject(check_uid(uid), make_context(context)),
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
            elif len(futures) % SLICE == 0:
                await asyncio.sleep(0)
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
