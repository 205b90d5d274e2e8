"""Batch controllers by name."""

from __future__ import annotations

from clipper.batching.aimd import AIMD
from clipper.batching.controller import BatchController
from clipper.batching.fixed import Fixed
from clipper.errors import InvalidInput
from clipper.records import BatchingSettings

# Rows of one batch when nobody set a bound. Past this, models gain nothing that their
# latency does not take back, and a batch would block the pipe to its worker for long.
MAX_BATCH_SIZE = 4096

NAMES = ("aimd", "fixed", "none")


def make_controller(settings: BatchingSettings, objective: float) -> BatchController:
    """The controller that the settings name; `objective` in seconds."""
    bound = settings.max_batch_size
    if bound is not None and bound < 1:
        raise InvalidInput("max_batch_size must be at least 1")
    if settings.controller == "aimd":
        return AIMD(objective, bound or MAX_BATCH_SIZE)
    if settings.controller == "fixed":
        if bound is None:
            raise InvalidInput('batching "fixed" needs max_batch_size, the size itself')
        return Fixed(objective, bound)
    if settings.controller == "none":
        return Fixed(objective, 1)
    raise InvalidInput(
        f"batching must be one of {', '.join(NAMES)}, got {settings.controller!r:.60}"
    )
