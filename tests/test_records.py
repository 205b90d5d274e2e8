from __future__ import annotations

import msgspec
import pytest

from clipper.records import ApplicationRecord, ModelRecord, State


def test_records_survive_json() -> None:
    application = ApplicationRecord("digits", 3, "doubles", 20_000, models=["m"])
    model = ModelRecord("m", "1", "doubles", 4, example=[1.0], packages={"numpy": "2.0"})
    for record in (application, model):
        text = msgspec.json.encode(record)
        assert msgspec.json.decode(text, type=type(record)) == record
    assert model.key == "m:1"


def test_a_field_of_a_newer_server_is_ignored() -> None:
    text = b'{"name":"m","version":"1","input_type":"ints","generation":1,"news":true}'
    assert msgspec.json.decode(text, type=ModelRecord).name == "m"


def test_an_application_of_an_older_server_is_read() -> None:
    text = b'{"name":"a","number":1,"input_type":"ints","slo_micros":1,"cache":true}'
    record = msgspec.json.decode(text, type=ApplicationRecord)
    assert (record.cache, record.cache_ttl_seconds) == (True, None)


def test_records_are_not_changed_in_place() -> None:
    record = ModelRecord("m", "1", "doubles", 4)
    with pytest.raises(AttributeError):
        record.name = "other"  # type: ignore[misc]


def test_two_states_share_nothing() -> None:
    one, other = State(), State()
    one.current["m"] = "1"
    assert other.current == {}
