"""What the old server has a new one bring up before it lets go: all that answers here."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from clipper.engine import Engine
from clipper.handover.link import HandoverFailed
from clipper.handover.successor import Successor

if TYPE_CHECKING:
    from clipper.listening import Listening
    from clipper.server import Server

# Bounds in seconds: for deploys and other changes to end before it is given up, and for
# what was learned to be kept.
CHANGES_SECONDS = 300.0
KEEP_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_OFFERS = 20  # each after something has changed since the last one


async def prepare(server: Server, successor: Successor) -> str:
    """Have the new server bring up all that answers in this one; its version. Returns with
    deploys held, in the very turn in which both were seen to have the same. Raises
    HandoverFailed."""
    engine = server.engine
    version = await successor.hello()
    assert server.data_dir is not None
    listening: Listening | None = server.listening()
    offered = None
    try:
        for _ in range(_OFFERS):
            await _changes_end(engine)
            await engine.save(KEEP_SECONDS)
            await _changes_end(engine)  # those that began meanwhile
            records = engine.answering()
            wanted = {(r.key, r.generation, r.num_replicas) for r in records}
            if offered is not None and wanted <= offered:
                successor.check_alive()
                engine.changes.hold()
                return version
            await successor.prepare(server.data_dir, records, listening)
            offered = wanted
            if listening is not None:
                listening.close()
                listening = None
    finally:
        if listening is not None:
            listening.close()
    raise HandoverFailed("models are changed faster than a new server can follow")


async def _changes_end(engine: Engine) -> None:
    end = time.monotonic() + CHANGES_SECONDS
    while engine.changing:
        if time.monotonic() > end:
            raise HandoverFailed(
                f"a deploy has not ended within {CHANGES_SECONDS:g} seconds"
            )
        await asyncio.sleep(_LOOK_SECONDS)
