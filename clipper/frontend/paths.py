"""The routes of the query port as OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import to_builtins

from clipper.config import Limits, Settings
from clipper.errors import (
    BodyTimeout,
    ClipperError,
    Conflict,
    DeadlineExceeded,
    DiskFull,
    Forbidden,
    HeadersTooLarge,
    HTTPVersionNotSupported,
    InvalidInput,
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedRequest,
    ModelFailed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    QueryIdExpired,
    ResendInput,
    StoreError,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from clipper.frontend.descriptions import ERRORS, FEEDBACK, REQUESTS, Example
from clipper.frontend.gate import JSON, MSGPACK, NPY
from clipper.frontend.schemas import (
    ApplicationAnswer,
    BatchAnswer,
    Envelope,
    ErrorAnswer,
    FeedbackAnswer,
    FeedbackListAnswer,
    HealthAnswer,
    PredictionAnswer,
    RowFailure,
    UpdateRequest,
)

Json = dict[str, Any]

SCHEMAS = "#/components/schemas/"
BASE_URL = f"http://localhost:{Settings().port}"
EXAMPLE_APP = "hello_world"
EXAMPLE_ID = "AQCe3wJrAQAAAAEAAAACAAAA"  # real ones are longer
FULL_REQUEST = next(example.body for example in REQUESTS if example.name == "options")

# How to send an array that numpy made.
NPY_SAMPLE = """\
python -c "import numpy; numpy.save('rows.npy', numpy.random.rand(8, 3))"
curl '{base}/{app}/predict?uid=alice&deadline_ms=20' \\
  -H 'Content-Type: application/x-npy' --data-binary @rows.npy"""

Errors = tuple[type[ClipperError], ...]

# What any request may meet, before a route looks at it; and what routes with a
# prediction in them add.
PUBLIC: Errors = (
    MalformedRequest,
    Forbidden,
    MethodNotAllowed,
    HeadersTooLarge,
    ClipperError,
    Overloaded,
    HTTPVersionNotSupported,
)
GUARDED: Errors = (*PUBLIC, Unauthorized, MisdirectedRequest)
PREDICT: Errors = (
    *GUARDED,
    InvalidInput,
    NotFound,
    BodyTimeout,
    PayloadTooLarge,
    UnsupportedMediaType,
    ModelFailed,
    Unavailable,
    DeadlineExceeded,
)
UPDATE: Errors = (
    *GUARDED,
    InvalidInput,
    NotFound,
    BodyTimeout,
    Conflict,
    ResendInput,
    QueryIdExpired,
    PayloadTooLarge,
    UnsupportedMediaType,
    Unavailable,
    StoreError,
    DiskFull,
)


def make_paths() -> Json:
    return {
        "/{app}/predict": {
            "parameters": [{"$ref": "#/components/parameters/app"}],
            "post": _predict(),
        },
        "/{app}/update": {
            "parameters": [{"$ref": "#/components/parameters/app"}],
            "post": _update(),
        },
        "/{app}": {
            "parameters": [{"$ref": "#/components/parameters/app"}],
            "get": _get(
                "application",
                "predictions",
                "Show an application",
                "Its input type, objective and models, and a request that it takes.",
                json_response(
                    "The application.",
                    ref(ApplicationAnswer),
                    application=_example_application(),
                ),
                (*GUARDED, NotFound),
            ),
        },
        "/health/live": {"get": _liveness()},
        "/health/ready": {"get": _readiness()},
        "/metrics": {"get": _metrics()},
        "/openapi.json": {
            "get": _get(
                "openapi",
                "descriptions",
                "This document",
                "It is generated from what decodes the requests.",
                json_response("An OpenAPI 3.1 document.", {"type": "object"}),
                GUARDED,
            )
        },
        "/docs": {
            "get": _get(
                "docs",
                "descriptions",
                "This document for people",
                "One page without scripts, with nothing loaded from elsewhere.",
                {
                    "description": "A page.",
                    "content": {"text/html": {"schema": {"type": "string"}}},
                },
                GUARDED,
            )
        },
    }


def _predict() -> Json:
    body = {"schema": {"$ref": SCHEMAS + "PredictionRequest"}}
    return {
        "operationId": "predict",
        "tags": ["predictions"],
        "summary": "Ask for a prediction",
        "description": "Answers within the objective of the application. If no model "
        "answers in time, or none can, the answer is the application's default output, "
        "with the reason; an application without a default output answers with an error "
        "instead.\n\n"
        "What `input` may be follows from the application's input type. `input` wins over "
        "`input_batch`, which asks for many predictions at once.\n\n"
        "A body of type `application/msgpack` holds the same fields. One of type "
        "`application/x-npy` is a numeric array as `numpy.save` writes it: a row, or a "
        "batch along the first axis; the other fields are query parameters then.",
        "parameters": _query_parameters(),
        "requestBody": {
            "required": True,
            "description": f"At most {Limits().body >> 20} MiB unless the server was set "
            "otherwise, not compressed.",
            "content": {
                JSON: {**body, "examples": _examples(REQUESTS)},
                MSGPACK: body,
                NPY: {"schema": {"contentMediaType": NPY}},
            },
        },
        "x-codeSamples": [
            {
                "lang": "Shell",
                "label": "An array from numpy",
                "source": NPY_SAMPLE.format(base=BASE_URL, app=EXAMPLE_APP),
            }
        ],
        "responses": {
            "200": json_response(
                "A prediction, or one for each row of `input_batch`.",
                {"anyOf": [ref(PredictionAnswer), ref(BatchAnswer)]},
                **_example_answers(),
            )
            | {"links": {"feedback": _feedback_link()}},
            **error_refs(PREDICT),
        },
    }


def _feedback_link() -> Json:
    return {
        "operationId": "update",
        "description": "The `query_id` of an answer names it in feedback.",
        "parameters": {"app": "$request.path.app"},
        "requestBody": {"query_id": "$response.body#/query_id", "reward": 1},
    }


def _update() -> Json:
    body = {"schema": ref(UpdateRequest)}
    return {
        "operationId": "update",
        "tags": ["feedback"],
        "summary": "Say what an answer was worth",
        "description": "The application's policy learns from it. Feedback is on a query, "
        "by the `query_id` that its answer had, with the `label` that the output should "
        "have been or a `reward`; or on an `input` with its `label`, where the policy "
        "learns without a decision.\n\n"
        "An answer means that the feedback is on the disk and was learned from. Feedback "
        "with a `query_id` or a `feedback_id` may be sent again where no answer came: it "
        "counts once. Other feedback on the same query is refused (409, `conflict`).\n\n"
        "Query ids are good for seven days. Where the server lost what it decided, in the "
        "last moments before it was killed, the answer is 409, `resend_input`: send the "
        "same feedback again with the query's `input`, and its `context` if it had one.\n\n"
        "A list in `feedback` is answered by a list, in which each piece is taken or "
        "refused by itself; only a list that is malformed is refused as a whole. A body of "
        "type `application/msgpack` holds the same fields.",
        "requestBody": {
            "required": True,
            "description": f"At most {Limits().body >> 20} MiB and "
            f"{Limits().rows_per_request:,} pieces unless the server was set otherwise, "
            "not compressed.",
            "content": {JSON: {**body, "examples": _examples(FEEDBACK)}, MSGPACK: body},
        },
        "responses": {
            "200": json_response(
                "It was taken, or what became of each piece of a list.",
                {"anyOf": [ref(FeedbackAnswer), ref(FeedbackListAnswer)]},
                taken=FeedbackAnswer(True, False),
                repeated=FeedbackAnswer(True, True),
                list=FeedbackListAnswer(
                    [
                        FeedbackAnswer(True, False),
                        ErrorAnswer(NotFound.code, "no such query id"),
                    ]
                ),
            ),
            **error_refs(UPDATE),
        },
    }


def _examples(examples: Iterable[Example]) -> Json:
    return {
        example.name: {
            "summary": example.summary,
            **({"description": example.description} if example.description else {}),
            "value": example.body,
        }
        for example in examples
    }


def _get(
    name: str, tag: str, summary: str, description: str, answer: Json, errors: Errors
) -> Json:
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "responses": {"200": answer, **error_refs(errors)},
    }


def _liveness() -> Json:
    live = json_response("It runs.", ref(HealthAnswer), live=HealthAnswer("live"))
    return {
        **_get(
            "live",
            "operations",
            "Whether the server runs",
            "Says nothing about models: it is no reason to start the server anew that "
            "one of them fails.",
            live,
            PUBLIC,
        ),
        "security": [],
    }


def _readiness() -> Json:
    models = {"sum:1": {"state": "live", "live_replicas": 2, "replicas": 2}}
    ready = HealthAnswer("ready", models)
    models = {"sum:1": {"state": "starting", "live_replicas": 0, "replicas": 2}}
    starting = HealthAnswer("starting", models)
    route = _get(
        "ready",
        "operations",
        "Whether the server is ready for queries",
        "Ready once every model version that the server had before answers or has failed "
        "for good; not ready again while it drains.",
        json_response("It is ready.", ref(HealthAnswer), ready=ready),
        PUBLIC,
    )
    route["responses"]["503"] = json_response(
        "It starts or drains, or has too many connections.",
        {"anyOf": [ref(HealthAnswer), ref(ErrorAnswer)]},
        starting=starting,
    )
    return {**route, "security": []}


def _metrics() -> Json:
    text = {"schema": {"type": "string"}}
    answer = {
        "description": "The metrics.",
        "content": {"text/plain": text, "application/openmetrics-text": text},
    }
    return {
        **_get(
            "metrics",
            "operations",
            "Counters and gauges",
            "As text for Prometheus, or OpenMetrics if Accept names it.",
            answer,
            PUBLIC,
        ),
        "security": [],
    }


def _query_parameters() -> list[Json]:
    """The envelope's fields, as requests with an npy body carry them."""
    _, schemas = msgspec.json.schema_components((Envelope,), ref_template="{name}")
    parameters: list[Json] = []
    for name, schema in schemas["Envelope"]["properties"].items():
        parameter = {"name": name, "in": "query", "description": schema["description"]}
        example = FULL_REQUEST[name]
        kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
        if kinds:
            one = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            parameter.update(schema=one, example=example)
        else:
            parameter["content"] = {JSON: {"schema": {}, "example": example}}
        parameters.append(parameter)
    return parameters


