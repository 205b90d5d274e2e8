"""The words of /openapi.json and /docs: examples of requests, and what errors mean.

What has a form of its own, the schemas, the statuses and the codes, is not repeated here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from clipper import errors
from clipper.frontend.api import EXAMPLES
from clipper.inputs import InputType

ABOUT = """\
Clipper answers predictions over HTTP within the latency objective of an application. An
application is a name with an input type, an objective, a policy and linked models; the
policy chooses which model answers.

Bodies are JSON unless a route says otherwise, and answers always are. Integers are written
without a fraction: `1`, not `1.0`. A server that
wants a token for predictions takes it as `Authorization: Bearer TOKEN`."""


class Example(NamedTuple):
    """A request body for an application of type `kind`."""

    name: str
    kind: InputType
    summary: str
    description: str
    body: dict[str, Any]


def _one(kind: InputType, summary: str, description: str) -> Example:
    body = {"input": EXAMPLES[kind]}
    return Example(kind.value, kind, summary, description, body)


REQUESTS = (
    _one(
        InputType.DOUBLES,
        "An array of numbers, type doubles",
        "The function sees rows of numpy float64: one 2-D array if all have the same "
        "length, else a list of arrays.",
    ),
    _one(
        InputType.FLOATS,
        "An array of numbers, type floats",
        "The function sees numpy float32.",
    ),
    _one(
        InputType.INTS,
        "An array of integers, type ints",
        "The function sees numpy int32; a number outside of 32 bits is an error.",
    ),
    _one(InputType.STRINGS, "A string, type strings", "The function sees `str`."),
    _one(
        InputType.BYTES,
        "Bytes as base64, type bytes",
        "The function sees `bytes`. In msgpack they may stand as they are.",
    ),
    _one(
        InputType.JSON,
        "Any JSON value, type json",
        "The function sees the value as Python knows it.",
    ),
    Example(
        "tensor",
        InputType.FLOATS,
        "A shaped input",
        "Nested arrays of one shape, for the types of numbers.",
        {"input": [[0.0, 0.5], [1.0, 0.25]]},
    ),
    Example(
        "batch",
        InputType.DOUBLES,
        "Several inputs at once",
        "Each row is a query of its own; the answers come in the order of the rows.",
        {"input_batch": [[1.1, 2.2], [3.3, 4.4]]},
    ),
    Example(
        "options",
        InputType.DOUBLES,
        "With everything that may be said about a query",
        "",
        {
            "input": [1.1, 2.2, 3.3],
            "uid": "alice",
            "context": {"hour": 9},
            "version": "1",
            "deadline_ms": 20,
            "cache": False,
        },
    ),
)

_QUERY = "AQCe3wJrAQAAAAEAAAACAAAA"  # as an answer named it; real ones are longer

FEEDBACK = (
    Example(
        "label",
        InputType.DOUBLES,
        "On a query, by what its output should have been",
        "A label is any JSON value that the application's loss understands.",
        {"query_id": _QUERY, "label": 6.6},
    ),
    Example(
        "reward",
        InputType.DOUBLES,
        "On a query, by how good its answer was",
        "From 0, of no use, to 1, as good as can be.",
        {"query_id": _QUERY, "reward": 0.9},
    ),
    Example(
        "input",
        InputType.DOUBLES,
        "On an input, by its label",
        "For policies that learn from every candidate's output, such as ensembles; the "
        "candidates are asked for it at low priority. `feedback_id` makes it count once.",
        {
            "uid": "alice",
            "input": [1.1, 2.2, 3.3],
            "label": 6.6,
            "feedback_id": "order-1729",
        },
    ),
    Example(
        "resend",
        InputType.DOUBLES,
        "Again, with what the server has lost",
        "The answer to `resend_input`.",
        {
            "query_id": _QUERY,
            "label": 6.6,
            "uid": "alice",
            "input": [1.1, 2.2, 3.3],
            "context": [0.5, 1.0],
        },
    ),
    Example(
        "list",
        InputType.DOUBLES,
        "Several pieces at once",
        "",
        {
            "feedback": [
                {"query_id": _QUERY, "reward": 1},
                {"input": [4.4], "label": 4.4, "feedback_id": "order-1730"},
            ]
        },
    ),
)


class ErrorNote(NamedTuple):
    """When an error happens, and what its sentence may be."""

    error: type[errors.ClipperError]
    meaning: str
    cause: str


ERRORS = (
    ErrorNote(
        errors.InvalidInput,
        "The body is malformed, or a value has the wrong type or range.",
        "Expected a number, got a string at $.input[3]",
    ),
    ErrorNote(
        errors.MalformedRequest,
        "The HTTP request itself is malformed.",
        "the Host header is missing",
    ),
    ErrorNote(
        errors.Unauthorized,
        "The token is missing or wrong.",
        "send the header 'Authorization: Bearer TOKEN'",
    ),
    ErrorNote(
        errors.Forbidden,
        "The request comes from a page of another site.",
        "requests from other sites are not allowed",
    ),
    ErrorNote(
        errors.NotFound,
        "There is no such application, route or query id.",
        "there is no application 'digits'",
    ),
    ErrorNote(
        errors.MethodNotAllowed,
        "The route takes another method.",
        "this route takes POST",
    ),
    ErrorNote(
        errors.BodyTimeout,
        "The body did not come in time.",
        "the body took too long",
    ),
    ErrorNote(
        errors.Conflict,
        "The request and the state of the server exclude each other.",
        "application 'digits' already exists",
    ),
    ErrorNote(
        errors.ResendInput,
        "What was decided on the query is lost; with its input the feedback can be taken.",
        "the decision behind this query id was lost; send the feedback again with the "
        "query's input and context",
    ),
    ErrorNote(
        errors.QueryIdExpired,
        "The query was answered too long ago.",
        "the query id is older than 7 days",
    ),
    ErrorNote(
        errors.PayloadTooLarge,
        "The body has too many bytes, or too many rows.",
        "the body may have at most 16777216 bytes",
    ),
    ErrorNote(
        errors.UnsupportedMediaType,
        "The body is not of a type that the route takes, or it is compressed.",
        "Content-Type must be application/json or application/msgpack or application/x-npy",
    ),
    ErrorNote(
        errors.MisdirectedRequest,
        "The Host header names a host that this server does not answer for.",
        "this host name is not served; name it in --allowed-hosts to allow it",
    ),
    ErrorNote(
        errors.TooManyRequests,
        "There are as many of something as are allowed.",
        "4 deploys are under way, the most allowed",
    ),
    ErrorNote(
        errors.HeadersTooLarge,
        "The request line or the headers are too large.",
        "the request line or the headers are too large",
    ),
    ErrorNote(
        errors.ClipperError,
        "The server failed; its log says more.",
        "the server failed on this request",
    ),
    ErrorNote(
        errors.ModelFailed,
        "The model failed, and the application has no default output.",
        "The model raised an exception",
    ),
    ErrorNote(
        errors.Overloaded,
        "Too much work is waiting. Nothing of the request was done.",
        "The model is overloaded and cannot answer in time",
    ),
    ErrorNote(
        errors.Unavailable,
        "No replica can answer, or the server starts or drains.",
        "No connected models found for query",
    ),
    ErrorNote(
        errors.StoreError,
        "The logs on the disk cannot be used; the log of the server says why.",
        "the logs cannot be used; the server's own log says why",
    ),
    ErrorNote(
        errors.DeadlineExceeded,
        "No answer came in time, and the application has no default output.",
        "Failed to retrieve a prediction response within the specified latency SLO",
    ),
    ErrorNote(
        errors.HTTPVersionNotSupported,
        "The request speaks another HTTP than 1.0 or 1.1.",
        "HTTP/1.1 is spoken here",
    ),
    ErrorNote(
        errors.DiskFull, "There is no room to keep what was sent.", "the disk is full"
    ),
)
