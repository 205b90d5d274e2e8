"""Bodies of feedback requests to items."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from clipper.errors import InvalidInput, PayloadTooLarge
from clipper.feedback import Item
from clipper.frontend.decoding import check_plain, plain_words
from clipper.frontend.gate import JSON, MSGPACK
from clipper.frontend.schemas import FeedbackItem, UpdateRequest
from clipper.inputs import InputType, check_depth, encode_json_value
from clipper.values import check_uid

_decode_json = msgspec.json.Decoder(UpdateRequest).decode
_decode_msgpack = msgspec.msgpack.Decoder(UpdateRequest).decode


def decode_feedback(
    kind: InputType, media: str, body: bytes, most: int
) -> tuple[list[Item], bool]:
    """The items in a body, and whether it is a single one. Raises InvalidInput with the
    path of the fault."""
    try:
        request = (_decode_json if media == JSON else _decode_msgpack)(body)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except UnicodeError:
        raise InvalidInput("the body is not valid UTF-8") from None
    except msgspec.ValidationError as error:
        raise InvalidInput(plain_words(str(error))) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is malformed: {plain_words(str(error))}") from None
    if request.feedback is UNSET:
        return [_item(kind, media, request, "$")], True
    if _says(request):
        raise InvalidInput("Expected either `feedback`, a list, or one piece alone at $")
    if len(request.feedback) > most:
        raise PayloadTooLarge(f"feedback may have at most {most} pieces")
    items = request.feedback
    return [
        _item(kind, media, item, f"$.feedback[{index}]") for index, item in enumerate(items)
    ], False


def _says(item: FeedbackItem) -> bool:
    return item.query_id is not None or item.label is not UNSET or item.input is not UNSET


def _item(kind: InputType, media: str, item: FeedbackItem, path: str) -> Item:
    label, uid = item.label, item.uid
    if (label is UNSET) is (item.reward is None):
        raise InvalidInput(f"Expected a field `label` or a field `reward` at {path}")
    if item.query_id is None and item.input is UNSET:
        raise InvalidInput(
            f"Expected a field `query_id`, or `input` with its `label` at {path}"
        )
    if type(label) in (list, dict):
        check_depth(label, f"{path}.label")
    if media == MSGPACK:
        for name, value in (("label", label), ("context", item.context)):
            if value is not UNSET:
                check_plain(value, f"{path}.{name}")
    row = None
    if item.input is not UNSET:
        if media == MSGPACK and kind is InputType.JSON:
            check_plain(item.input, f"{path}.input")
        row = encode_json_value(kind, item.input, f"{path}.input")
    if item.context is not None:
        check_depth(item.context, f"{path}.context")
    return Item(
        item.query_id,
        label,
        item.reward,
        None if uid is None else check_uid(uid, f"{path}.uid"),
        row,
        item.context,
        item.feedback_id,
    )


def no_parameters(parameters: str) -> None:
    """Feedback is all in the body."""
    if parameters:
        raise InvalidInput("feedback takes no query parameters")
