"""What JSON text holds, by its bytes, beside what it holds once it is decoded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper import outline
from clipper.outline import NESTED, is_deeper, is_heavier

SYMBOLS = st.text(st.sampled_from('",:[]{}\\a\n'), max_size=20)
VALUES = st.recursive(
    st.none() | st.integers() | SYMBOLS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SYMBOLS, inner, max_size=4),
    max_leaves=40,
)


def weight(value: Any) -> int:
    """Commas, arrays, objects and names."""
    inner = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inner, list):
        return 0
    names = len(inner) if isinstance(value, dict) else 0
    own = (1 + names) * (NESTED - 1) + max(0, len(inner) - 1)
    return own + sum(map(weight, inner))


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (list, dict)) else 0


@given(VALUES, st.sampled_from([1, 7, 1 << 18]))
def test_weight_and_depth_are_those_of_the_value(value: Any, block: int) -> None:
    text = msgspec.json.encode(value)
    heavy, deep = weight(value), depth(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outline, "_BLOCK", block)
        if text.count(b"\\") <= heavy:  # else it may be called heavier than it is
            assert not is_heavier(text, heavy)
        if heavy:
            assert is_heavier(text, heavy - 1)
        assert not is_deeper(text, deep)
        if deep:
            assert is_deeper(text, deep - 1)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_outline(text: bytes) -> None:
    assert is_heavier(text, 10) in (True, False)
    assert is_deeper(text, 3) in (True, False)
