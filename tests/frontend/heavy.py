"""The heaviest bodies that are taken: as many values as there may be, of every sort."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from clipper.config import Limits
from clipper.frontend.gate import JSON, MSGPACK
from clipper.outline import NESTED, is_heavier

LIMITS = Limits()
MOST = LIMITS.values_per_request
BATCH = LIMITS.rows_per_request

NUMBERS = {"ints": b"1", "floats": b"1.5", "doubles": b"-0.123456789"}
ANYTHING = (
    b"1", b"0.5", b'"a"', b"[]", b"{}", b"[[]]", b"[1,2]", b'{"a":1}',
    b"[" * 60 + b"]" * 60, b"[" * 900 + b"]" * 900,
)  # fmt: skip


def heaviest() -> Iterator[tuple[str, str, str, bytes]]:
    """Input type, media type, a name, and the body."""
    for kind, number in NUMBERS.items():
        for each in (number, b"[]", b"[%b]" % number, b"[%b]" % b",".join([number] * 50)):
            yield kind, JSON, f"{each[:9]!r}", filled(b'{"input":[', each, b"]}")
        row = b"[%b]" % b",".join([number] * 45)
        yield kind, JSON, "rows", filled(b'{"input_batch":[', row, b"]}")
        yield kind, JSON, "ragged", filled(b'{"input":[[1],', b"[]", b"]}")
        yield kind, MSGPACK, "flat", packed(b"\x01", MOST)
        yield kind, MSGPACK, "nested", packed(b"\x90", MOST // NESTED - 20)
        yield kind, MSGPACK, "hidden", packed(b"\x01\x92" + b"\x90" * 8, MOST)
    for each in ANYTHING:
        yield "json", JSON, f"{each[:9]!r}", filled(b'{"input":[', each, b"]}")
    names = b",".join(b'"%x":1' % number for number in range(MOST // 4 - 4))
    yield "json", JSON, "names", b'{"input":{%b}}' % names
    text = b"x" * (LIMITS.body - 20)
    yield "json", JSON, "text", b'{"input":"%b"}' % text
    yield "json", JSON, "context", filled(b'{"input":1,"context":[', b"[]", b"]}")
    yield "json", MSGPACK, "nested", packed(b"\x90", MOST // NESTED - 20)
    yield "json", MSGPACK, "numbers", packed(b"\x01", MOST // NESTED - 20)
    yield "strings", JSON, "text", b'{"input":"%b"}' % text
    escapes = b"\\u00e9" * (len(text) // 6)
    yield "strings", JSON, "escapes", b'{"input":"%b"}' % escapes
    yield "strings", JSON, "commas", b'{"input":"%b"}' % (b"," * len(text))
    yield "bytes", JSON, "base64", b'{"input":"%b"}' % (b"AAAA" * (len(text) // 4))
    yield "bytes", MSGPACK, "bytes", msgspec.msgpack.encode({"input": text})


def filled(begin: bytes, each: bytes, end: bytes) -> bytes:
    """As often `each` as there may be."""
    low, high = 1, MOST
    while low < high:
        middle = (low + high + 1) // 2
        if is_heavier(b",".join([begin + each] + [each] * middle), MOST):
            high = middle - 1
        else:
            low = middle
    return begin + b",".join([each] * low) + end


def packed(each: bytes, count: int) -> bytes:
    return b"\x81\xa5input\xdd" + count.to_bytes(4, "big") + each * count
