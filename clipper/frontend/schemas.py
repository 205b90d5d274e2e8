"""The bodies of requests and answers on the query port, one struct each.

They decode the requests, and /openapi.json is generated from them: there is no second
description that could drift.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clipper.inputs import InputType

Uid = (
    Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[str, Meta(max_length=256)]
    | None
)
Version = int | Annotated[str, Meta(max_length=64)] | None
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


class AnyRequest(Envelope):
    """A prediction request of any input type; values are checked by hand."""

    input: Any = UNSET
    input_batch: Any = UNSET


class NumbersRequest(Envelope):
    """Flat rows of numbers, the case that is decoded without a second look."""

    input: list[float] | UnsetType = UNSET
    input_batch: list[list[float]] | UnsetType = UNSET


class IntegersRequest(Envelope):
    input: list[Int32] | UnsetType = UNSET
    input_batch: list[list[Int32]] | UnsetType = UNSET


class StringsRequest(Envelope):
    input: str | UnsetType = UNSET
    input_batch: list[str] | UnsetType = UNSET


FAST: dict[InputType, type[Envelope]] = {
    InputType.INTS: IntegersRequest,
    InputType.FLOATS: NumbersRequest,
    InputType.DOUBLES: NumbersRequest,
    InputType.STRINGS: StringsRequest,
}


class PredictionAnswer(msgspec.Struct, omit_defaults=True):
    """One prediction."""

    query_id: Annotated[str, Meta(max_length=128)]
    output: Any
    default: bool
    default_explanation: str = ""


class RowFailure(msgspec.Struct):
    """A row of a batch on which the model failed, without a default output."""

    query_id: Annotated[str, Meta(max_length=128)]
    error: str
    cause: str


class BatchAnswer(msgspec.Struct):
    """The predictions of an input_batch, in order."""

    batch_predictions: list[PredictionAnswer | RowFailure]


class ErrorAnswer(msgspec.Struct):
    """What went wrong: a stable code and one sentence."""

    error: str
    cause: str


class ApplicationAnswer(msgspec.Struct):
    """An application as GET /{app} shows it."""

    name: str
    input_type: str
    latency_slo_micros: int
    default_output: str | None
    policy: str
    models: list[str]
    example_request: dict[str, Any]


class HealthAnswer(msgspec.Struct):
    """`status` is live, ready, starting or draining; models by name with their replicas."""

    status: str
    models: dict[str, dict[str, Any]] = {}
