"""Everything that decodes bytes of others, each as a function of bytes: it may raise the
errors that it names, and nothing else; what it takes must mean what others take it for;
and it may not need much more memory than the bytes themselves.

The same functions are driven by hypothesis in the tests, and by atheris, which follows the
branches of the code, for as long as one likes.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import io
import shutil
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp.http_parser
import msgspec
import numpy as np
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from fakes import ManualClock

from clipper.config import Limits, Settings, load_settings
from clipper.errors import (
    ConfigError,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    QueryIdExpired,
)
from clipper.frontend.decoding import Decoder, Request
from clipper.frontend.deploy import Manifest, Upload
from clipper.frontend.descriptions import FEEDBACK, REQUESTS
from clipper.frontend.exposition import _understood
from clipper.frontend.feedback_decoding import decode_feedback
from clipper.frontend.gate import JSON, MAX_HEADERS, MAX_LINE, MSGPACK, NPY, Gate
from clipper.frontend.heads import Heads
from clipper.frontend.npy import read_npy
from clipper.frontend.operations import decode_json, decode_msgpack
from clipper.inputs import InputType
from clipper.query_id import QueryIds
from clipper.registration import check_model
from clipper.values import RowError
from clipper.workers import wire

KINDS = tuple(InputType)
MEDIA = (JSON, MSGPACK, NPY)
LIMITS = Limits(body=65_536, rows_per_request=100)

# What decoding may take: a number of JSON has two bytes at least, and is an object of 24
# in a list of 8 each, which is copied where its shape is looked for; msgpack's is one
# byte. And some for the parsers themselves, whatever comes.
PER_BYTE = 400
AT_LEAST = 4 * 2**20


class Finding(AssertionError):
    """What must not happen with any bytes."""


class Target(NamedTuple):
    """A decoder: `run` is given any bytes, `seeds` are some that it takes."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def watched(run: Callable[[bytes], None], data: bytes) -> None:
    """Run a target on bytes, with an eye on its memory."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        run(data)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if started:
            tracemalloc.stop()
    if peak > AT_LEAST + PER_BYTE * len(data):
        raise Finding(f"{len(data)} bytes took {peak} bytes to decode")


# -- frames between server and worker ----------------------------------------------------


def _messages(accepts: Any, pieces: list[bytes]) -> list[Any]:
    """What the frames in the pieces say, and the name of the error that ended them."""
    decoder, found = wire.Decoder(accepts), list[Any]()
    try:
        for piece in pieces:
            decoder.feed(piece)
            while (received := decoder.next()) is not None:
                message, body = received
                found.append((message, bytes(body)))
                if isinstance(message, wire.Answer):
                    for output in wire.decode_outputs(body):
                        if not isinstance(output, (bytes, str, RowError)):
                            raise Finding(f"an output of type {type(output)}")
    except wire.WireError as error:
        found.append(str(error))
    return found


def frames(data: bytes) -> None:
    if not data:
        return
    cut, data = data[0] + 1, data[1:]
    accepts = wire.FROM_WORKER if cut % 2 else wire.FROM_SERVER
    whole = _messages(accepts, [data])
    pieces = [data[at : at + cut] for at in range(0, len(data), cut)]
    if _messages(accepts, pieces) != whole:
        raise Finding("the same bytes in pieces say something else")


def frame_seeds() -> list[bytes]:
    answer = wire.Answer(0, 3)
    outputs = wire.encode_outputs([b"1.5", "text", RowError("model_failed", "it failed")])
    messages: list[tuple[wire.Message, bytes]] = [
        (wire.Hello(1, "3.11", {"numpy": "2"}), b""),
        (wire.Loaded(0.5), b""),
        (wire.Refused("no", "because"), b""),
        (answer, outputs),
        (wire.Failed(1, "raised", "ValueError", "trace"), b""),
        (wire.Load("doubles"), b"function"),
        (wire.Call(1, 2, [1, 2], (1,)), b"\0" * 24),
    ]
    made = [b"".join(wire.encode(m, [body] if body else [])) for m, body in messages]
    own = [bytes([0 if i < 5 else 1]) + frame for i, frame in enumerate(made)]
    return [*own, b"\x02" + b"".join(made[:5])]


# -- query ids ---------------------------------------------------------------------------


@cache
def _ids() -> tuple[QueryIds, list[bytes]]:
    ids = QueryIds(b"k" * 32, ManualClock(), 3)
    stamp = ids.stamp(1, 2, 3, 0.5)
    return ids, [stamp.issue(0.0), stamp.issue(0.0, rows=20)]


def query_ids(data: bytes) -> None:
    ids, issued = _ids()
    text = data.decode("utf-8", "surrogateescape")
    try:
        token = ids.read(text)
    except (NotFound, QueryIdExpired):
        return
    name, _, row = text.partition(".")
    if name.encode() not in issued or token.row != int(row or 0):
        raise Finding(f"an id that nobody issued was taken: {text}")


def query_id_seeds() -> list[bytes]:
    one, many = _ids()[1]
    return [one, many, many + b".0", many + b".19", one[:-1], many + b".020"]


# -- bodies ------------------------------------------------------------------------------


@cache
def _decoder(kind: InputType) -> Decoder:
    return Decoder(kind, LIMITS)


def predictions(data: bytes) -> None:
    """The first byte says of which type and in which form, the second how many bytes of
    query parameters follow."""
    if len(data) < 2:
        return
    kind, media = KINDS[data[0] % 6], MEDIA[data[0] // 6 % 3]
    end = 2 + (data[1] % 128 if media == NPY else 0)
    parameters, body = data[2:end].decode("latin-1"), data[end:]
    try:
        request = _decoder(kind).decode(media, body, parameters)
    except (InvalidInput, PayloadTooLarge):
        return
    _check_request(request, kind)


def _check_request(request: Request, kind: InputType) -> None:
    rows = request.rows
    listed = [rows] if hasattr(rows, "shape") and not hasattr(rows, "rows") else rows
    if hasattr(listed, "split"):
        listed = listed.split()
    if not isinstance(listed, list) or len(listed) > LIMITS.rows_per_request:
        raise Finding("more rows than allowed")
    for row in listed:
        if kind.dtype is not None and len(row.payload) % kind.dtype.itemsize:
            raise Finding("a row of half a number")
    if request.deadline_ms is not None and not request.deadline_ms > 0:
        raise Finding(f"a deadline of {request.deadline_ms}")


def prediction_seeds() -> list[bytes]:
    found = []
    for example in REQUESTS:
        kind = KINDS.index(example.kind)
        found.append(bytes([kind, 0]) + msgspec.json.encode(example.body))
        found.append(bytes([kind + 6, 0]) + msgspec.msgpack.encode(example.body))
    head = bytes([12 + 2, 19]) + b"uid=a&deadline_ms=1"
    return found + [head + array for array in npy_seeds()]


def updates(data: bytes) -> None:
    if not data:
        return
    kind, media = KINDS[data[0] % 6], MEDIA[data[0] // 6 % 2]
    try:
        items, single = decode_feedback(kind, media, data[1:], LIMITS)
    except (InvalidInput, PayloadTooLarge):
        return
    if single != (len(items) == 1) and single:
        raise Finding("one piece that is several")
    for item in items:
        if item.reward is not None and not 0 <= item.reward <= 1:
            raise Finding(f"a reward of {item.reward}")


def update_seeds() -> list[bytes]:
    found = []
    for example in FEEDBACK:
        kind = KINDS.index(example.kind)
        found.append(bytes([kind]) + msgspec.json.encode(example.body))
        found.append(bytes([kind + 6]) + msgspec.msgpack.encode(example.body))
    return found


def manifests(data: bytes) -> None:
    if not data:
        return
    try:
        if data[0] % 2:
            spec = decode_msgpack(data[1:], Upload).manifest.record()
        else:
            spec = decode_json(data[1:], Manifest).record()
        check_model(spec)
    except InvalidInput:
        return


def manifest_seeds() -> list[bytes]:
    manifest = {
        "model_name": "sum",
        "model_version": 1,
        "input_type": "doubles",
        "labels": ["a"],
        "batching": {"controller": "aimd", "batch_wait": 1.5},
        "environment": {"A": "1"},
        "example": [1.0],
    }
    upload = {"manifest": manifest, "function": b"\x80\x04."}
    return [
        b"\0" + msgspec.json.encode(manifest),
        b"\1" + msgspec.msgpack.encode(upload),
    ]


# -- settings ----------------------------------------------------------------------------


@cache
def _place() -> Path:
    directory = tempfile.mkdtemp(prefix="settings-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory) / "clipper.toml"


def settings(data: bytes) -> None:
    path = _place()
    path.write_bytes(data)
    try:
        load_settings(path, {})
    except ConfigError as error:
        if str(path) not in str(error):
            raise Finding(f"an error that names no file: {error}") from None


def settings_seeds() -> list[bytes]:
    return [
        b'port = 1337\nallowed_hosts = ["a.example"]\n[limits]\nbody = 1000\n',
        b"durability = 'process'\n[learning]\nfeedback_days = 8.5\n",
        b'[limits]\nreplicas = 0x10\nidle_seconds = 1e3\n# comment\n"port" = 1\n',
    ]


# -- heads of requests -------------------------------------------------------------------


@cache
def _gates() -> tuple[Heads, asyncio.AbstractEventLoop]:
    return Heads(Gate(Settings(), "secret", admin=False), 10_000), asyncio.new_event_loop()


def heads(data: bytes) -> None:
    """A head that the hot lane takes is one that aiohttp's parser takes as well, and for
    the same request: nobody can hide a second one in it."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return
    hot, loop = _gates()
    hot.plans.clear()
    plan = hot.plan(data[:end])
    if plan is None:
        return
    parser = aiohttp.http_parser.HttpRequestParser(
        BaseProtocol(loop),
        loop,
        2**16,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        auto_decompress=False,
    )
    # what follows is another request, unless none may follow
    body = b"x" * plan.length + (b"" if plan.close else b"GET /next ")
    try:
        messages, upgraded, rest = parser.feed_data(data[:end] + body)
    except HttpProcessingError as error:
        raise Finding(f"only the hot lane takes {data[:end]!r}: {error}") from None
    if upgraded or rest or len(messages) != 1:
        raise Finding(f"not one request: {data[:end]!r}")
    message, payload = messages[0]
    target = message.path.partition("?")
    expected = (
        ("GET", plan.path, "")
        if plan.media is None
        else ("POST", f"/{plan.path}/{'update' if plan.update else 'predict'}", None)
    )
    found = (
        message.method,
        target[0] if plan.media is None else target[0].removesuffix("/"),
        "" if plan.media is None else None,
    )
    length = message.headers.get("Content-Length", "0")
    if found != expected or target[2] != plan.parameters or message.chunked:
        raise Finding(f"{found} for one, {plan} for the other: {data[:end]!r}")
    if int(length) != plan.length or (plan.length and not payload.is_eof()):
        raise Finding(f"a body of {length} for one, {plan} for the other: {data[:end]!r}")
    if message.should_close is not plan.close:
        raise Finding(f"only one of them closes after {data[:end]!r}")


