"""Frames: any chunking decodes the same, and nothing else than WireError is raised."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.values import Layout, Output, RowError
from clipper.workers import wire

ids = st.integers(0, 2**63)
short = st.text(max_size=20)
shapes = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
calls = st.builds(
    wire.Call,
    ids,
    st.integers(1, 9),
    st.none() | st.lists(st.integers(0, 99), max_size=5),
    st.none() | shapes,
    st.none() | st.lists(shapes, max_size=3),
)
from_server = st.builds(wire.Load, short) | calls
from_worker = (
    st.builds(wire.Answer, ids, st.integers(1, 99))
    | st.builds(wire.Failed, ids, short, short, short)
    | st.builds(wire.Loaded, st.floats(0, 9))
    | st.builds(wire.Hello, st.integers(0, 99), short, st.dictionaries(short, short))
)
BODYLESS = (wire.Hello, wire.Loaded, wire.Refused, wire.Failed)


def decode_all(decoder: wire.Decoder) -> list[tuple[wire.Message, bytes]]:
    out = []
    while (received := decoder.next()) is not None:
        out.append((received[0], bytes(received[1])))
    return out


def frame(message: wire.Message, *buffers: bytes) -> bytes:
    return b"".join(wire.encode(message, buffers))


@given(
    st.lists(st.tuples(from_server, st.lists(st.binary(max_size=200))), max_size=4),
    st.data(),
)
def test_any_chunking_decodes_the_same(
    sent: list[tuple[wire.Message, list[bytes]]], data: st.DataObject
) -> None:
    stream = b"".join(frame(message, *buffers) for message, buffers in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    decoder, received = wire.Decoder(wire.FROM_SERVER), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end])
        received += decode_all(decoder)
    assert received == [(message, b"".join(buffers)) for message, buffers in sent]


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_junk_raises_nothing_but_wire_error(pieces: list[bytes]) -> None:
    decoder = wire.Decoder(wire.FROM_WORKER)
    with suppress(wire.WireError):
        for piece in pieces:
            decoder.feed(piece)
            decode_all(decoder)


@given(from_worker, st.binary(max_size=50), st.data())
def test_a_damaged_frame_is_noticed(
    message: wire.Message, body: bytes, data: st.DataObject
) -> None:
    body = b"" if isinstance(message, BODYLESS) else body
    good = bytearray(frame(message, body))
    at = data.draw(st.integers(0, len(good) - len(body) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    decoder = wire.Decoder(wire.FROM_WORKER)
    decoder.feed(good)
    with suppress(wire.WireError):
        assert decoder.next() is None  # it waits for more than there is


@given(st.binary(max_size=60), st.sampled_from([3, 6, 7]))
def test_a_head_of_junk_with_a_right_checksum(head: bytes, code: int) -> None:
    start = wire._START.pack(wire._MAGIC, code, len(head), 0)
    checksum = wire.crc32(head, wire.crc32(start)).to_bytes(4, "little")
    decoder = wire.Decoder(wire.FROM_WORKER)
    decoder.feed(start + checksum + head)
    with suppress(wire.WireError):
        decoder.next()


def test_a_side_refuses_what_only_the_other_may_send() -> None:
    decoder = wire.Decoder(wire.FROM_WORKER)
    decoder.feed(frame(wire.Call(0, 1), b"x"))
    with pytest.raises(wire.WireError, match="does not continue with a frame"):
        decoder.next()


def test_the_first_wrong_byte_is_enough() -> None:
    decoder = wire.Decoder(wire.FROM_WORKER)
    decoder.feed(b"c")
    assert decoder.next() is None
    decoder.feed(b"x")
    with pytest.raises(wire.WireError):
        decoder.next()


def test_caps_hold_on_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    caps: dict[Any, tuple[int, int]] = {wire.Answer: (64, 1000)}
    decoder = wire.Decoder(caps)
    decoder.feed(frame(wire.Answer(1, 1), bytes(1001))[:30])
    with pytest.raises(wire.WireError, match="too large"):
        decoder.next()
    monkeypatch.setitem(wire._CAPS, wire.Answer, (64, 1000))
    with pytest.raises(wire.WireError, match="exceeds its limit"):
        wire.encode(wire.Answer(1, 1), [bytes(600), bytes(600)])


def test_a_claimed_size_is_not_allocated() -> None:
    decoder = wire.Decoder(wire.FROM_WORKER)
    head = frame(wire.Answer(1, 1), bytes(100))
    huge = bytearray(head[:-100])
    huge[8:12] = (256 * wire.MIB).to_bytes(4, "little")
    huge[12:16] = wire.crc32(huge[16:], wire.crc32(huge[:12])).to_bytes(4, "little")
    decoder.feed(huge)
    assert decoder.next() is None
    assert len(decoder._body) == 0
    assert decoder._missing == 256 * wire.MIB


class Counted(bytearray):
    """Counts the bytes that all of its kind copied or moved."""

    moved = 0

    def __iadd__(self, other: wire.Buffer) -> Counted:  # type: ignore[override]
        Counted.moved += len(other)
        super().__iadd__(other)
        return self

    def __add__(self, other: Any) -> Counted:
        Counted.moved += len(self) + len(other)
        return Counted(super().__add__(other))

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if not isinstance(at, slice):
            return found
        Counted.moved += len(found)
        return Counted(found)

    def __delitem__(self, at: Any) -> None:
        super().__delitem__(at)
        Counted.moved += len(self)


def test_large_frames_take_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: each byte is looked at or moved a few times, however many
    pieces the frame comes in."""

    def read(data: wire.Buffer) -> bytes:
        Counted.moved += len(data)
        return bytes(data)

    def checksum(data: wire.Buffer, start: int = 0) -> int:
        Counted.moved += len(data)
        return crc32(data, start)

    size, piece = 1 << 20, 1 << 10
    stream = memoryview(frame(wire.Answer(1, 1), bytes(size)))
    for name, counting in (("bytearray", Counted), ("bytes", read), ("crc32", checksum)):
        monkeypatch.setattr(wire, name, counting, raising=False)
    monkeypatch.setattr(Counted, "moved", 0)
    decoder = wire.Decoder(wire.FROM_WORKER)
    for start in range(0, len(stream), piece):
        assert decoder.next() is None
        decoder.feed(stream[start : start + piece])
    received = decoder.next()
    assert received is not None and len(received[1]) == size
    assert isinstance(received[1], Counted)  # nothing went by another way
    assert size <= Counted.moved < 4 * size  # 512 times as much if all moved with each


