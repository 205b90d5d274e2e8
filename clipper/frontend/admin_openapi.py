"""The OpenAPI document of the admin port, at /admin/openapi.json.

Bodies come from the structs that decode them, as the routes were registered with; what an
operation does and answers is written here, by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from clipper.errors import (
    BodyTimeout,
    Conflict,
    DiskFull,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    StoreError,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
)
from clipper.frontend.gate import JSON, MSGPACK, MULTIPART
from clipper.frontend.openapi import error_responses
from clipper.frontend.paths import GUARDED, SCHEMAS, Errors, Json, error_refs, ref
from clipper.frontend.schemas import ErrorAnswer
from clipper.values import NAME
from clipper.version import __version__

OPENAPI_PATH = "/admin/openapi.json"

ABOUT = """\
Registers applications, deploys models and shows what the server does. Every route needs
the token of the data directory, unless the server was started with `--no-auth`. Deploying
runs the deployer's code."""

_BODY: Errors = (
    *GUARDED,
    InvalidInput,
    BodyTimeout,
    PayloadTooLarge,
    UnsupportedMediaType,
)
_LOOK: Errors = (*_BODY, StoreError)
_CHANGE: Errors = (
    *_LOOK,
    NotFound,
    Conflict,
    TooManyRequests,
    Unavailable,
    DiskFull,
)


class Note(NamedTuple):
    """What an operation does, and its answer: a schema of JSON, or None for text."""

    summary: str
    answer: Json | None = None
    errors: Errors = _CHANGE
    status: int = 200


def _object(*required: str, **properties: Json) -> Json:
    names = {name: {"type": "string"} for name in required}
    return {
        "type": "object",
        "properties": {**names, **properties},
        "required": [*required, *properties],
    }


def _or_none(schema: Json) -> Json:
    """The original answers an empty object where there is nothing of the name."""
    return {"anyOf": [schema, {"type": "object", "maxProperties": 0}]}


_COUNT: Json = {"type": "integer", "minimum": 0}
_STRINGS: Json = {"type": "array", "items": {"type": "string"}}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_VERSION = _object("model_name", "model_version")
_APPLICATION = _object(
    "name",
    "input_type",
    default_output={"type": ["string", "null"]},
    latency_slo_micros=_COUNT,
    linked_models=_STRINGS,
)
_MODEL = _object(
    "model_name",
    "model_version",
    "input_type",
    "container_name",
    "model_data_path",
    labels=_STRINGS,
    is_current_version={"type": "boolean"},
)
_REPLICA = _object(
    "model_id", "model_name", "model_version", "input_type", model_replica_id=_COUNT
)
_LEARNED = _object("application", "policy", options={"type": "object"})
_POLICY = _object("name", options={"type": "object"})


def _listed(schema: Json) -> Json:
    """Names, or what is known of each with `verbose`."""
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, schema]}}


NOTES: dict[str, Note] = {
    "add_app": Note("Register an application"),
    "delete_app": Note("Delete an application; its models stay"),
    "add_model": Note("Register a model version without a function"),
    "delete_versioned_model": Note("Delete a model version"),
    "set_model_version": Note("Make a version the current one"),
    "add_model_links": Note("Let an application use more models"),
    "delete_model_links": Note("Let an application use fewer models"),
    "get_linked_models": Note("The models of an application", _STRINGS, (*_LOOK, NotFound)),
    "get_all_applications": Note("All applications", _listed(_APPLICATION), _LOOK),
    "get_application": Note("One application", _or_none(_APPLICATION), _LOOK),
    "get_all_models": Note("All model versions", _listed(_MODEL), _LOOK),
    "get_model": Note("One model version", _or_none(_MODEL), _LOOK),
    "get_all_containers": Note("All replicas", _listed(_REPLICA), _LOOK),
    "get_container": Note("One replica", _or_none(_REPLICA), _LOOK),
    "get_state": Note(
        "What an application learned, or what it learned of one user",
        _or_none(_LEARNED),
        _LOOK,
    ),
    "rollback": Note("Make the version before the current one again", _VERSION),
    "scale": Note(
        "Change the number of replicas",
        _object("model_name", "model_version", num_replicas=_COUNT),
    ),
    "undeploy": Note(
        "Delete a model version, its workers after their last batch", _VERSION
    ),
    "set_policy": Note(
        "Change how an application chooses", _object("app_name", policy=_POLICY)
    ),
    "forget_user": Note("Delete what was learned of a user", _object("app_name", "uid")),
    "drain": Note(
        "Answer what was accepted and end the server", _object("status"), _BODY, 202
    ),
}


