"""`AsyncClipper`: every verb of a server as a coroutine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from msgspec import UNSET

from clipper.batching.registry import Batching
from clipper.client import upload
from clipper.client.address import Address
from clipper.client.bodies import (
    default_text,
    feedback_fields,
    given,
    may_repeat,
    outcome_of,
    piece_fields,
    prediction_of,
    prediction_or_error,
    query_fields,
    version_text,
)
from clipper.client.insistence import PASSING, batched, insist
from clipper.client.local import start_server, stop_server
from clipper.client.transport import Transport
from clipper.errors import ClipperError, Forbidden, InvalidInput, NotFound
from clipper.runtime import Runtime
from clipper.values import Prediction, check_name

_FEEDBACK_AT_ONCE = 500  # pieces to a request


class AsyncClipper:
    """A client of the server at `host`.

    For a server on this machine the admin token is found by itself; for another it is
    given as `token` or as the environment variable CLIPPER_TOKEN. `data_dir` is for
    start(). Every verb raises a subclass of ClipperError with the server's sentence, and
    ServerUnreachable where no server answers. As a context manager the client stops,
    at the end, the server that it started, and closes its connections.
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
        self._address = Address(host, port, admin_port, data_dir, token)
        self._transport = Transport(self._address)
        self._started: Runtime | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.query_url}>"

    @property
    def port(self) -> int:
        """The query port; with port=0, the one that start() was given."""
        return self._address.port

    @property
    def query_url(self) -> str:
        """The base URL of predictions."""
        return self._transport.endpoints.query

    @property
    def admin_url(self) -> str:
        """The base URL of everything else."""
        return self._transport.endpoints.admin

    # -- life of the server ------------------------------------------------------------

    async def start(self, *, ephemeral: bool = False, timeout: float = 120.0) -> bool:  # noqa: ASYNC109
        """Start a server on this machine unless one runs; whether this call did.

        Waits at most `timeout` seconds for it to be ready, and leaves it running when
        this program ends. With `ephemeral` it keeps nothing on disk. Port 0 takes any
        free port. Raises ServerUnreachable with the server's last lines if it fails.
        """
        started = await start_server(self._transport, ephemeral=ephemeral, seconds=timeout)
        self._started = started or self._started
        return started is not None

    async def stop(self, *, timeout: float = 30.0) -> bool:  # noqa: ASYNC109
        """End the server, whoever started it; False if none runs.

        It answers what it has accepted first; waits at most `timeout` seconds for that.
        """
        if not self._address.is_local:
            raise Forbidden(
                f"stop() ends a server on this machine, not on {self._address.host}"
            )
        self._started = None
        try:
            return await stop_server(self._address.port, seconds=timeout)
        finally:
            self._transport.forget()

    async def connect(self) -> Self:
        """Check that a server answers and accepts our token."""
        await self._transport.query("GET", "/health/live")
        await self._transport.admin("GET", "/admin/status")
        return self

    async def close(self) -> None:
        """Close the connections. The server goes on."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._started is not None and self._started.alive():
                await self.stop()
        finally:
            await self.close()

    # -- applications ------------------------------------------------------------------

    async def register_application(
        self,
        name: str,
        model: str | None = None,
        input_type: str = "doubles",
        default_output: Any = None,
        slo_micros: int = 100_000,
        *,
        models: Sequence[str] | None = None,
        policy: str | Mapping[str, Any] = "static",
        cache: bool = True,
        cache_ttl_seconds: float | None = None,
        parse_output: bool = True,
        on_overload: str = "default",
        loss: str | Mapping[str, Any] = "zero_one",
    ) -> None:
        """Make an endpoint ``/name/predict`` that queries `model`, or several `models`.

        They are linked by name and may be deployed later. Answers come within
        `slo_micros` microseconds; `default_output` is given when no model could answer
        in time, None means an error then. A default that is no string is taken as JSON.
        An output that is cached is used for `cache_ttl_seconds` at most; None: until it
        is evicted.
        """
        if model is not None and models is not None:
            raise InvalidInput("give either model, or several in models")
        linked = [model] if model is not None else list(models or ())
        body = {
            "name": check_name("the application's name", name),
            "input_type": getattr(input_type, "value", input_type),
            "default_output": default_text(default_output),
            "latency_slo_micros": slo_micros,
            "models": linked,
            "policy": policy,
            "cache": cache,
            "cache_ttl_seconds": cache_ttl_seconds,
            "parse_output": parse_output,
            "on_overload": on_overload,
            "loss": loss,
        }
        await self._transport.admin("POST", "/admin/add_app", body)

    async def unregister_application(self, name: str) -> None:
        """Delete an application. Its models stay."""
        await self._transport.admin("POST", "/admin/delete_app", {"name": name})

    delete_application = unregister_application

    async def link_model_to_app(self, app_name: str, model_name: str) -> None:
        """Let an application query a model too; it may be deployed later."""
        body = {"app_name": app_name, "model_names": [model_name]}
        await self._transport.admin("POST", "/admin/add_model_links", body)

    async def unlink_model_from_app(self, app_name: str, model_name: str) -> None:
        """Let an application query a model no longer."""
        body = {"app_name": app_name, "model_names": [model_name]}
        await self._transport.admin("POST", "/admin/delete_model_links", body)

    async def get_linked_models(self, app_name: str) -> list[str]:
        """The names of the models that an application may query."""
        return await self._list("get_linked_models", {"app_name": app_name})

    async def get_all_apps(self, verbose: bool = False) -> list[Any]:
        """The names of all applications, or with `verbose` what is known of each."""
        return await self._list("get_all_applications", {"verbose": verbose})

    async def get_app_info(self, name: str) -> dict[str, Any] | None:
        """What is known of one application; None if there is none of this name."""
        return await self._info("get_application", {"name": name})

    # -- models ------------------------------------------------------------------------

    async def deploy_predict_function(
        self,
        name: str,
        version: int | str,
        function: Any,
        input_type: str,
        labels: list[str] | None = None,
        *,
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
        progress: bool | None = None,
    ) -> None:
        """Deploy a function, or an object with `predict`, and make it current.

        It gets a list (or array) of inputs and returns one output for each. `example`
        is one input that it must answer before it goes live; until then, and if it
        fails, the version before serves on. `num_replicas` worker processes run it, each
        with the variables `environment` and at most `memory_limit` bytes. `batching` is the
        name of what sizes its batches, or settings such as {"controller": "aimd",
        "max_batch_size": 256, "batch_wait": 1.5}, in rows and milliseconds. With
        `retry=False` no input is ever given to it twice. `spares` more workers stand by,
        to follow at once one that ends; one is replaced after about `recycle_after`
        batches, or once it and its children have `recycle_memory` resident bytes.
        `progress`: True shows it, False does not, None does where standard error is a
        terminal.
        Raises DeployFailed with the worker's own words.
        """
        manifest = upload.make_manifest(
            name,
            version,
            input_type,
            labels=labels,
            num_replicas=num_replicas,
            batching=batching,
            max_batch_size=max_batch_size,
            example=example,
            retry=retry,
            environment=environment,
            memory_limit=memory_limit,
            spares=spares,
            recycle_after=recycle_after,
            recycle_memory=recycle_memory,
        )
        await upload.deploy(self._transport, function, manifest, progress)

    deploy_model = deploy_predict_function

    async def set_model_version(self, name: str, version: int | str) -> None:
        """Make a deployed version the one that answers."""
        body = _version(name, version)
        await self._transport.admin("POST", "/admin/set_model_version", body)

    async def rollback(self, name: str) -> str:
        """Go back to the version that was current before; that version."""
        body = {"model_name": name}
        answer = await self._transport.admin("POST", "/admin/rollback", body)
        return str(answer["model_version"])

    async def set_num_replicas(
        self, name: str, num_replicas: int, version: int | str | None = None
    ) -> dict[str, Any]:
        """Run `num_replicas` worker processes of a version, the current one by default."""
        body = given(
            model_name=name,
            model_version=version_text(version),
            num_replicas=num_replicas,
        )
        return await self._object("scale", body)

    scale = set_num_replicas

    async def undeploy(self, name: str, version: int | str) -> dict[str, Any]:
        """Remove a version: its workers end after their last batch."""
        return await self._object(
            "undeploy", {"model_name": name, "model_version": str(version)}
        )

    async def get_all_models(self, verbose: bool = False) -> list[Any]:
        """All versions as "name:version", or with `verbose` what is known of each."""
        return await self._list("get_all_models", {"verbose": verbose})

    async def get_model_info(self, name: str, version: int | str) -> dict[str, Any] | None:
        """What is known of one version; None if there is none."""
        return await self._info(
            "get_model", {"model_name": name, "model_version": str(version)}
        )

    async def get_current_model_version(self, name: str) -> str:
        """The version of a model that answers now. Raises NotFound."""
        for model in await self.get_all_models(verbose=True):
            if model["model_name"] == name and model["is_current_version"]:
                return str(model["model_version"])
        raise NotFound(
            f"There is no model named {name}, or none of its versions is current."
        )

    async def get_all_model_replicas(self, verbose: bool = False) -> list[Any]:
        """All replicas as "name:version:replica", or with `verbose` more of each."""
        return await self._list("get_all_containers", {"verbose": verbose})

    async def logs(self, name: str, version: int | str | None = None) -> str:
        """The last output of a version's workers; of the current one by default."""
        if version is None:
            version = await self.get_current_model_version(name)
        name, version = check_name("model", name), check_name("version", version)
        return str(await self._transport.admin("GET", f"/admin/logs/{name}/{version}"))

    # -- queries -----------------------------------------------------------------------

    async def predict(
        self,
        app: str,
        input: Any,
        *,
        uid: int | str | None = None,
        context: Any = None,
        version: int | str | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
    ) -> Prediction:
        """The answer to one query.

        `input` is an array, a list, a string, bytes or a JSON-able value, as the
        application's type asks. `uid` tells whose query it is, `context` what a
        contextual policy may know of it; `version` asks one version of the model;
        `deadline_ms` shortens the latency objective; `cache=False` asks the model anew.
        """
        body = query_fields(uid, context, version, deadline_ms, cache)
        body["input"] = input
        return prediction_of(await self._post(app, "predict", body))

    async def predict_batch(
        self,
        app: str,
        inputs: Any,
        *,
        uid: int | str | None = None,
        context: Any = None,
        version: int | str | None = None,
        deadline_ms: float | None = None,
        cache: bool = True,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """The answers to several inputs in one request, as a list of `Prediction`.

        If the model failed on one the first such error is raised, or, with
        `return_exceptions`, each error stands in its place.
        """
        rows = inputs if hasattr(inputs, "tolist") else list(inputs)
        body = query_fields(uid, context, version, deadline_ms, cache) | {
            "input_batch": rows
        }
        answer = await self._post(app, "predict", body)
        results = [prediction_or_error(row) for row in answer["batch_predictions"]]
        if not return_exceptions:
            for result in results:
                if isinstance(result, ClipperError):
                    raise result
        return results

    # -- feedback ----------------------------------------------------------------------

    async def update(
        self,
        name: str,
        query_id: str | None = None,
        label: Any = UNSET,
        *,
        reward: float | None = None,
        uid: int | str | None = None,
        input: Any = UNSET,
        context: Any = None,
        feedback_id: str | None = None,
    ) -> bool:
        """Tell an application what an answer was worth; whether it knew that already.

        On a query by its id, with the `label` that its output should have had, or with a
        `reward` from 0 to 1. Or on an `input` with its label, for policies that learn
        without a decision; `feedback_id` then names this piece of feedback. It is durable
        when this returns. With a query_id or a feedback_id it counts once however often it
        is sent, so it is sent again, a few times, where the connection breaks or the server
        is overloaded. Raises ResendInput where the server lost the decision and needs
        `input` and `context` again.
        """
        fields = feedback_fields(query_id, label, reward, uid, input, context, feedback_id)
        app = check_name("the application", name)

        async def send() -> Any:
            return await self._post(app, "update", fields)

        return bool((await insist(send, may_repeat(fields)))["duplicate"])

    async def update_many(
        self,
        name: str,
        items: Iterable[Mapping[str, Any]],
        *,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Give many pieces of feedback, each a mapping of what `update` takes.

        For each, in order, whether it was known already. If some were refused, the first
        such error is raised once all were given, or, with `return_exceptions`, each error
        stands in its place.
        """
        app = check_name("the application", name)
        outcomes: list[bool | ClipperError] = []
        for some in batched(items, _FEEDBACK_AT_ONCE):
            outcomes += await self._give(app, some)
        if not return_exceptions:
            for outcome in outcomes:
                if isinstance(outcome, ClipperError):
                    raise outcome
        return outcomes

    async def _give(
        self, app: str, items: Sequence[Mapping[str, Any]]
    ) -> list[bool | ClipperError]:
        outcomes: list[bool | ClipperError | None] = [None] * len(items)
        pieces = [piece_fields(item) for item in items]
        left = [*range(len(items))]

        async def send() -> None:
            body = {"feedback": [pieces[index] for index in left]}
            answer = await self._post(app, "update", body)
            for index, outcome in zip(left, answer["feedback"], strict=True):
                outcomes[index] = outcome_of(outcome)
            left[:] = [index for index in left if isinstance(outcomes[index], PASSING)]
            if left:
                raise PASSING[0]("the server was too busy for some of it")

        try:
            await insist(send, all(map(may_repeat, pieces)))
        except ClipperError:
            if None in outcomes:
                raise
        return [outcome for outcome in outcomes if outcome is not None]

    async def set_policy(self, /, name: str, policy: str, **options: Any) -> dict[str, Any]:
        """Let an application choose by another policy, or with other options. What was
        learned is kept where it means something to the new policy."""
        body = {"app_name": name, "policy": {"name": policy, "options": options}}
        return await self._object("set_policy", body)

    async def get_state(
        self, name: str, uid: int | str | None = None
    ) -> dict[str, Any] | None:
        """What an application has learned, or what it has learned of one user: for each
        arm its weight, how often feedback told its loss (`pulls`) and its mean loss. None
        if there is no such application."""
        return await self._info("get_state", given(app_name=name, uid=uid))

    async def forget_user(self, name: str, uid: int | str) -> None:
        """Delete what was learned of a user, and the uid from the feedback log."""
        await self._object("forget_user", {"app_name": name, "uid": uid})

    async def export_feedback(
        self, name: str, *, after: int = 0, kind: str = "feedback"
    ) -> AsyncIterator[dict[str, Any]]:
        """The feedback log of an application, or with kind="decisions" the log of what was
        decided, entry by entry from behind number `after`."""
        app = check_name("the application", name)
        path = f"/admin/feedback/{app}?" + urlencode({"kind": kind, "after": after})
        async for line in self._transport.lines(path):
            yield line

    # -- looking at the server ---------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Applications, models with their replicas, and the server itself."""
        return dict(await self._transport.admin("GET", "/admin/status"))

    async def explain(self, app: str) -> dict[str, Any]:
        """Why an application answers as it does: batch sizes with the speeds they follow
        from, what was given up and why, and the same as `sentences`, the most important
        first."""
        app = check_name("the application", app)
        return dict(
            await self._transport.admin("GET", f"/admin/applications/{app}/explain")
        )

    async def metrics(self) -> str:
        """All counters in Prometheus' text format."""
        return str(await self._transport.query("GET", "/metrics"))

    async def drain(self) -> None:
        """Let the server finish what it has accepted and take nothing new."""
        await self._transport.admin("POST", "/admin/drain", {})

    # -- requests ----------------------------------------------------------------------

    async def _post(self, app: str, verb: str, body: dict[str, Any]) -> Any:
        return await self._transport.query(
            "POST", f"/{check_name('the application', app)}/{verb}", body
        )

    async def _list(self, route: str, body: dict[str, Any]) -> list[Any]:
        return list(await self._transport.admin("POST", f"/admin/{route}", body))

    async def _object(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(await self._transport.admin("POST", f"/admin/{route}", body))

    async def _info(self, route: str, body: dict[str, Any]) -> dict[str, Any] | None:
        return await self._object(route, body) or None


def _version(name: str, version: int | str) -> dict[str, str]:
    return {"model_name": name, "model_version": str(version)}
