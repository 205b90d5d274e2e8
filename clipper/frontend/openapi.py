"""The OpenAPI document of the query port, and the page that shows it.

Schemas come from the structs that decode requests, statuses and codes from the error
tree, and examples of answers are made of the structs that they show; a description of a
route is all that is written by hand.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus

import msgspec

from clipper.frontend.descriptions import ABOUT, ERRORS
from clipper.frontend.docs import render_page
from clipper.frontend.gate import JSON
from clipper.frontend.paths import (
    BASE_URL,
    EXAMPLE_APP,
    SCHEMAS,
    Json,
    json_response,
    make_paths,
    ref,
    response_name,
)
from clipper.frontend.schemas import (
    AnyRequest,
    ApplicationAnswer,
    BatchAnswer,
    ErrorAnswer,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackListAnswer,
    HealthAnswer,
    IntegersRequest,
    NumbersRequest,
    PredictionAnswer,
    RowFailure,
    StringsRequest,
    UpdateRequest,
)
from clipper.values import NAME
from clipper.version import __version__

REQUEST_STRUCTS = (NumbersRequest, IntegersRequest, StringsRequest, AnyRequest)
FEEDBACK_STRUCTS = (FeedbackItem, UpdateRequest)
ANSWER_STRUCTS = (
    PredictionAnswer,
    BatchAnswer,
    RowFailure,
    FeedbackAnswer,
    FeedbackListAnswer,
    ErrorAnswer,
    ApplicationAnswer,
    HealthAnswer,
)


@cache
def openapi_document() -> bytes:
    """The document as JSON."""
    return msgspec.json.format(msgspec.json.encode(make_document()), indent=1)


def make_document() -> Json:
    """The OpenAPI 3.1 document as plain values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Clipper",
            "version": __version__,
            "summary": "Predictions within a latency objective",
            "description": ABOUT,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "the server that this came from"}],
        "security": [{}, {"bearer": []}],
        "tags": [
            {"name": "predictions", "description": "Ask an application."},
            {"name": "feedback", "description": "Tell it what its answers were worth."},
            {"name": "operations", "description": "Watch the server."},
            {"name": "descriptions", "description": "Read about it."},
        ],
        "paths": make_paths(),
        "components": {
            "schemas": _schemas(),
            **error_responses(),
            "parameters": {"app": _application_parameter()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the token of the server, wanted where it was "
                    "started with `--require-token`",
                }
            },
        },
    }


def error_responses() -> Json:
    """The components that answers with errors need."""
    return {
        "responses": {response_name(s): _error(s) for s in _statuses()},
        "headers": {
            "RetryAfter": {
                "description": "seconds after which to try again",
                "schema": {"type": "integer", "minimum": 1},
            }
        },
    }


def _schemas() -> Json:
    _, schemas = msgspec.json.schema_components(
        (*REQUEST_STRUCTS, *FEEDBACK_STRUCTS, *ANSWER_STRUCTS),
        ref_template=SCHEMAS + "{name}",
    )
    for struct in REQUEST_STRUCTS:
        # the envelope's fields come first in the struct, but not in anybody's mind
        fields = schemas[struct.__name__]["properties"]
        inputs = {name: fields.pop(name) for name in ("input", "input_batch")}
        schemas[struct.__name__]["properties"] = {**inputs, **fields}
    schemas["FeedbackItem"].update(_ONE_PIECE)
    schemas["UpdateRequest"] = _one_or_list(schemas["UpdateRequest"])
    request = {
        "title": "PredictionRequest",
        "description": "Which of the forms it has follows from the application's type.",
        "allOf": [
            {"anyOf": [ref(struct) for struct in REQUEST_STRUCTS]},
            {"anyOf": [{"required": ["input"]}, {"required": ["input_batch"]}]},
        ],
    }
    return {"PredictionRequest": request, **schemas}


# What the fields of a piece have to do with each other. Null is as good as absent.
_ONE_PIECE: Json = {
    "allOf": [
        {
            "oneOf": [
                {"required": ["label"]},
                {"required": ["reward"], "properties": {"reward": {"type": "number"}}},
            ]
        },
        {
            "anyOf": [
                {"required": ["query_id"], "properties": {"query_id": {"type": "string"}}},
                {"required": ["input", "label"]},
            ]
        },
    ]
}


def _one_or_list(schema: Json) -> Json:
    """Either one piece, or a list of them and nothing else."""
    nothing = {
        name: {"type": "null"} for name in ("query_id", "reward", "uid", "feedback_id")
    }
    absent: Json = dict.fromkeys(("label", "input", "context"), False)
    listed = {"required": ["feedback"], "properties": {**nothing, **absent}}
    one = {"properties": {"feedback": False}, **_ONE_PIECE}
    return {**schema, "anyOf": [one, listed]}


def _application_parameter() -> Json:
    return {
        "name": "app",
        "in": "path",
        "required": True,
        "description": "the application",
        "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "example": EXAMPLE_APP,
    }


def _statuses() -> list[int]:
    return sorted({note.error.status for note in ERRORS})


def _error(status: int) -> Json:
    """The response of a status, with an example for each code that has it."""
    notes = [note for note in ERRORS if note.error.status == status]
    response = json_response(" ".join(note.meaning for note in notes), ref(ErrorAnswer))
    response["content"][JSON]["examples"] = {
        note.error.code: {"summary": note.meaning, "value": note.error(note.cause).body()}
        for note in notes
    }
    headers: Json = {}
    if any(note.error.retry_after is not None for note in notes):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = {"schema": {"const": "Bearer"}}
    return {**response, "headers": headers} if headers else response


DOCS_PAGE = render_page(make_document(), BASE_URL)
