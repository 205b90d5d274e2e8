"""Heads and the plans that are remembered for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.config import Settings
from clipper.frontend.gate import MAX_HEADERS, MAX_LINE, Gate
from clipper.frontend.heads import _REMEMBERED, _REMEMBERED_SIZE, Heads, Plan

from .raw import JSON, predict, request


def make_heads(**values: object) -> Heads:
    return Heads(Gate(Settings(**values), "secret", admin=False), 1000)  # type: ignore[arg-type]


def head_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


PREDICT = head_of(predict("numbers", b"x" * 12, "User-Agent: a"))


@pytest.fixture
def heads() -> Heads:
    return make_heads()


def test_a_prediction(heads: Heads) -> None:
    assert heads.plan(PREDICT) == Plan("numbers", JSON, "", 12, False)


def test_a_get(heads: Heads) -> None:
    data = head_of(request("GET", "/health/live", None, "Connection: close"))
    assert heads.plan(data) == Plan("/health/live", None, "", 0, True)


def test_parameters_are_kept_as_they_were_sent(heads: Heads) -> None:
    data = head_of(request("POST", "/a/predict?uid=%2541", b""))
    plan = heads.plan(data)
    assert plan is not None and plan.parameters == "uid=%2541"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        request("GET", "/a?b"),
        request("GET", "/a%20b"),
        request("GET", "/a", b"body"),
        request("GET", "/a", version="1.0"),
        request("GET", "/a", version="2.0"),
        request("GET", "/a", host=None),
        request("HEAD", "/a"),
        request("OPTIONS", "/a"),
        request("CONNECT", "a:1"),
        request("FOO", "/a"),
        request("GET", "*"),
        request("GET", "http://localhost/a"),
        request("POST", "/a/predict"),
        request("POST", "/a/b/predict", b""),
        request("POST", "/-a/predict", b""),
        request("POST", "/a/predictx", b""),
        request("POST", "/" + "a" * 65 + "/predict", b""),
        request("POST", "/a/predict", b"x" * 1001),
        predict("a", b"", "Expect: 100-continue"),
        predict("a", b"", "Transfer-Encoding: chunked"),
        predict("a", b"", "Upgrade: websocket", "Connection: upgrade"),
        predict("a", b"", "Connection: keep-alive, close"),
        predict("a", b"", "TE: trailers"),
        predict("a", b"", "Trailer: x"),
        predict("a", b"", "Content-Encoding: gzip"),
        predict("a", b"", "Origin: http://evil.example"),
        predict("a", b"", "Host: localhost"),
        predict("a", b"", "Content-Length: 0"),
        predict("a", b"", "X : a"),
        predict("a", b"", "X: a\r\n folded"),
        predict("a", b"", "X: a\nY: b"),
        predict("a", b"", "X: \0"),
        predict("a", b"", *(f"X-{i}: a" for i in range(MAX_HEADERS))),
        predict("a", b"", "X: " + "a" * MAX_LINE),
        predict("a", b"", media="text/plain"),
        predict("a", b"", media=None),
        predict("a", b"", host="evil"),
    ],
)  # fmt: skip
def test_what_is_left_to_the_other_lane(heads: Heads, data: bytes) -> None:
    assert heads.plan(head_of(data)) is None
    assert not heads.plans


@pytest.mark.parametrize("spelled", ["+5", "-5", "0x5", "5, 5", "5 5", "", "9" * 30])
def test_lengths_that_are_not(heads: Heads, spelled: str) -> None:
    lines = (f"Content-Type: {JSON}", f"Content-Length: {spelled}")
    assert heads.plan(request("POST", "/a/predict", None, *lines)) is None


@pytest.mark.parametrize(
    ("lines", "close"),
    [
        ((), False),
        (("Connection: Keep-Alive",), False),
        (("Connection: CLOSE",), True),
        (("Connection: close", "Connection: keep-alive"), True),
        (("Connection: keep-alive", "Connection: close"), True),
    ],
)
def test_who_wants_to_close(heads: Heads, lines: tuple[str, ...], close: bool) -> None:
    for data in (request("GET", "/a", None, *lines), predict("a", b"", *lines)):
        plan = heads.plan(head_of(data))
        assert plan is not None and plan.close == close


@pytest.mark.parametrize(("spelled", "length"), [("05", 5), ("5 ", 5), (" 5\t", 5)])
def test_lengths_that_are_odd_but_valid(heads: Heads, spelled: str, length: int) -> None:
    lines = (f"Content-Type: {JSON}", f"Content-Length: {spelled}")
    plan = heads.plan(request("POST", "/a/predict", None, *lines))
    assert plan is not None and plan.length == length


def test_a_head_is_parsed_once(heads: Heads) -> None:
    assert heads.plan(PREDICT) is heads.plan(bytes(bytearray(PREDICT)))


def test_what_is_remembered_is_bounded(heads: Heads) -> None:
    for number in range(_REMEMBERED + 10):
        assert heads.plan(head_of(predict("a", b"", f"X: {number}"))) is not None
    assert len(heads.plans) == _REMEMBERED
    large = head_of(predict("a", b"", "X: " + "a" * _REMEMBERED_SIZE))
    heads.plans.clear()
    assert heads.plan(large) is not None
    assert not heads.plans


def test_a_refusal_is_never_remembered() -> None:
    heads = make_heads(require_token=True)
    for given_token in ("wrong", "secret", "wrong"):
        data = head_of(predict("a", b"", f"Authorization: Bearer {given_token}"))
        assert (heads.plan(data) is not None) == (given_token == "secret")
    assert len(heads.plans) == 1


def _fresh(data: bytes) -> Plan | None:
    return make_heads().plan(data)


@given(st.integers(0, len(PREDICT) - 5), st.binary(max_size=3))
def test_a_head_that_differs_in_a_byte_has_its_own_plan(at: int, new: bytes) -> None:
    """Whatever was remembered before, a head means what it means alone."""
    heads = make_heads()
    heads.plan(PREDICT)
    other = PREDICT[:at] + new + PREDICT[at + 1 :]
    if b"\r\n\r\n" in other[:-4]:
        return
    assert heads.plan(other) == _fresh(other)
    assert heads.plan(PREDICT) == _fresh(PREDICT)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_wild(data: bytes) -> None:
    """None raises, and what has a plan is at least a request."""
    plan = _fresh(data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n")
    assert plan is None or data.lstrip(b"\r\n").startswith((b"GET /", b"POST /"))
