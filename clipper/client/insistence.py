"""Sending again what counts once however often it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from clipper.errors import ClipperError, Overloaded, ServerUnreachable, Unavailable

T = TypeVar("T")

# Seconds before the second try and the third, unless the server says when to come again.
WAITS = (0.1, 0.5)
LONGEST_WAIT = 2.0

PASSING = (Overloaded, Unavailable, ServerUnreachable)


async def insist(
    send: Callable[[], Awaitable[T]],
    repeatable: bool,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """What `send` gives. Where that fails in a way that may pass it is tried twice more,
    if it is `repeatable`."""
    for wait in WAITS if repeatable else ():
        try:
            return await send()
        except PASSING as error:
            await sleep(_pause(wait, error))
    return await send()


def _pause(wait: float, error: ClipperError) -> float:
    asked = error.retry_after if isinstance(error, ClipperError) else None
    return wait if asked is None else min(max(wait, float(asked)), LONGEST_WAIT)


def batched(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Lists of at most so many items."""
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some