def head_seeds() -> list[bytes]:
    lines = (
        "POST /digits/predict HTTP/1.1",
        "POST /digits/update/ HTTP/1.1",
        "POST /a.b-c/predict?uid=1&deadline_ms=2 HTTP/1.1",
    )
    fields = (
        "Host: localhost:1337\r\nContent-Type: application/json\r\nContent-Length: 12",
        "host: 127.0.0.1\r\ncontent-type: application/msgpack\r\ncontent-length: 7\r\n"
        "Connection: close",
        "Host: [::1]\r\nContent-Type: application/json; charset=utf-8\r\n"
        "Content-Length: 1\r\nAccept: */*\r\nConnection: keep-alive\r\nUser-Agent: x",
    )
    gets = (
        "GET /health/live HTTP/1.1\r\nHost: localhost",
        "GET /a HTTP/1.1\r\nHost: [::1]",
    )
    made = [f"{line}\r\n{each}" for line in lines for each in fields]
    odd = (
        "POST /digits/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked",
        "POST /digits/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        "Content-Length: 2\r\nContent-Type: application/json",
        "POST /digits/predict HTTP/1.1\nHost: localhost\nContent-Length:\t3",
    )
    return [f"{head}\r\n\r\n".encode() for head in (*made, *gets, *odd)]


