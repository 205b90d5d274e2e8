"""No bytes make a decoder raise what it does not name, or take much memory (F3)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.frontend.deploy import Manifest, Upload
from clipper.frontend.gate import JSON
from clipper.frontend.operations import decode_json, decode_msgpack
from clipper.inputs import InputType

from . import decoders
from .decoders import TARGETS, Finding, _decoder, _gates, _messages, watched

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.fault("F3")

# Pieces that have meant something to a decoder somewhere.
TOKENS = st.sampled_from(
    (
        *(b"\r\n", b"\n", b"\0", b"\t", b" ", b":", b"%", b"{", b'"', b"\xff" * 4),
        *(b"[" * 300, b"1e999", b"9" * 5000),
        *(b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"),
    )
)


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Bytes that are valid but for a few changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case 1:
                data[at:at] = draw(TOKENS)
            case 2:
                del data[at : at + draw(st.integers(1, 20))]
            case 3:
                data[at:at] = draw(st.sampled_from(seeds))[: draw(st.integers(1, 60))]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_find_a_fault(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=250)
    @given(changed(target.seeds()) | st.binary(max_size=600))
    def search(data: bytes) -> None:
        watched(target.run, data)

    for seed in target.seeds():
        watched(target.run, seed)
    search()


# What the targets would be blind without: their seeds are taken, at least most of them.


def test_the_frames_are_whole() -> None:
    first, *_ = decoders.frame_seeds()
    everything = decoders.frame_seeds()[-1]
    assert len(_messages(decoders.wire.FROM_WORKER, [first[1:]])) == 1
    assert len(_messages(decoders.wire.FROM_WORKER, [everything[1:]])) == 5


def test_the_heads_are_taken() -> None:
    hot, _ = _gates()
    taken = [seed for seed in decoders.head_seeds() if hot.plan(seed) is not None]
    assert len(taken) == len(decoders.head_seeds()) - 3


def test_the_bodies_are_taken() -> None:
    for kind in InputType:
        example = next(e for e in decoders.REQUESTS if e.kind is kind)
        _decoder(kind).decode(JSON, msgspec.json.encode(example.body))
    by_json, by_msgpack = decoders.manifest_seeds()
    assert decode_json(by_json[1:], Manifest).model_name == "sum"
    assert decode_msgpack(by_msgpack[1:], Upload).function == b"\x80\x04."


def test_a_hidden_request_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    hot, _ = _gates()
    right = hot.plan

    def wrong(head: bytes) -> object:
        plan = right(head)
        return plan if plan is None else plan._replace(length=plan.length + 1)

    monkeypatch.setattr(hot, "plan", wrong, raising=False)
    with pytest.raises(Finding):
        decoders.heads(decoders.head_seeds()[0])


def test_memory_out_of_all_proportion_would_be_found() -> None:
    with pytest.raises(Finding, match="took"):
        watched(lambda data: bytearray(2**24).clear(), b"x")


@pytest.mark.parametrize("name", ["frames", "heads"])
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed; hypothesis drives the same functions above",
)
def test_following_branches_finds_nothing(name: str) -> None:
    command = [sys.executable, "-m", "tests.fuzzing", "bytes", name, "--seconds", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr, done.stderr[-3000:]
