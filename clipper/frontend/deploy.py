"""POST /admin/deploy: receive a packaged function, bring it up, tell how it goes.

A refusal before anything was started is an ordinary error with its status. Otherwise the
answer is 200 and JSON lines, one for each stage and one at least every few seconds; the
last tells that the version is live, or the error. A deployer that goes away does not end
its deploy: what was accepted goes on, and /admin/status shows what became of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from io import BytesIO
from typing import Annotated, Any

import msgspec
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Meta

from clipper.config import MIB, Limits
from clipper.engine import Engine
from clipper.errors import (
    BodyTimeout,
    ClipperError,
    InvalidInput,
    MalformedRequest,
    PayloadTooLarge,
    TooManyRequests,
    Unavailable,
)
from clipper.frontend.gate import MSGPACK, MULTIPART, Gate
from clipper.frontend.lines import Lines
from clipper.frontend.operations import decode_json, decode_msgpack
from clipper.frontend.schemas import InputTypeName, Labels, Name, described
from clipper.frontend.schemas import NamedVersion as Version
from clipper.frontend.web import HEAD
from clipper.records import BatchingSettings, ModelRecord
from clipper.values import check_name
from clipper.workers.packaging import python_version

logger = logging.getLogger(__name__)

# An upload may be this slow, in bytes per second, beyond the time for any body.
SLOWEST = 256 * 1024
# The manifest holds one example and the function's source, and stays in memory.
MANIFEST_BYTES = 4 * MIB
CHUNK = 256 * 1024
HEARTBEAT = 5.0  # seconds between lines at most

_MALFORMED = (
    ValueError,
    RuntimeError,
    AssertionError,
    HttpProcessingError,
    web.RequestPayloadError,
)

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What a deployer says of a function."""

    model_name: Name
    model_version: Version
    input_type: InputTypeName
    labels: Labels = []
    num_replicas: Positive = 1
    batching: BatchingSettings = BatchingSettings()
    retry: bool = True
    example: Any = None
    python: Annotated[str, Meta(max_length=32)] = ""
    packages: dict[str, str] = {}
    source: str = ""
    environment: dict[str, str] = {}
    memory_limit: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    spares: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    recycle_after: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    recycle_memory: Annotated[int, Meta(ge=1, le=2**62)] | None = None

    def record(self) -> ModelRecord:
        return ModelRecord(
            name=self.model_name,
            version=check_name("model_version", self.model_version),
            input_type=self.input_type,
            generation=0,
            labels=self.labels,
            num_replicas=self.num_replicas,
            batching=self.batching,
            retry=self.retry,
            example=self.example,
            python=self.python,
            packages=self.packages,
            source=self.source,
            environment=self.environment,
            memory_limit=self.memory_limit,
            spares=self.spares,
            recycle_after=self.recycle_after,
            recycle_memory=self.recycle_memory,
        )


class Upload(msgspec.Struct, forbid_unknown_fields=True):
    """The msgpack form of a deploy. While it is decoded the function is in memory twice;
    large ones are better sent as multipart."""

    manifest: Manifest
    function: Annotated[bytes, described(minLength=1)]