# -- arrays ------------------------------------------------------------------------------


def arrays(data: bytes) -> None:
    """What is read is what numpy reads."""
    try:
        values = read_npy(data)
    except InvalidInput:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers in the style of Python 2
        expected = np.load(io.BytesIO(data), allow_pickle=False)
    same = values.dtype == expected.dtype and values.shape == expected.shape
    if not same or values.tobytes() != expected.tobytes():
        raise Finding("numpy reads something else")


def npy_seeds() -> list[bytes]:
    found = []
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype="<i4").reshape(3, 2)),
        np.zeros((0, 4), ">f4"),
        np.array([1, 2], "u1"),
    ):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    return found


# -- others ------------------------------------------------------------------------------


def accepts(data: bytes) -> None:
    """The Accept header of a scrape: whatever it is, there is an answer."""
    _understood(data.decode("latin-1"))


def accept_seeds() -> list[bytes]:
    return [b"*/*", b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"]


def base64_inputs(data: bytes) -> None:
    """Bytes come back as they were sent, by whichever way."""
    body = {"input": base64.b64encode(data).decode()}
    decoder = _decoder(InputType.BYTES)
    sent = decoder.decode(JSON, msgspec.json.encode(body)).rows
    packed = decoder.decode(MSGPACK, msgspec.msgpack.encode({"input": data})).rows
    if sent != packed or getattr(sent, "payload", None) != data:
        raise Finding("the bytes are not what was sent")


TARGETS = {
    "frames": Target(frames, frame_seeds),
    "query_ids": Target(query_ids, query_id_seeds),
    "predictions": Target(predictions, prediction_seeds),
    "updates": Target(updates, update_seeds),
    "manifests": Target(manifests, manifest_seeds),
    "settings": Target(settings, settings_seeds),
    "heads": Target(heads, head_seeds),
    "arrays": Target(arrays, npy_seeds),
    "accepts": Target(accepts, accept_seeds),
    "base64": Target(base64_inputs, lambda: [b"", b"clipper"]),
}
