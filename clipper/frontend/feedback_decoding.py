"""Bodies of feedback requests to items."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw

from clipper.config import Limits
from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.frontend.decoding import check_plain, plain_words
from clipper.frontend.gate import JSON, MSGPACK
from clipper.frontend.schemas import FeedbackItem, UpdateRequest
from clipper.frontend.weight import check_weight, too_heavy, weight_of
from clipper.inputs import InputType, check_depth, encode_json, encode_json_value
from clipper.pieces import LARGEST, Item, check_size
from clipper.values import check_uid

# Bytes of all labels and contexts of one request that are arrays or objects. To decode ten
# megabytes of empty arrays takes two seconds, in which the server does nothing else.
MOST_NESTED = 16 * LARGEST

_decode_json = msgspec.json.Decoder(UpdateRequest).decode
_decode_msgpack = msgspec.msgpack.Decoder(UpdateRequest).decode
_any_json = msgspec.json.Decoder().decode
_any_msgpack = msgspec.msgpack.Decoder().decode

_NOTHING = UpdateRequest()


def decode_feedback(
    kind: InputType, media: str, body: bytes, limits: Limits
) -> tuple[list[Item], bool]:
    """The items in a body, and whether it is a single one. Raises InvalidInput with the
    path of the fault, or PayloadTooLarge."""
    most = limits.rows_per_request
    check_weight(kind, media, body, limits.values_per_request, most)
    try:
        request = (_decode_json if media == JSON else _decode_msgpack)(body)
        return _Pieces(kind, media, limits.values_per_request).items(request, most)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except UnicodeError:
        raise InvalidInput("the body is not valid UTF-8") from None
    except msgspec.ValidationError as error:
        raise InvalidInput(plain_words(str(error))) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is malformed: {plain_words(str(error))}") from None


class _Pieces:
    """The pieces of one request."""

    def __init__(self, kind: InputType, media: str, most_values: int) -> None:
        self._kind = kind
        self._media = media
        self._most_values = most_values
        self._decode = _any_json if media == JSON else _any_msgpack
        # All mutable state: bytes of nested labels and contexts so far, and values of
        # inputs in msgpack.
        self._nested = 0
        self._values = 0

    def items(self, request: UpdateRequest, most: int) -> tuple[list[Item], bool]:
        pieces = request.feedback
        if pieces is UNSET:
            return [self._item(request, "$")], True
        request.feedback = UNSET
        if request != _NOTHING:
            raise InvalidInput(
                "Expected either `feedback`, a list, or one piece alone at $"
            )
        if len(pieces) > most:
            raise PayloadTooLarge(f"feedback may have at most {most} pieces")
        return [
            self._item(piece, f"$.feedback[{index}]") for index, piece in enumerate(pieces)
        ], False

    def _item(self, item: FeedbackItem, path: str) -> Item:
        uid = item.uid
        if (item.label is UNSET) is (item.reward is None):
            raise InvalidInput(f"Expected a field `label` or a field `reward` at {path}")
        if item.query_id is None and item.input is UNSET:
            raise InvalidInput(
                f"Expected a field `query_id`, or `input` with its `label` at {path}"
            )
        # what has a bound of its own first
        label = UNSET if item.label is UNSET else self._value(item.label, f"{path}.label")
        context = None
        if item.context is not UNSET:
            context = self._context(item.context, f"{path}.context")
        row = None
        if item.input is not UNSET:
            value = self._input(item.input, f"{path}.input")
            row = encode_json_value(self._kind, value, f"{path}.input")
        return Item(
            item.query_id,
            label,
            item.reward,
            None if uid is None else check_uid(uid, f"{path}.uid"),
            row,
            context,
            item.feedback_id,
        )

    def _input(self, raw: Raw, path: str) -> Any:
        if self._media == JSON:
            return self._decode(raw)
        # arrays of numbers too may hold anything, as they are decoded without a look
        self._values += weight_of(InputType.JSON, raw)
        if self._values > self._most_values:
            raise too_heavy(self._most_values)
        value = self._decode(raw)
        if self._kind is InputType.JSON:
            check_plain(value, path)
        return value

    def _context(self, raw: Raw, path: str) -> Any:
        context = self._value(raw, path)
        encode_json(context, path)  # it may be kept with a decision
        return context

    def _value(self, raw: Raw, path: str) -> Any:
        """A label or a context, unless it is too large to be looked at."""
        size = len(memoryview(raw))
        check_size(size, path)
        value = self._decode(raw)
        if type(value) in (list, dict):
            self._nested += size
            if self._nested > MOST_NESTED:
                raise PayloadTooLarge(
                    f"Expected at most {MOST_NESTED} bytes of labels and contexts that are "
                    f"arrays or objects in one request, got more up to {path}"
                )
            check_depth(value, path)
        if self._media == MSGPACK:
            check_plain(value, path)
        return value


def no_parameters(parameters: str) -> None:
    """Feedback is all in the body."""
    if parameters:
        raise InvalidInput("feedback takes no query parameters")