def test_small_buffers_are_joined_and_large_ones_are_not() -> None:
    assert len(wire.encode(wire.Call(0, 64), [bytes(80)] * 64)) == 1
    assert len(wire.encode(wire.Call(0, 9999), [bytes(80)] * 9999)) == 1
    large = bytes(1 << 20)
    assert wire.encode(wire.Call(0, 2), [large, large])[1:] == [large, large]


def test_layouts_survive() -> None:
    for layout in (
        Layout(),
        Layout([1, 2]),
        Layout(None, (2, 3)),
        Layout([8, 16], [(1,), (2, 1)]),
    ):
        call = wire.Call(1, 2, layout.lengths)
        if isinstance(layout.shapes, tuple):
            call.shape = layout.shapes
        else:
            call.shapes = layout.shapes
        decoder = wire.Decoder(wire.FROM_SERVER)
        decoder.feed(frame(call))
        received = decoder.next()
        assert received is not None and isinstance(received[0], wire.Call)
        assert received[0].layout == layout


outputs = st.binary() | st.text() | st.builds(RowError, st.text(), st.text())


@given(st.lists(outputs))
def test_outputs_survive(values: list[Output]) -> None:
    assert wire.decode_outputs(wire.encode_outputs(values)) == values


@given(st.binary())
def test_junk_for_outputs_raises_nothing_but_wire_error(body: bytes) -> None:
    with suppress(wire.WireError):
        wire.decode_outputs(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x91\x01",
        b"\x91\xc0",
        b"\x91\x81\xa4code\xa1a",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xa1\xff",
        b"\x90x",
    ],
)
def test_outputs_of_other_types_are_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_outputs(body)
