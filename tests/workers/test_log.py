"""The tail of a worker's output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clipper.workers.log import LogTail


def test_keeps_the_end_and_counts_the_rest() -> None:
    log = LogTail()
    for i in range(20_000):
        log.write(f"line {i}\n".encode())
    text = log.text()
    assert text.endswith("line 19999\n")
    assert len(text) == 65_536
    assert log.dropped == sum(len(f"line {i}\n") for i in range(20_000)) - 65_536


def test_a_character_cut_in_two_is_left_out() -> None:
    log = LogTail()
    log.write("é".encode() * 32_768 + b"x")
    assert log.text() == "é" * 32_767 + "x"


def test_what_is_no_text_is_shown_as_such() -> None:
    log = LogTail()
    log.write(b"\xff\x00\x1b[31mred\tand\n\xe2\x82")
    assert log.text() == "\ufffd\ufffd\ufffd[31mred\tand\n\ufffd"


@given(st.lists(st.binary(max_size=100_000), max_size=5))
def test_any_bytes_make_text(pieces: list[bytes]) -> None:
    log = LogTail()
    for piece in pieces:
        log.write(piece)
        assert len(log.text()) <= 65_536
    assert log.dropped == max(0, sum(map(len, pieces)) - 65_536)