class DeployRoute:
    """The handler of one route. `heartbeat` is in seconds."""

    def __init__(
        self, engine: Engine, gate: Gate, limits: Limits, heartbeat: float = HEARTBEAT
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._limits = limits
        self._heartbeat = heartbeat
        # All mutable state: uploads that were taken; their functions are, or will be, in
        # memory. Those that are refused are only heard out, and take nobody's place.
        self._under_way = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        limit = self._limits.deploy_body
        media = self._gate.check_body(request[HEAD], (MULTIPART, MSGPACK), limit)
        seconds = self._limits.body_seconds + (request.content_length or limit) / SLOWEST
        taken = self._under_way < self._limits.deploys
        self._under_way += taken
        try:
            try:
                async with asyncio.timeout(seconds):
                    spec, function = await self._receive(request, media, taken)
            except TimeoutError:
                raise BodyTimeout("the upload took too long") from None
            return await self._deploy(request, spec, function)
        finally:
            self._under_way -= taken

    # -- receiving ----------------------------------------------------------------------

    async def _receive(
        self, request: web.Request, media: str, taken: bool
    ) -> tuple[ModelRecord, bytes]:
        try:
            if not taken:
                raise TooManyRequests(
                    f"{self._limits.deploys} deploys are under way, the most allowed"
                )
            read = self._read_multipart if media == MULTIPART else self._read_msgpack
            spec, function = await read(request)
            if not function:
                raise InvalidInput("the function is empty")
            return self._engine.deploys.check(spec), function
        except PayloadTooLarge:
            raise
        except ClipperError:
            # a client that is still sending would see a broken connection in place of
            # this error: hear it out first
            await self._skip(request)
            raise

    async def _read_multipart(self, request: web.Request) -> tuple[ModelRecord, bytes]:
        try:
            reader = await request.multipart()
            part = await _next_part(reader, "manifest")
            manifest = await self._read_part(request, part, MANIFEST_BYTES)
            spec = decode_json(manifest, Manifest).record()
            # what would be refused is not kept in memory
            self._engine.deploys.check(spec)
            part = await _next_part(reader, "function")
            function = await self._read_part(request, part, self._limits.deploy_body)
            if await reader.next() is not None:
                raise InvalidInput("Expected nothing after the part `function`")
        except _MALFORMED:
            raise MalformedRequest("the body is not valid multipart/form-data") from None
        return spec, function

    async def _read_part(
        self, request: web.Request, part: BodyPartReader, limit: int
    ) -> bytes:
        buffer = BytesIO()
        while not part.at_eof():
            buffer.write(await part.read_chunk(CHUNK))
            if buffer.tell() > limit:
                raise PayloadTooLarge(
                    f"the part `{part.name}` may have at most {limit} bytes"
                )
            self._check_size(request)
        return buffer.getvalue()  # shares the buffer's memory

    async def _read_msgpack(self, request: web.Request) -> tuple[ModelRecord, bytes]:
        buffer = BytesIO()
        while part := await self._next_bytes(request):
            buffer.write(part)
        upload = decode_msgpack(buffer.getvalue(), Upload)
        return upload.manifest.record(), upload.function

    async def _skip(self, request: web.Request) -> None:
        with suppress(ClipperError):
            while await self._next_bytes(request):
                pass

    async def _next_bytes(self, request: web.Request) -> bytes:
        try:
            part = await request.content.readany()
        except _MALFORMED:
            raise MalformedRequest("the body is not valid HTTP/1.1") from None
        self._check_size(request)
        return part

    def _check_size(self, request: web.Request) -> None:
        limit = self._limits.deploy_body
        if request.content.total_bytes > limit:
            raise PayloadTooLarge(f"the body may have at most {limit} bytes")

    # -- deploying ----------------------------------------------------------------------

    async def _deploy(
        self, request: web.Request, spec: ModelRecord, function: bytes
    ) -> web.StreamResponse:
        # its length is bounded by the number of replicas; None ends it
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def progress(stage: str, details: dict[str, Any]) -> None:
            events.put_nowait({"stage": stage, **details})

        progress("received", {"bytes": len(function)})
        progress("environment", {"python": python_version()})
        work = self._engine.deploys.begin(spec, function, progress)
        work.add_done_callback(lambda _: events.put_nowait(None))
        lines = Lines(request, self._limits.write_seconds)
        try:
            async for event in self._watch(work, events):
                await lines.write(event)
        finally:
            # only the end of the server cancels a deploy
            work.cancel()
            await asyncio.wait((work,))
        error = _error_of(spec, work)
        if error is not None:
            await lines.write(error.body())
        await lines.end()
        return lines.response

    async def _watch(
        self,
        work: asyncio.Task[ModelRecord],
        events: asyncio.Queue[dict[str, Any] | None],
    ) -> AsyncIterator[dict[str, Any]]:
        """Each event, and the last one again with the time while none comes."""
        now = self._engine.clock.now
        begun, last = now(), {"stage": "received"}
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    event = await events.get()
            except TimeoutError:
                event = {**last, "seconds": round(now() - begun, 3)}
                if self._engine.draining:  # it could not be committed any more
                    work.cancel()
            if event is None:
                return
            yield event
            last = event


async def _next_part(reader: MultipartReader, name: str) -> BodyPartReader:
    part = await reader.next()
    if not isinstance(part, BodyPartReader) or part.name != name:
        raise InvalidInput(
            "Expected the parts `manifest` (JSON) and `function` (bytes), in this order"
        )
    encoding = part.headers.get("Content-Transfer-Encoding", "binary").lower()
    if encoding not in ("binary", "8bit", "7bit"):
        raise InvalidInput(f"the part `{name}` must be sent as it is, not encoded")
    return part


def _error_of(spec: ModelRecord, work: asyncio.Task[ModelRecord]) -> ClipperError | None:
    """What a finished deploy failed with, told to operators as well."""
    if work.cancelled():
        return Unavailable("the server is shutting down")
    error = work.exception()
    if error is None:
        logger.info("%s is deployed", spec.key)
        return None
    if isinstance(error, ClipperError):
        logger.warning("the deploy of %s failed: %s", spec.key, error)
        return error
    logger.error("the deploy of %s failed", spec.key, exc_info=error)
    return ClipperError("the server failed on this deploy")
