"""Waiting for what nobody tells: other processes, the other end of a socket, a thread."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

# Until a test gives up; mutants are many, and most make something wait in vain.
SECONDS = 6.0 if "MUTANT_UNDER_TEST" in os.environ else 60.0
PAUSE = 0.005


async def eventually(holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Let the loop run until it holds; what it gives then, awaited if it can be."""
    end = time.monotonic() + seconds
    while True:
        held = holds()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return held
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(PAUSE)


async def turns(count: int = 10) -> None:
    """Let all that is due have its turn of the loop, some times over."""
    for _ in range(count):
        await asyncio.sleep(0)


def block_until(holds: Callable[[], Any], seconds: float = SECONDS) -> None:
    """The same without a loop."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(PAUSE)