class Look(NamedTuple):
    """A GET: its path, summary, answer by media type, and parameters in the query."""

    path: str
    summary: str
    content: Json
    errors: Errors = GUARDED
    query: tuple[Json, ...] = ()


_TEXT: Json = {"text/plain": {"schema": {"type": "string"}}}
_LINES: Json = {"application/x-ndjson": {"schema": {"type": "string"}}}


def _json(schema: Json) -> Json:
    return {JSON: {"schema": schema}}


def _parameter(name: str, schema: Json, place: str = "path") -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


LOOKS = (
    Look("/admin/ping", "Whether the port answers", _TEXT),
    Look(
        "/admin/status",
        "What runs and how it does",
        _json(
            _object(
                applications=_OBJECTS,
                models=_OBJECTS,
                damaged=_OBJECTS,
                server={"type": "object"},
            )
        ),
    ),
    Look(
        "/admin/applications/{app}/explain",
        "Why an application answers as it does",
        _json(_object("application", sentences={"type": "array"})),
        (*GUARDED, NotFound),
    ),
    Look(
        "/admin/logs/{model}/{version}",
        "The tail of what the workers of a version printed",
        _TEXT,
        (*GUARDED, NotFound),
    ),
    Look(
        "/admin/feedback/{app}",
        "The log of feedback or of decisions, one JSON object a line",
        _LINES,
        (*GUARDED, InvalidInput, NotFound, StoreError),
        (
            _parameter("kind", {"enum": ["feedback", "decisions"]}, "query"),
            _parameter(
                "after",
                {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
                "query",
            ),
        ),
    ),
    Look(OPENAPI_PATH, "This document", _json({"type": "object"})),
)


def make_admin_document(bodies: Mapping[str, type[Any]], upload: type[Any]) -> Json:
    """The document; `bodies` has the struct that decodes each POST, and `upload` is that
    of a deploy. Raises KeyError for an operation that nobody described."""
    _, schemas = msgspec.json.schema_components(
        (*bodies.values(), upload, ErrorAnswer), ref_template=SCHEMAS + "{name}"
    )
    posts = {f"/admin/{name}": {"post": _post(name, kind)} for name, kind in bodies.items()}
    looks = {look.path: _look(look) for look in LOOKS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Clipper admin", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/", "description": "the server that this came from"}],
        "security": [{"bearer": []}],
        "paths": {**posts, "/admin/deploy": {"post": _deploy(upload)}, **looks},
        "components": {
            "schemas": schemas,
            **error_responses(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(name: str, kind: type[Any]) -> Json:
    note = NOTES[name]
    content = _TEXT if note.answer is None else _json(note.answer)
    return {
        "operationId": name,
        "summary": note.summary,
        "requestBody": {"required": True, "content": {JSON: {"schema": ref(kind)}}},
        "responses": {
            str(note.status): {"description": "It was done.", "content": content},
            **error_refs(note.errors),
        },
    }


def _deploy(upload: type[Any]) -> Json:
    parts = {
        "type": "object",
        "properties": {
            "manifest": {"$ref": SCHEMAS + "Manifest"},
            "function": {
                "type": "string",
                "minLength": 1,
                "contentMediaType": "application/octet-stream",
            },
        },
        "required": ["manifest", "function"],
        "additionalProperties": False,
    }
    encoding = {"manifest": {"contentType": JSON}}
    return {
        "operationId": "deploy",
        "summary": "Deploy a packaged function and make it current once it answers",
        "description": "In multipart form the manifest comes first. The answer is lines "
        "of JSON, one for each stage; the last tells that the version is live, or the "
        "error.",
        "requestBody": {
            "required": True,
            "content": {
                MULTIPART: {"schema": parts, "encoding": encoding},
                MSGPACK: {"schema": ref(upload)},
            },
        },
        "responses": {
            "200": {"description": "How it went.", "content": _LINES},
            **error_refs(_CHANGE),
        },
    }


def _look(look: Look) -> Json:
    named = [part[1:-1] for part in look.path.split("/") if part.startswith("{")]
    schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {
        "parameters": [_parameter(name, schema) for name in named],
        "get": {
            "operationId": look.path.removeprefix("/admin/").replace("/", "_"),
            "summary": look.summary,
            "parameters": list(look.query),
            "responses": {
                "200": {"description": "What it is.", "content": look.content},
                **error_refs(look.errors),
            },
        },
    }
