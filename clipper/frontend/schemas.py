"""The bodies of requests and answers on the query port, one struct each.

They decode the requests, and /openapi.json is generated from them: there is no second
description that could drift.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from clipper.inputs import SPELLINGS, InputType
from clipper.registration import MAX_CANDIDATES, MAX_TEXT, RESERVED
from clipper.values import NAME

KnownUid = (
    Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Meta(max_length=256)]
)
Uid = KnownUid | None


def described(**schema: Any) -> Meta:
    """What is only described here, and checked elsewhere with a sentence of its own."""
    return Meta(extra_json_schema=schema)


_NAMES = described(pattern=f"^{NAME.pattern}$")
Name = Annotated[str, _NAMES]
_Number = Annotated[int, described(minimum=0)]
NamedVersion = _Number | Name
Version = _Number | Annotated[str, Meta(max_length=64), _NAMES] | None
ApplicationName = Annotated[str, _NAMES, described(**{"not": {"enum": sorted(RESERVED)}})]
ModelNames = Annotated[list[Name], described(uniqueItems=True, maxItems=MAX_CANDIDATES)]
Labels = Annotated[list[Name], Meta(max_length=64)]
InputTypeName = Annotated[str, described(enum=sorted(SPELLINGS))]
# A string, or null for none.
DefaultOutput = Annotated[Any, described(type=["string", "null"], maxLength=MAX_TEXT)]
Milliseconds = Annotated[float, Meta(gt=0)] | None
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class Envelope(msgspec.Struct):
    """What every prediction request may carry beside its input."""

    uid: Annotated[
        Uid, Meta(description="whose query it is; personalised policies learn per uid")
    ] = None
    context: Annotated[Any, Meta(description="features for contextual policies")] = None
    version: Annotated[
        Version,
        Meta(description="a version of the single linked model other than the current"),
    ] = None
    deadline_ms: Annotated[
        Milliseconds,
        Meta(description="milliseconds to answer in; may only shorten the SLO"),
    ] = None
    cache: Annotated[
        bool | None, Meta(description="false bypasses the prediction cache")
    ] = None


# No input is UNSET rather than None, because null is an input of type json.
INPUT = Meta(description="one input of the application's type")
INPUT_BATCH = Meta(description="many inputs of the application's type")


class AnyRequest(Envelope):
    """A request of any input type: base64 text for bytes, any value for json, nested
    arrays of one shape for the types of numbers."""

    # values are checked by hand
    input: Annotated[Any, INPUT] = UNSET
    input_batch: Annotated[Any, INPUT_BATCH] = UNSET


class NumbersRequest(Envelope):
    """A request with arrays of numbers, for the types doubles and floats."""

    # decoded without a second look, like the two below
    input: Annotated[list[float] | UnsetType, INPUT] = UNSET
    input_batch: Annotated[list[list[float]] | UnsetType, INPUT_BATCH] = UNSET


class IntegersRequest(Envelope):
    """A request with arrays of integers, for the type ints."""

    input: Annotated[list[Int32] | UnsetType, INPUT] = UNSET
    input_batch: Annotated[list[list[Int32]] | UnsetType, INPUT_BATCH] = UNSET


class StringsRequest(Envelope):
    """A request with strings, for the type strings."""

    input: Annotated[str | UnsetType, INPUT] = UNSET
    input_batch: Annotated[list[str] | UnsetType, INPUT_BATCH] = UNSET


FAST: dict[InputType, type[Envelope]] = {
    InputType.INTS: IntegersRequest,
    InputType.FLOATS: NumbersRequest,
    InputType.DOUBLES: NumbersRequest,
    InputType.STRINGS: StringsRequest,
}


class FeedbackItem(msgspec.Struct, forbid_unknown_fields=True):
    """What an answer was worth: of a query, by its id, or of an input, by its label."""

    # What is Raw here is any JSON, decoded once its size is known.
    query_id: Annotated[
        Annotated[str, Meta(max_length=128)] | None,
        Meta(description="the query this is about, as its answer named it"),
    ] = None
    label: Annotated[
        Raw | UnsetType,
        Meta(description="what the output should have been; a reward instead of it"),
    ] = UNSET
    reward: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="how good the answer was, from 0 to 1"),
    ] = None
    uid: Annotated[
        Uid, Meta(description="whose feedback it is; with a query_id it is known already")
    ] = None
    input: Annotated[
        Raw | UnsetType,
        Meta(
            description="the input that the label is of; without a query_id, or where "
            "the answer `resend_input` asked for it"
        ),
    ] = UNSET
    context: Annotated[
        Raw | UnsetType,
        Meta(description="the features of the query, where `input` is sent again"),
    ] = UNSET
    feedback_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=128)] | None,
        Meta(description="without a query_id: names this feedback, so that it counts once"),
    ] = None


class UpdateRequest(FeedbackItem):
    """Feedback, or a list of it."""

    feedback: Annotated[
        list[FeedbackItem] | UnsetType, Meta(description="several pieces of feedback")
    ] = UNSET


class FeedbackAnswer(msgspec.Struct):
    """Feedback that is in the log."""

    accepted: bool
    duplicate: Annotated[
        bool, Meta(description="whether the same was said before; it counts once")
    ]


QueryId = Annotated[
    str, Meta(max_length=128, description="names this prediction in feedback on it")
]
Code = Annotated[str, Meta(description="a stable code, for programs")]
Cause = Annotated[
    str, Meta(description="a sentence that says what, where and what was expected")
]


class PredictionAnswer(msgspec.Struct, omit_defaults=True):
    """One prediction."""

    query_id: QueryId
    output: Annotated[Any, Meta(description="what the model returned for this input")]
    default: Annotated[
        bool, Meta(description="whether `output` is the application's default output")
    ]
    default_explanation: Annotated[
        str, Meta(description="why it is; left out where a model answered")
    ] = ""
    model: Annotated[
        str | UnsetType,
        Meta(description="which model answered, as name:version, if there was a choice"),
    ] = UNSET
    confidence: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | UnsetType,
        Meta(description="how sure an ensemble is of it, from 0 to 1"),
    ] = UNSET
    missing: Annotated[
        list[str] | UnsetType,
        Meta(description="members of an ensemble that came too late, as name:version"),
    ] = UNSET


class RowFailure(msgspec.Struct):
    """A row of a batch on which the model failed, without a default output."""

    query_id: QueryId
    error: Code
    cause: Cause


# A union of untagged structs, which msgspec describes only when it is spelled out.
BatchedAnswer = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "anyOf": [
                {"$ref": f"#/components/schemas/{row.__name__}"}
                for row in (PredictionAnswer, RowFailure)
            ]
        }
    ),
]


class BatchAnswer(msgspec.Struct):
    """The predictions of an `input_batch`."""

    batch_predictions: Annotated[
        list[BatchedAnswer], Meta(description="one answer for each row, in order")
    ]


# A union of untagged structs again.
FeedbackOutcome = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "anyOf": [
                {"$ref": f"#/components/schemas/{row}"}
                for row in ("FeedbackAnswer", "ErrorAnswer")
            ]
        }
    ),
]


class FeedbackListAnswer(msgspec.Struct):
    """What became of a list of feedback."""

    feedback: Annotated[
        list[FeedbackOutcome], Meta(description="one answer for each piece, in order")
    ]


class ErrorAnswer(msgspec.Struct):
    """What went wrong."""

    error: Code
    cause: Cause


class ApplicationAnswer(msgspec.Struct):
    """An application as GET /{app} shows it."""

    name: str
    input_type: Annotated[
        str, Meta(description="ints, floats, doubles, strings, bytes or json")
    ]
    latency_slo_micros: Annotated[
        int, Meta(description="the latency objective in microseconds")
    ]
    default_output: Annotated[
        str | None,
        Meta(description="the answer where no model has one; null: an error instead"),
    ]
    policy: Annotated[str, Meta(description="how it chooses among its models")]
    models: Annotated[
        list[str],
        Meta(
            description="current versions of the linked models as name:version, or the "
            "name alone where a model has none"
        ),
    ]
    example_request: Annotated[
        dict[str, Any], Meta(description="a body that POST /{app}/predict takes")
    ]


class HealthAnswer(msgspec.Struct):
    """How the server is."""

    status: Annotated[str, Meta(description="live, ready, starting or draining")]
    models: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="by name:version, each with its state and live replicas"),
    ] = {}
    applications: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="those that cannot choose as they should, by name"),
    ] = {}
