"""Batch controllers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from clipper.batching.aimd import AIMD
from clipper.batching.controller import BatchController
from clipper.batching.fixed import Fixed
from clipper.batching.goodput import Goodput
from clipper.batching.quantile import QuantileRegression
from clipper.errors import InvalidInput
from clipper.records import BatchingSettings

# Rows of one batch when nobody set a bound. Past this, models gain nothing that their
# latency does not take back, and a batch would block the pipe to its worker for long.
MAX_BATCH_SIZE = 4096

MAX_WAIT = 60_000.0  # milliseconds

# How a user says it: the name of a controller, or settings.
Batching: TypeAlias = str | Mapping[str, Any] | BatchingSettings

# Makes a controller from its objective in seconds and the most rows of a batch. A program
# may add its own before it deploys a model that names it.
Factory = Callable[[float, int], BatchController]

CONTROLLERS: dict[str, Factory] = {
    "aimd": AIMD,
    "goodput": Goodput,
    "quantile": QuantileRegression,
    "fixed": Fixed,
    "none": lambda objective, bound: Fixed(objective, 1),
}


def make_controller(settings: BatchingSettings, objective: float) -> BatchController:
    """The controller that the settings name; `objective` in seconds."""
    check(settings)
    return CONTROLLERS[settings.controller](
        objective, settings.max_batch_size or MAX_BATCH_SIZE
    )


def check(settings: BatchingSettings) -> None:
    """Raises InvalidInput for settings that no controller could work with."""
    bound, wait = settings.max_batch_size, settings.batch_wait
    if settings.controller not in CONTROLLERS:
        names = ", ".join(CONTROLLERS)
        raise InvalidInput(
            f"batching must be one of {names}, got {settings.controller!r:.60}"
        )
    if bound is not None and bound < 1:
        raise InvalidInput("max_batch_size must be at least 1")
    if bound is None and settings.controller == "fixed":
        raise InvalidInput('batching "fixed" needs max_batch_size, the size itself')
    number = isinstance(wait, (int, float)) and not isinstance(wait, bool)
    if wait != "auto" and not (number and 0 <= float(wait) <= MAX_WAIT):
        raise InvalidInput(
            f'batch_wait must be "auto" or milliseconds from 0 to {MAX_WAIT:g}, '
            f"got {wait!r:.60}"
        )


def batching_fields(batching: Batching, max_batch_size: int | None) -> dict[str, Any]:
    """What a user gave, as the fields of BatchingSettings."""
    if isinstance(batching, BatchingSettings):
        fields: dict[str, Any] = msgspec.to_builtins(batching)
    elif isinstance(batching, str):
        fields = {"controller": batching}
    elif isinstance(batching, Mapping):
        fields = dict(batching)
    else:
        raise InvalidInput(
            "batching must be the name of a controller, such as 'aimd', or its settings, "
            f"such as {{'controller': 'fixed', 'max_batch_size': 8}}; got {batching!r:.100}"
        )
    if max_batch_size is not None:
        fields["max_batch_size"] = max_batch_size
    return fields


def batching_settings(batching: Batching, max_batch_size: int | None) -> BatchingSettings:
    """The same, checked for names and types."""
    try:
        return msgspec.convert(batching_fields(batching, max_batch_size), BatchingSettings)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"batching: {error}") from None
