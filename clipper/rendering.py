"""How an application's answers read: outputs as JSON text, the default output, errors."""

from __future__ import annotations

from typing import Any

import msgspec

from clipper.errors import (
    ClipperError,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    Overloaded,
    Unavailable,
)
from clipper.inputs import MAX_DEPTH
from clipper.outline import is_deeper
from clipper.records import ApplicationRecord
from clipper.values import Output, RowError

MOST_TAILS = 32
_DEFAULT_TAIL = b'","output":%b,"default":true,"default_explanation":%b}'

_ERRORS: dict[str, type[ClipperError]] = {
    "deadline_exceeded": DeadlineExceeded,
    "no_model": Unavailable,
    "unavailable": Unavailable,
    "overloaded": Overloaded,
    "invalid_input": InvalidInput,
}


class Rendering:
    """What a record says of its application's answers."""

    def __init__(self, record: ApplicationRecord) -> None:
        self._record = record
        text = record.default_output
        # what a json function returns is JSON already: a string is meant as a string
        self.parses = record.parse_output and record.input_type != "json"
        self.default = None if text is None else render_string(text, record.parse_output)
        # All mutable state: tails of answers with the default output, by code and cause.
        self._default_tails: dict[tuple[str, str], bytes | None] = {}

    def text(self, output: bytes | str) -> bytes:
        """A model's output as JSON text."""
        if type(output) is bytes:
            return output
        # a worker sends a string output as str only where it is JSON text
        assert type(output) is str
        return output.strip().encode() if self.parses else msgspec.json.encode(output)

    def value(self, output: bytes | str) -> Any:
        """A model's output as a JSON value."""
        try:
            return msgspec.json.decode(self.text(output))
        except RecursionError:  # of a worker that is not ours, or in an old log
            raise ModelFailed("the model's output is nested too deeply") from None

    def default_for(self, error: RowError) -> bytes | None:
        """The default output as JSON text, or None where the error must be told."""
        if error.code == "overloaded" and self._record.on_overload == "reject":
            return None
        return self.default

    def default_tail(self, error: RowError) -> bytes | None:
        """What follows the query id in an answer with the default output, made once for
        each of the few causes there are; None where the error must be told."""
        key = error.code, error.cause
        try:
            return self._default_tails[key]
        except KeyError:
            default, tail = self.default_for(error), None
            if default is not None:
                tail = _DEFAULT_TAIL % (default, msgspec.json.encode(error.cause))
            if len(self._default_tails) < MOST_TAILS:
                self._default_tails[key] = tail
            return tail

    def error_for(self, error: RowError) -> ClipperError:
        return error_class(error)(error.cause)

    def answer(self, output: Output) -> tuple[Any, bool, str | None]:
        """The value to answer with, whether it is the default, and why. Raises where there
        is no default output."""
        if not isinstance(output, RowError):
            return self.value(output), False, None
        default = self.default_for(output)
        if default is None:
            raise self.error_for(output)
        return msgspec.json.decode(default), True, output.cause


def error_class(error: RowError) -> type[ClipperError]:
    """What a failed query becomes where there is no default output."""
    return _ERRORS.get(error.code, ModelFailed)


def render_string(text: str, parse: bool) -> bytes:
    """A string output as JSON text: as the JSON it holds, if it does and `parse` is
    set, else as a JSON string."""
    if parse:
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
        else:
            plain = text.strip().encode()
            if not is_deeper(plain, MAX_DEPTH):
                return plain
    return msgspec.json.encode(text)
