"""An answer of JSON lines, written as they come."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from clipper.frontend.responses import SAFE_HEADERS


class Lines:
    """JSON lines as they come, to a reader that may go away."""

    def __init__(self, request: web.Request, write_seconds: float) -> None:
        self._request = request
        self._write_seconds = write_seconds
        # proxies that gather answers would hold the lines back
        headers = {**SAFE_HEADERS, "X-Accel-Buffering": "no"}
        self.response = web.StreamResponse(headers=headers)
        self.response.content_type = "application/x-ndjson"
        self._gone = False

    @property
    def gone(self) -> bool:
        """Whether the reader went away: what is written goes nowhere."""
        return self._gone

    async def write(self, value: dict[str, Any]) -> None:
        await self._send(msgspec.json.encode(value) + b"\n")

    async def write_all(self, lines: list[bytes]) -> None:
        """Write lines that are JSON already."""
        if lines:
            await self._send(b"\n".join(lines) + b"\n")

    async def end(self) -> None:
        await self._send(b"")

    async def _send(self, data: bytes) -> None:
        """Write, or end the answer with no data; nothing once the reader is gone."""
        if self._gone:
            return
        try:
            async with asyncio.timeout(self._write_seconds):
                if not self.response.prepared:
                    await self.response.prepare(self._request)
                if data:
                    await self.response.write(data)
                else:
                    await self.response.write_eof()
        except (ConnectionError, TimeoutError):
            self._gone = True
            if self._request.transport is not None:
                self._request.transport.abort()
