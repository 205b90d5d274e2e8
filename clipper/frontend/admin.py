"""The admin port: what the original had, deploying, and looking at the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from clipper.application import Application
from clipper.config import Limits
from clipper.engine import Engine
from clipper.explanation.collect import explain
from clipper.frontend.admin_openapi import OPENAPI_PATH, make_admin_document
from clipper.frontend.deploy import DeployRoute, Upload
from clipper.frontend.gate import Gate
from clipper.frontend.log_export import LogRoute
from clipper.frontend.operations import (
    Operation,
    Operations,
    add_route,
    text_response,
)
from clipper.frontend.original import (
    NamedVersion,
    OriginalRoutes,
    Policy,
    policy_settings,
)
from clipper.frontend.responses import json_response
from clipper.frontend.schemas import KnownUid
from clipper.frontend.schemas import NamedVersion as Version
from clipper.frontend.web import middleware
from clipper.model import Model
from clipper.values import check_name, check_uid
from clipper.version import __version__

Replicas = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    model_name: str


class Scale(msgspec.Struct, forbid_unknown_fields=True):
    model_name: str
    num_replicas: Replicas
    model_version: Version | None = None  # None: the current one


class Undeploy(NamedVersion, forbid_unknown_fields=True):
    pass


class SetPolicy(msgspec.Struct, forbid_unknown_fields=True):
    app_name: str
    policy: str | Policy


class ForgetUser(msgspec.Struct, forbid_unknown_fields=True):
    app_name: str
    uid: KnownUid


class Drain(msgspec.Struct, forbid_unknown_fields=True):
    pass


class AdminRoutes:
    """Handlers of the admin port. `on_drain` is called when the server is asked to end;
    it must return at once."""

    def __init__(
        self, engine: Engine, gate: Gate, limits: Limits, on_drain: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._limits = limits
        self._on_drain = on_drain
        self._begun = engine.clock.now()

    def application(self) -> web.Application:
        application = web.Application(
            middlewares=[middleware(self._gate)], client_max_size=self._limits.body
        )
        operations = Operations(self._gate, self._limits)
        posts: list[Operation] = [
            *OriginalRoutes(self._engine).operations(),
            ("rollback", Rollback, self.rollback),
            ("scale", Scale, self.scale),
            ("undeploy", Undeploy, self.undeploy),
            ("set_policy", SetPolicy, self.set_policy),
            ("forget_user", ForgetUser, self.forget_user),
            ("drain", Drain, self.drain),
        ]
        for name, kind, work in posts:
            handler = operations.handler(kind, work)
            add_route(application, "POST", f"/admin/{name}", handler)
        deploy = DeployRoute(self._engine, self._gate, self._limits)
        add_route(application, "POST", "/admin/deploy", deploy.handle)
        logs = LogRoute(self._engine, self._limits)
        add_route(application, "GET", "/admin/feedback/{app}", logs.handle)
        add_route(application, "GET", "/admin/ping", self.ping)
        add_route(application, "GET", "/admin/status", self.status)
        add_route(application, "GET", "/admin/applications/{app}/explain", self.explain)
        add_route(application, "GET", "/admin/logs/{model}/{version}", self.logs)
        document = make_admin_document({name: kind for name, kind, _ in posts}, Upload)
        described = msgspec.json.format(msgspec.json.encode(document), indent=1)

        async def openapi(request: web.Request) -> web.StreamResponse:
            return json_response(200, described)

        add_route(application, "GET", OPENAPI_PATH, openapi)
        return application

    # -- changes ------------------------------------------------------------------------

    async def rollback(self, body: Rollback) -> dict[str, Any]:
        version = await self._engine.rollback(body.model_name)
        return {"model_name": body.model_name, "model_version": version}

    async def scale(self, body: Scale) -> dict[str, Any]:
        version = body.model_version
        record = await self._engine.scale(
            body.model_name,
            None if version is None else check_name("model_version", version),
            body.num_replicas,
        )
        return {
            "model_name": record.name,
            "model_version": record.version,
            "num_replicas": record.num_replicas,
        }

    async def undeploy(self, body: Undeploy) -> dict[str, Any]:
        version = check_name("model_version", body.model_version)
        await self._engine.delete_model(body.model_name, version)
        return {"model_name": body.model_name, "model_version": version}

    async def set_policy(self, body: SetPolicy) -> dict[str, Any]:
        record = await self._engine.set_policy(body.app_name, policy_settings(body.policy))
        return {"app_name": record.name, "policy": record.policy}

    async def forget_user(self, body: ForgetUser) -> dict[str, Any]:
        """Delete what was learned of a user, and the uid from the feedback log."""
        uid = check_uid(body.uid, "$.uid")
        assert uid is not None
        application = self._engine.application(body.app_name)
        await self._engine.learning.forget(application.learner, uid)
        return {"app_name": application.name, "uid": uid}

    async def drain(self, body: Drain) -> web.Response:
        self._on_drain()
        return json_response(202, msgspec.json.encode({"status": "draining"}))

    # -- looking ------------------------------------------------------------------------

    async def ping(self, request: web.Request) -> web.StreamResponse:
        return text_response("PONG")

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """The tail of what a version's workers printed."""
        model = self._engine.model(
            request.match_info["model"], request.match_info["version"]
        )
        return text_response(model.replicas.log_tail())

    async def explain(self, request: web.Request) -> web.StreamResponse:
        """Why an application answers as it does, in numbers and in sentences."""
        application = self._engine.application(request.match_info["app"])
        explanation = explain(application, self._engine.cache)
        return json_response(200, msgspec.json.encode(explanation))

    async def status(self, request: web.Request) -> web.StreamResponse:
        engine = self._engine
        status = {
            "applications": [_application(a) for a in engine.applications.values()],
            "models": [
                *(self._model(m) for m in engine.models.values()),
                *self._unreadable_models(),
            ],
            "damaged": engine.catalog.damaged.listed(),
            "server": self._server(),
        }
        return json_response(200, msgspec.json.encode(status))

    def _server(self) -> dict[str, Any]:
        engine, cache = self._engine, self._engine.cache
        return {
            "version": __version__,
            "draining": engine.draining,
            "uptime_seconds": round(engine.clock.now() - self._begun, 3),
            "cache": {
                "entries": len(cache),
                "bytes": cache.bytes,
                "hits": cache.hits,
                "misses": cache.misses,
                "joins": cache.joins,
                "evictions": cache.evictions,
            },
        }

    def _unreadable_models(self) -> Iterator[dict[str, Any]]:
        """Versions of which nothing is known but that they were deployed."""
        catalog = self._engine.catalog
        for key, reason in catalog.damaged.models.items():
            name, _, version = key.partition(":")
            yield {
                "model_name": name,
                "model_version": version,
                "current": catalog.state.current.get(name) == version,
                "state": "failed",
                "reason": reason,
                "replicas": {"live": 0, "target": 0, "spares": 0, "spares_target": 0},
            }

    def _model(self, model: Model) -> dict[str, Any]:
        record, stats = model.record, model.dispatcher.stats
        replicas = model.replicas.statistics()
        state, reason = replicas.state.value, replicas.reason
        if not replicas.wanted and not model.stopped:
            state = "stopped"
            reason = "it has no function" if record.blob is None else "scaled to 0 replicas"
        return {
            "model_name": record.name,
            "model_version": record.version,
            "input_type": record.input_type,
            "current": self._engine.catalog.is_current(record),
            "state": state,
            "reason": reason,
            "replicas": {
                "live": replicas.live,
                "target": replicas.wanted,
                "spares": replicas.spares,
                "spares_target": replicas.spares_wanted,
            },
            "queue_rows": model.intake.waiting_rows,
            "batch_cap": model.dispatcher.controller.cap,
            "batches": stats.batches,
            "rows": stats.rows,
            "mean_batch_rows": stats.rows / stats.batches if stats.batches else None,
            "restarts": replicas.restarts,
            "recycled": sum(replicas.recycled.values()),
            "labels": record.labels,
            "created": record.created,
        }


def _application(application: Application) -> dict[str, Any]:
    record, stats = application.record, application.stats
    return {
        "name": record.name,
        "input_type": record.input_type,
        "latency_slo_micros": record.slo_micros,
        "policy": record.policy.name,
        "models": record.models,
        "predictions": stats.predictions,
        "failures": stats.failures.total(),
        "failures_by_code": dict(stats.failures),
        "p50_ms": _milliseconds(stats.latency.quantile(0.5)),
        "p99_ms": _milliseconds(stats.latency.quantile(0.99)),
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
