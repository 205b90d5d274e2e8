"""Frames between a server and its worker. No I/O: bytes in, messages out.

A frame is a fixed header, a msgpack head and a raw body. The header holds a magic, the
kind of the message, the lengths of head and body, and a checksum of all that and the
head. The body has none: it never leaves the machine, and checking a large one costs more
than sending it. A fault of any sort is a WireError, after which the stream must not be
used again: whoever wrote one wrong byte may have written others.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, TypeAlias
from zlib import crc32

import msgspec

from clipper.values import Layout, Output, RowError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# -- messages: one struct per kind, which is also its head -----------------------------


class Hello(msgspec.Struct, array_like=True):
    """Worker: the interpreter runs and everything but the model is imported."""

    pid: int
    python: str
    versions: dict[str, str]


class Load(msgspec.Struct, array_like=True):
    """Server: load the packaged function that is the body."""

    input_type: str


class Loaded(msgspec.Struct, array_like=True):
    """Worker: the function is there; it took `seconds`."""

    seconds: float


class Refused(msgspec.Struct, array_like=True):
    """Worker: the function could not be loaded."""

    cause: str
    detail: str


class Call(msgspec.Struct, array_like=True):
    """Server: evaluate the rows in the body. `shape` is that of every row, or `shapes`
    has one per row (see Layout)."""

    id: int
    rows: int
    lengths: list[int] | None = None
    shape: tuple[int, ...] | None = None
    shapes: list[tuple[int, ...]] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.lengths, self.shapes if self.shape is None else self.shape)


class Answer(msgspec.Struct, array_like=True):
    """Worker: the outputs of one call; the body holds them, see encode_outputs."""

    id: int
    rows: int


class Failed(msgspec.Struct, array_like=True):
    """Worker: a call that has no outputs. `kind` is the value of a FailureKind."""

    id: int
    kind: str
    cause: str
    detail: str


Message: TypeAlias = Hello | Load | Loaded | Refused | Call | Answer | Failed

_CODES: dict[type[Message], int] = {
    Hello: 1,
    Load: 2,
    Loaded: 3,
    Refused: 4,
    Call: 5,
    Answer: 6,
    Failed: 7,
}
_HEAD_CAP = 64 * MIB
# Largest head and body of each message that one side may send to the other.
FROM_SERVER: dict[type[Message], tuple[int, int]] = {
    Load: (64 * KIB, 512 * MIB),
    Call: (_HEAD_CAP, GIB),
}
FROM_WORKER: dict[type[Message], tuple[int, int]] = {
    Hello: (64 * KIB, 0),
    Loaded: (64 * KIB, 0),
    Refused: (256 * KIB, 0),
    Answer: (64 * KIB, 256 * MIB),
    Failed: (256 * KIB, 0),
}
_CAPS = FROM_SERVER | FROM_WORKER

_START = Struct("<3sBII")  # magic, kind, head length, body length
_HEADER = Struct(f"{_START.format}I")  # and a checksum of these and the head
_MAGIC = b"cl\xf1"

# Frames up to this size, and frames of many small buffers, are written as one piece:
# copying is then cheaper than a list of buffers handed to the kernel.
_JOIN_BELOW = 64 * KIB
_SMALL_BUFFER = 16 * KIB

Buffer: TypeAlias = bytes | bytearray | memoryview
_packer = msgspec.msgpack.Encoder()


class WireError(Exception):
    """The stream holds something that is no frame, or no frame that may stand here."""


def encode(message: Message, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """The frame as buffers to be written in order; mostly that is one.

    Raises WireError when the message is larger than the other side would accept.
    """
    head = _packer.encode(message)
    size = sum(map(len, buffers))
    head_cap, body_cap = _CAPS[type(message)]
    if len(head) > head_cap or size > body_cap:
        raise WireError(f"a message of {len(head)} + {size} bytes exceeds its limit")
    start = _START.pack(_MAGIC, _CODES[type(message)], len(head), size)
    checksum = crc32(head, crc32(start)).to_bytes(4, "little")
    if size <= _JOIN_BELOW or size < len(buffers) * _SMALL_BUFFER:
        return [b"".join((start, checksum, head, *buffers))]
    return [b"".join((start, checksum, head)), *buffers]


class Decoder:
    """Takes bytes in any chunks and gives whole messages in order.

    A large body is gathered in a buffer of its own, so it is neither copied twice nor
    allocated before its bytes arrive.
    """

    # State: `_buffer` holds bytes not yet understood; while a body is awaited, `_head`
    # is its message, `_body` what came of it and `_missing` what has not come.

    def __init__(self, accepts: dict[type[Message], tuple[int, int]]) -> None:
        self._kinds = {
            _CODES[kind]: (msgspec.msgpack.Decoder(kind), *caps)
            for kind, caps in accepts.items()
        }
        self._buffer = bytearray()
        self._head: Message | None = None
        self._body = bytearray()
        self._missing = 0

    def feed(self, data: Buffer) -> None:
        """Add bytes as they came from the stream."""
        if self._missing:
            view = memoryview(data)
            part = view[: self._missing]
            self._body += part
            self._missing -= len(part)
            data = view[len(part) :]
        self._buffer += data

    def next(self) -> tuple[Message, bytearray] | None:
        """The next message and its body, or None until more bytes are fed."""
        if self._head is None and not (self._buffer and self._begin()):
            return None
        if self._missing:
            return None
        assert self._head is not None
        message, body = self._head, self._body
        self._head, self._body = None, bytearray()
        return message, body

    def _begin(self) -> bool:
        """Understand header and head and take what is there of the body."""
        buffer = self._buffer
        if len(buffer) < _HEADER.size:
            if buffer and not _MAGIC.startswith(buffer[: len(_MAGIC)]):
                raise WireError("the stream does not continue with a frame")
            return False
        magic, code, head_length, body_length, checksum = _HEADER.unpack_from(buffer)
        kind = self._kinds.get(code)
        if magic != _MAGIC or kind is None:
            raise WireError("the stream does not continue with a frame")
        decoder, head_cap, body_cap = kind
        if head_length > head_cap or body_length > body_cap:
            raise WireError(f"a frame of {head_length} + {body_length} bytes is too large")
        start = _HEADER.size + head_length
        if len(buffer) < start:
            return False
        head = bytes(buffer[_HEADER.size : start])
        if crc32(head, crc32(buffer[: _START.size])) != checksum:
            raise WireError("the checksum of a frame is wrong")
        self._head = _decode(decoder, head)
        self._body = buffer[start : start + body_length]
        self._missing = body_length - len(self._body)
        del buffer[: start + len(self._body)]
        return True


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: Buffer) -> Any:
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame holds malformed msgpack: {error}") from None


# -- outputs: the body of an Answer ----------------------------------------------------

_outputs_decoder = msgspec.msgpack.Decoder(list[Any])
_OUTPUT_TYPES = {bytes, str}


def encode_outputs(outputs: list[Output]) -> bytes:
    """Outputs as one msgpack array: binary and text for what they are, a map of
    code and cause for the error of a row."""
    return _packer.encode(outputs)


def decode_outputs(body: Buffer) -> list[Output]:
    """The outputs again; WireError for anything encode_outputs does not make."""
    outputs: list[Any] = _decode(_outputs_decoder, body)
    if not _OUTPUT_TYPES.issuperset(map(type, outputs)):
        outputs = [_output(item) for item in outputs]
    return outputs


def _output(item: Any) -> Output:
    if isinstance(item, (bytes, str)):
        return item
    try:
        return msgspec.convert(item, RowError)
    except msgspec.ValidationError:
        raise WireError("an output is neither text nor an error") from None
