from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.errors import InvalidInput
from clipper.store.base import PutApplication, PutModel, SetCurrent
from clipper.store.rows import COUNTER, CURRENT, LAST_NUMBER, MODEL, TABLES, decode, encode

from .contract import application, model

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
)


@given(ANYTHING)
def test_a_value_is_refused_or_read_back_as_it_was(value: object) -> None:
    record = model("m", "1", 1, example=value)
    try:
        write = encode([PutModel(record)])
    except InvalidInput:
        return
    [(table, key, body)] = write.rows
    assert (table, key) == (MODEL, "m:1")
    assert body is not None
    tables = {name: {key: body} if name == MODEL else {} for name in TABLES}
    assert decode(tables).models == {"m:1": record}


def test_the_number_of_a_write_is_the_highest_of_its_records() -> None:
    changes = [PutApplication(application("a", 3)), PutModel(model("m", "1", 2))]
    assert encode(changes).number == 3
    assert encode(changes[1:]).number == 2
    assert encode([SetCurrent("m", "1")]).number == 0


@pytest.mark.parametrize(
    ("table", "body"),
    [
        (MODEL, b""),
        (MODEL, b"{}"),
        (MODEL, b'{"name": "\xff"}'),
        (CURRENT, b'{"version": 1, "previous": []}'),
    ],
)
def test_a_senseless_body_is_an_error(table: str, body: bytes) -> None:
    tables = {name: {"key": body} if name == table else {} for name in TABLES}
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode(tables)


def test_a_senseless_counter_is_an_error() -> None:
    tables = {name: {LAST_NUMBER: b"x"} if name == COUNTER else {} for name in TABLES}
    with pytest.raises(msgspec.DecodeError):
        decode(tables)
