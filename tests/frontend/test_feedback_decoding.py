"""Bodies with feedback, of both media types."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from clipper.config import Limits
from clipper.errors import ClipperError, InvalidInput, PayloadTooLarge
from clipper.frontend import feedback_decoding
from clipper.frontend.feedback_decoding import decode_feedback, no_parameters
from clipper.frontend.gate import JSON, MSGPACK
from clipper.inputs import InputType, encode_json_value
from clipper.pieces import LARGEST, Item

LIMITS = Limits(rows_per_request=3, values_per_request=10**7)
MEDIA = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}


def decode(body: Any, media: str = JSON, kind: InputType = InputType.DOUBLES) -> Any:
    return decode_feedback(kind, media, MEDIA[media](body), LIMITS)


@pytest.mark.parametrize("media", MEDIA)
def test_every_form(media: str) -> None:
    row = encode_json_value(InputType.DOUBLES, [1.0])
    for body, item in (
        ({"query_id": "q", "label": 7}, Item("q", 7)),
        ({"query_id": "q", "label": None}, Item("q", None)),
        ({"query_id": "q", "reward": 1}, Item("q", reward=1.0)),
        ({"query_id": "q", "reward": 0.5, "uid": 0}, Item("q", reward=0.5, uid="0")),
        (
            {"input": [1.0], "label": "x", "uid": "al", "feedback_id": "f"},
            Item(None, "x", uid="al", row=row, feedback_id="f"),
        ),
        (
            {"query_id": "q", "label": {"a": [1]}, "input": [1], "context": [0.5]},
            Item("q", {"a": [1]}, row=row, context=[0.5]),
        ),
    ):
        assert decode(body, media) == ([item], True)
        assert decode({"feedback": [body]}, media) == ([item], False)


def test_null_is_an_input_of_any_json() -> None:
    [item], _ = decode({"input": None, "label": 1}, kind=InputType.JSON)
    assert item.row is not None
    [item], _ = decode({"query_id": "q", "label": 1}, kind=InputType.JSON)
    assert (item.row, item.reward) == (None, None)


def test_a_list_is_bounded() -> None:
    piece = {"query_id": "q", "reward": 1}
    assert len(decode({"feedback": [piece] * 3})[0]) == 3
    assert decode({"feedback": []}) == ([], False)
    with pytest.raises(PayloadTooLarge, match="at most 3"):
        decode({"feedback": [piece] * 4})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query_id": "q"}, "`label` or a field `reward` at $"),
        ({"query_id": "q", "label": 1, "reward": 1}, "`label` or a field `reward` at $"),
        ({"label": 1}, "`query_id`, or `input`"),
        ({"query_id": "q", "reward": "0.9"}, "got a string at $.reward"),
        ({"query_id": "q", "reward": 1.5}, "at $.reward"),
        ({"query_id": "q", "label": 1, "uid": True}, "at $.uid"),
        ({"query_id": "q", "label": 1, "feedback": []}, "either `feedback`"),
        ({"reward": 1, "feedback": []}, "either `feedback`"),
        ({"uid": "al", "feedback": []}, "either `feedback`"),
        ({"query_id": "q", "lable": 3}, "unknown field lable"),
        ({"input": [1.0], "label": 1, "rewrd": 1}, "unknown field rewrd"),
        (
            {"feedback": [{"query_id": "q", "label": 1, "at": 2}]},
            "unknown field at at $.feedback[0]",
        ),
        ({"feedback": [{"query_id": "q", "label": 1}, {}]}, "at $.feedback[1]"),
        ({"feedback": [{"input": ["x"], "label": 1}]}, "$.feedback[0].input[0]"),
        ([], "Expected an object, got an array"),
    ],
)
@pytest.mark.parametrize("media", MEDIA)
def test_faults_are_named_with_their_path(media: str, body: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(body, media)
    assert words in caught.value.cause


def test_what_msgpack_has_and_json_has_not() -> None:
    for value in (b"x", msgspec.msgpack.Ext(1, b""), {1: 2}):
        for name in ("label", "context"):
            body = {"query_id": "q", "label": 1, name: value}
            with pytest.raises(InvalidInput, match=rf"\$\.{name}"):
                decode(body, MSGPACK)


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("value", ["x" * 70_000, [[[]]] * 70_000, [1.5] * 70_000])
@pytest.mark.parametrize("name", ["label", "context"])
def test_what_is_larger_than_the_log_takes_is_not_looked_at(
    name: str, value: Any, media: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Any] = []
    monkeypatch.setattr(feedback_decoding, "_any_json", looked_at.append)
    monkeypatch.setattr(feedback_decoding, "_any_msgpack", looked_at.append)
    body = {"input": [1.0], "reward" if name == "context" else "label": 1, name: value}
    with pytest.raises(PayloadTooLarge, match=rf"at most {LARGEST} .* at \$\.{name}"):
        decode(body, media)
    assert not looked_at


@pytest.mark.fault("N3")
@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("name", ["input", "feedback"])
def test_more_values_than_may_be_are_not_decoded(name: str, media: str) -> None:
    body = MEDIA[media]({"label": 1, name: [[]] * 3_000_000})
    began = time.process_time()
    with pytest.raises(PayloadTooLarge):
        decode_feedback(InputType.JSON, media, body, Limits())
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("media", MEDIA)
def test_labels_of_one_request_are_bounded_together(
    media: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_decoding, "MOST_NESTED", 600)
    nested, plain = ["x" * 250], "x" * 500
    pieces = [{"query_id": "q", "label": label} for label in (plain, nested, plain)]
    assert len(decode({"feedback": pieces}, media)[0]) == 3
    pieces = [{"query_id": "q", "label": 1, "context": nested}] * 3
    with pytest.raises(PayloadTooLarge, match=r"up to \$\.feedback\[2\]\.context"):
        decode({"feedback": pieces}, media)


def test_integers_in_a_context_have_64_bits() -> None:
    body = {"query_id": "q", "reward": 1, "context": {"a": 10**30}}
    with pytest.raises(InvalidInput, match=r"64 bits\) at \$\.context"):
        decode(body, JSON)


def test_feedback_takes_no_parameters() -> None:
    no_parameters("")
    with pytest.raises(InvalidInput):
        no_parameters("uid=alice")


@given(st.binary(max_size=200))
def test_bytes_are_refused_or_taken(body: bytes) -> None:
    for media in MEDIA:
        try:
            items, _ = decode_feedback(InputType.JSON, media, body, LIMITS)
        except ClipperError as error:
            assert error.status in (400, 413)
        else:
            assert all((item.label is UNSET) is not (item.reward is None) for item in items)
