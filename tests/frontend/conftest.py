"""The event loop that the server runs on, and servers that the tests of a file share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import uvloop

from clipper import Server

from .raw import add_echo, serving

_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A test file names its event loops in LOOPS."""
    names = getattr(getattr(item, "module", None), "LOOPS", ("asyncio",))
    return {name: _FACTORIES[name] for name in names}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    """Applications without models."""
    async with serving() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo_server() -> AsyncIterator[Server]:
    """Applications without models, and two with a model that returns its input."""
    async with serving() as server:
        await add_echo(server)
        yield server