def _example_answers() -> dict[str, msgspec.Struct]:
    late = next(note.cause for note in ERRORS if note.error is DeadlineExceeded)
    rows = [
        PredictionAnswer(f"{EXAMPLE_ID}.0", 3.3, False),
        RowFailure(f"{EXAMPLE_ID}.1", ModelFailed.code, "The model raised an exception"),
    ]
    return {
        "prediction": PredictionAnswer(EXAMPLE_ID, 6.6, False),
        "default": PredictionAnswer(EXAMPLE_ID, -1.0, True, late),
        "bandit": PredictionAnswer(EXAMPLE_ID, 6.6, False, model="sum:2"),
        "ensemble": PredictionAnswer(
            EXAMPLE_ID, 6.6, False, confidence=0.85, missing=["sum:3"]
        ),
        "batch": BatchAnswer(rows),
    }


def _example_application() -> ApplicationAnswer:
    return ApplicationAnswer(
        EXAMPLE_APP, "doubles", 100_000, "-1.0", "static", ["sum:1"], REQUESTS[0].body
    )


# -- pieces ------------------------------------------------------------------------------


def error_refs(errors: Errors) -> Json:
    return {
        str(status): {"$ref": f"#/components/responses/{response_name(status)}"}
        for status in sorted({error.status for error in errors})
    }


def response_name(status: int) -> str:
    """What the answer with an error of this status is called among the components."""
    return f"Error{status}"


def ref(struct: type[msgspec.Struct]) -> Json:
    return {"$ref": SCHEMAS + struct.__name__}


def json_response(description: str, schema: Json, **examples: msgspec.Struct) -> Json:
    content: Json = {"schema": schema}
    if examples:
        content["examples"] = {
            name: {"value": to_builtins(value)} for name, value in examples.items()
        }
    return {"description": description, "content": {JSON: content}}
