"""Bodies of prediction requests to typed rows: JSON, msgpack and npy.

Nothing here can run code that a client sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from clipper.config import Limits
from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.frontend.gate import JSON, MSGPACK, NPY
from clipper.frontend.npy import read_npy
from clipper.frontend.schemas import FAST, AnyRequest, Envelope
from clipper.frontend.weight import check_weight
from clipper.inputs import (
    InputType,
    Row,
    encode_array_rows,
    encode_json,
    encode_json_value,
    encode_python,
    flat_encoder,
    members,
)
from clipper.outline import NESTED
from clipper.selection.policy import Subject
from clipper.values import check_name, check_uid

NOBODY = Subject()

LONGEST = 200  # characters of what a decoder says


class Block(NamedTuple):
    """Rows of one size and shape in one piece."""

    payload: bytes
    rows: int
    shape: tuple[int, ...] | None = None

    def split(self) -> list[Row]:
        size = len(self.payload) // self.rows
        ends = range(size, len(self.payload) + 1, size) if size else [0] * self.rows
        return [Row(self.payload[end - size : end], self.shape) for end in ends]


class Request(NamedTuple):
    """A decoded request: one row, a block of equal rows, or a list of rows."""

    rows: Row | Block | list[Row]
    subject: Subject = NOBODY
    version: str | None = None
    deadline_ms: float | None = None
    cache: bool = True


_new = tuple.__new__


class Decoder:
    """Decodes the bodies of one application."""

    def __init__(self, kind: InputType, limits: Limits) -> None:
        self._kind = kind
        self._max_rows = limits.rows_per_request
        self._max_values = limits.values_per_request
        self._max_array = limits.body
        # of smaller bodies it is sure that they hold no more values
        self._light = limits.values_per_request // NESTED
        self._encode: Callable[[Any], bytes] = (
            flat_encoder(kind) if kind.dtype is not None else str.encode
        )
        fast = FAST.get(kind, AnyRequest)
        self._json = msgspec.json.Decoder(fast)
        self._json_any = msgspec.json.Decoder(AnyRequest)
        self._msgpack = msgspec.msgpack.Decoder(fast)
        self._msgpack_any = msgspec.msgpack.Decoder(AnyRequest)
        # All mutable state: requests by the bytes of the JSON bodies they came in. The
        # API fills it, and empties it with those of other applications.
        self.recent: dict[bytes, Request] = {}

    def decode(self, media: str, body: bytes, parameters: str = "") -> Request:
        """The request in a body. Raises InvalidInput with the path of the fault."""
        if media == NPY:
            return self._decode_npy(body, parameters)
        if len(body) > self._light:
            check_weight(self._kind, media, body, self._max_values, self._max_rows)
        decoder: Any = self._json if media == JSON else self._msgpack
        try:
            envelope = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            if media == MSGPACK and self._kind.dtype and len(body) > self._light:
                raise InvalidInput(
                    f"{plain_words(str(error))}; nested msgpack may have at most "
                    f"{self._light} bytes, send it as application/x-npy"
                ) from None
            # shaped or ragged rows, or a fault: told apart with a second, slower look
            return self._look_closely(body, media)
        if type(envelope) is AnyRequest:
            return self._request(envelope, self._any_rows(envelope, media), media)
        value = envelope.input
        if value is msgspec.UNSET:
            return self._request(envelope, self._fast_batch(envelope.input_batch), media)
        if envelope.uid is None and envelope.context is None and envelope.version is None:
            # as nearly all are: tuples made without their slower constructors
            row = _new(Row, (self._encode(value), None))
            deadline, cache = envelope.deadline_ms, envelope.cache is not False
            return _new(Request, (row, NOBODY, None, deadline, cache))
        return self._request(envelope, Row(self._encode(value)), media)

    def _fast_batch(self, batch: Any) -> Block | list[Row]:
        if batch is msgspec.UNSET:
            raise _no_input()
        self._check_rows(len(batch))
        encode = self._encode
        if (
            self._kind is not InputType.STRINGS
            and len(batch) > 1
            and len(set(map(len, batch))) == 1
        ):
            return Block(encode(list(chain.from_iterable(batch))), len(batch))
        return [Row(encode(value)) for value in batch]

    def _look_closely(self, body: bytes, media: str) -> Request:
        decoder: Any = self._json_any if media == JSON else self._msgpack_any
        try:
            envelope: AnyRequest = decoder.decode(body)
        except RecursionError:
            raise InvalidInput("the body is nested too deeply") from None
        except UnicodeError:
            raise InvalidInput("the body is not valid UTF-8") from None
        except msgspec.ValidationError as error:
            raise InvalidInput(plain_words(str(error))) from None
        except msgspec.DecodeError as error:
            raise InvalidInput(
                f"the body is malformed: {plain_words(str(error))}"
            ) from None
        return self._request(envelope, self._any_rows(envelope, media), media)

    def _any_rows(self, envelope: AnyRequest, media: str) -> Row | list[Row]:
        strict = media == MSGPACK and self._kind is InputType.JSON
        if envelope.input is not msgspec.UNSET:
            if strict:
                check_plain(envelope.input, "$.input")
            return encode_json_value(self._kind, envelope.input)
        batch = envelope.input_batch
        if batch is msgspec.UNSET:
            raise _no_input()
        if not isinstance(batch, list):
            raise InvalidInput("Expected an array of inputs at $.input_batch")
        self._check_rows(len(batch))
        if strict:
            check_plain(batch, "$.input_batch")
        return [
            encode_json_value(self._kind, value, f"$.input_batch[{index}]")
            for index, value in enumerate(batch)
        ]

    def _request(
        self, envelope: Envelope, rows: Row | Block | list[Row], media: str
    ) -> Request:
        uid, context = envelope.uid, envelope.context
        subject = NOBODY
        if uid is not None or context is not None:
            encode_json(context, "$.context")  # as it is kept with the decision
            if media == MSGPACK:
                check_plain(context, "$.context")
            subject = Subject(check_uid(uid, "$.uid"), context)
        version = envelope.version
        return Request(
            rows,
            subject,
            None if version is None else check_name("version", version),
            envelope.deadline_ms,
            envelope.cache is not False,
        )

    def _check_rows(self, rows: int) -> None:
        if rows > self._max_rows:
            raise PayloadTooLarge(f"input_batch may have at most {self._max_rows} inputs")

    # -- npy ----------------------------------------------------------------------------

    def _decode_npy(self, body: bytes, parameters: str) -> Request:
        if self._kind.dtype is None:
            raise InvalidInput(
                f"an application of type {self._kind.value} takes no npy bodies"
            )
        values = read_npy(body)
        if values.size * self._kind.dtype.itemsize > self._max_array:
            raise PayloadTooLarge(
                f"inputs may have at most {self._max_array} bytes as {self._kind.value}"
            )
        envelope = _envelope_of(parameters)
        if values.ndim == 1:
            return self._request(envelope, encode_python(self._kind, values), NPY)
        self._check_rows(len(values))
        if not len(values):
            return self._request(envelope, [], NPY)
        count, payload, shape = encode_array_rows(self._kind, values)
        return self._request(envelope, Block(payload, count, shape), NPY)


def _envelope_of(parameters: str) -> Envelope:
    """The fields that npy requests carry as query parameters."""
    if not parameters:
        return _EMPTY
    fields: dict[str, Any] = {}
    try:
        pairs = parse_qsl(parameters, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise InvalidInput("too many query parameters") from None
    for name, text in pairs:
        if name in fields or name not in Envelope.__struct_fields__:
            raise InvalidInput(f"unknown or repeated query parameter {name!r:.60}")
        if name in ("uid", "version"):
            fields[name] = text
            continue
        try:
            fields[name] = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise InvalidInput(f"the query parameter {name} must be JSON") from None
        if fields[name] is None and name != "context":
            raise InvalidInput(f"the query parameter {name} is left out, not null")
    try:
        return msgspec.convert(fields, Envelope)
    except msgspec.ValidationError as error:
        raise InvalidInput(plain_words(str(error))) from None


_EMPTY = Envelope()


_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})
_NESTED = frozenset({list, dict})
_TEXT = frozenset({str})


def check_plain(value: object, path: str) -> None:
    """Refuse what msgpack has and JSON has not: bytes, times, extensions, other keys."""
    level = [value]
    while level:
        if not _PLAIN.issuperset(map(type, level)):
            raise InvalidInput(f"Expected what JSON can say, not a msgpack extra at {path}")
        level = [item for item in level if item and type(item) in _NESTED]
        for item in level:
            if type(item) is dict and not _TEXT.issuperset(map(type, item)):
                raise InvalidInput(f"Expected objects with strings as keys at {path}")
        level = list(chain.from_iterable(map(members, level)))


def _no_input() -> InvalidInput:
    return InvalidInput("Expected a field `input` or `input_batch` at $")


# Our answers speak of JSON's types, not of Python's.
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
    "bytes": "bytes",
}


def plain_words(message: str) -> str:
    """A decoder's message in JSON's own words, with the path at its end."""
    message = re.sub(
        r"`([a-z| ]+)`",
        lambda match: " or ".join(_WORDS.get(w.strip(), w) for w in match[1].split("|")),
        message,
    )
    message = message.replace(" - at `", " at ").replace("`", "")
    if len(message) > LONGEST:  # with a key of the client's own in it
        message = f"{message[: LONGEST // 2]}...{message[-LONGEST // 2 :]}"
    return message
