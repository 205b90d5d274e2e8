"""GET /admin/feedback/{app}: the feedback log of an application, or the log of what was
decided, as JSON lines.

Each line is an object of its own with `seq`, its number, `at`, seconds since the epoch,
`uid`, `kind` and what that kind of entry holds. `key` is the same for a decision and for
the feedback on it. The logs are read and sent page by page, and the answer ends with what
there was when it began; `after` goes on behind a number. Decisions are written in chunks,
soon after they were made; all those of a chunk have its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from clipper.application import Application
from clipper.config import Limits
from clipper.engine import Engine
from clipper.errors import ClipperError, InvalidInput
from clipper.frontend.lines import Lines
from clipper.learning.chunks import Decision, decode_chunk
from clipper.store.base import Chunk, Logged

PAGE = 500  # entries that are read at once
CHUNKS = 2
LINES = 100  # of decisions that are made in one turn of the loop

KINDS = ("feedback", "decisions")

_encode = msgspec.json.Encoder().encode


class LogRoute:
    """Handler of the route."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits

    async def handle(self, request: web.Request) -> web.StreamResponse:
        application = self._engine.application(request.match_info["app"])
        kind, after = _parameters(request)
        pages = self._entries if kind == "feedback" else self._decisions
        lines = Lines(request, self._limits.write_seconds)
        try:
            async for page in pages(application, after):
                await lines.write_all(page)
                if lines.gone:
                    break
        except ClipperError as error:
            if not lines.response.prepared:
                raise
            await lines.write(error.body())
        await lines.end()
        return lines.response

    async def _entries(
        self, application: Application, after: int
    ) -> AsyncIterator[list[bytes]]:
        log, number = self._engine.learning.log, application.number
        last = application.learner.population.seq
        while after < last:
            page = await log.entries(number, after, PAGE)
            yield [entry_line(logged) for logged in page if logged.seq <= last]
            if not page:
                return
            after = page[-1].seq

    async def _decisions(
        self, application: Application, after: int
    ) -> AsyncIterator[list[bytes]]:
        engine, until = self._engine, self._engine.clock.wall()
        while chunks := await engine.learning.log.chunks(after, CHUNKS):
            for seq, chunk in chunks:
                if chunk.at > until:
                    return
                async for lines in _decision_lines(application, seq, chunk):
                    yield lines
            after = chunks[-1][0]


def _parameters(request: web.Request) -> tuple[str, int]:
    query = request.query
    unknown = [name for name in query if name not in ("kind", "after")]
    if unknown:
        raise InvalidInput(f"there is no parameter {unknown[0]!r:.60}")
    kind, after = query.get("kind", "feedback"), query.get("after", "0")
    if kind not in KINDS:
        raise InvalidInput(f"kind must be one of {', '.join(KINDS)}, got {kind!r:.60}")
    if not (after.isascii() and after.isdecimal() and len(after) <= 18):
        raise InvalidInput(f"after must be the number of an entry, got {after!r:.60}")
    return kind, int(after)


def entry_line(logged: Logged) -> bytes:
    """One entry of the feedback log; what it holds is JSON already."""
    seq, entry = logged
    head = {"seq": seq, "at": entry.at, "uid": entry.uid, "key": entry.key}
    return _encode(head)[:-1] + b"," + entry.body[1:]


async def _decision_lines(
    application: Application, seq: int, chunk: Chunk
) -> AsyncIterator[list[bytes]]:
    """Those of one application in a chunk, some at a time."""
    lines: list[bytes] = []
    for count, (nonce, row, decision) in enumerate(decode_chunk(chunk)):
        if decision.application == application.number:
            key = f"{nonce:x}.{row:x}"
            lines.append(_decision_line(application, seq, chunk.at, key, decision))
        if count % LINES == LINES - 1:
            yield lines
            lines = []
            await asyncio.sleep(0)  # queries go first
    yield lines


def _decision_line(
    application: Application, seq: int, at: float, key: str, decision: Decision
) -> bytes:
    text = application.rendering.text

    def shown(output: bytes | str) -> msgspec.Raw:
        return msgspec.Raw(text(output))

    answer: Any = None if decision.answer is None else shown(decision.answer)
    return _encode(
        {
            "seq": seq,
            "at": at,
            "uid": decision.uid,
            "key": key,
            "kind": "decision",
            "policy": decision.generation,
            "ensemble": decision.ensemble,
            "arms": decision.arms,
            "odds": decision.odds,
            "chosen": decision.chosen,
            "propensity": decision.propensity,
            "context": decision.context,
            "outputs": {arm: shown(output) for arm, output in decision.outputs.items()},
            "answer": answer,
            "failed": decision.failed,
        }
    )
