from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.errors import InvalidInput
from clipper.records import State
from clipper.store.base import PutApplication, PutModel, SetCurrent
from clipper.store.rows import (
    APPLICATION,
    COUNTER,
    CURRENT,
    LAST_NUMBER,
    MODEL,
    TABLES,
    decode,
    encode,
)

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


CHANGES = (
    PutApplication(application("a", 1)), PutModel(model("m", "1", 2)), SetCurrent("m", "1")
)  # fmt: skip
WHOLE = {"a": application("a", 1), "m:1": model("m", "1", 2), "m": "1"}


def with_one_more(table: str, body: bytes | None = None) -> State:
    """The state with a row of key "other", by default with the body of another."""
    tables: dict[str, dict[str, bytes]] = {name: {} for name in TABLES}
    for name, key, of_it in encode(CHANGES).rows:
        assert of_it is not None
        tables[name][key] = of_it
    tables[table]["other"] = next(iter(tables[table].values())) if body is None else body
    return decode(tables)


def told(state: State) -> dict[str, dict[str, str]]:
    damaged = state.damaged
    found = {
        APPLICATION: damaged.applications, MODEL: damaged.models, CURRENT: damaged.current
    }  # fmt: skip
    return {table: reasons for table, reasons in found.items() if reasons}


@pytest.mark.parametrize(
    ("table", "body"),
    [
        (APPLICATION, b"nonsense"),
        (APPLICATION, b'{"name": "\xff"}'),
        (MODEL, b""),
        (MODEL, b"{}"),
        (CURRENT, b'{"version": 1, "previous": []}'),
    ],
)
def test_a_senseless_body_is_damage_of_its_record_alone(table: str, body: bytes) -> None:
    state = with_one_more(table, body)
    assert {**state.applications, **state.models, **state.current} == WHOLE
    found = told(state)
    assert list(found) == [table] and list(found[table]) == ["other"]
    assert found[table]["other"].startswith("its record makes no sense: ")


@pytest.mark.parametrize(("table", "name"), [(APPLICATION, "'a'"), (MODEL, "'m:1'")])
def test_a_record_of_another_name_is_damage(table: str, name: str) -> None:
    state = with_one_more(table)
    assert {**state.applications, **state.models, **state.current} == WHOLE
    assert told(state) == {table: {"other": f"its record is that of {name}"}}


def test_a_senseless_counter_is_an_error() -> None:
    tables = {name: {LAST_NUMBER: b"x"} if name == COUNTER else {} for name in TABLES}
    with pytest.raises(msgspec.DecodeError):
        decode(tables)
