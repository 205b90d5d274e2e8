"""Settled queries as JSON."""

from __future__ import annotations

from typing import Any

import fakes
import msgspec
import pytest

from clipper.application import NOBODY, Application
from clipper.cache import PredictionCache
from clipper.errors import Overloaded
from clipper.frontend.answers import batch_answer, error_answer, prediction_answer
from clipper.query import NO_MODEL, BatchQuery, Query
from clipper.query_id import QueryIds
from clipper.records import ApplicationRecord
from clipper.values import Output, RowError


@pytest.fixture
def make_application(clock: Any, fake_loop: Any) -> Any:
    def make(**values: Any) -> Application:
        record = ApplicationRecord(
            **{
                "name": "a",
                "number": 1,
                "input_type": "doubles",
                "slo_micros": 1000,
                **values,
            }
        )
        ids, cache = QueryIds(b"k" * 32, clock), PredictionCache[Any](0)
        return fakes.make_application(record, ids, cache, clock=clock, loop=fake_loop)

    return make


class Nobody:
    def query_settled(self, query: Query) -> None:
        pass

    def batch_settled(self, batch: BatchQuery) -> None:
        pass


def settled(application: Any, output: Output) -> Query:
    query = Query(application, Nobody(), application.roster.nobody, NOBODY, 0.0, 1.0)
    query.job_done(output)
    return query


def answer(application: Any, output: Output) -> tuple[int, dict[str, Any]]:
    status, body = prediction_answer(settled(application, output))
    value = msgspec.json.decode(body)
    assert len(value.pop("query_id", "")) <= 128
    return status, value


CRASH = RowError("model_failed", "It went wrong")
LATE = RowError("deadline_exceeded", "Too late")
FULL = RowError("overloaded", "Too much")


def test_an_output_is_spliced_in(make_application: Any) -> None:
    found = answer(make_application(), b'{"a":[1,null]}')
    assert found == (200, {"output": {"a": [1, None]}, "default": False})


@pytest.mark.parametrize(
    ("values", "output", "expected"),
    [
        ({}, "6.6", 6.6),
        ({}, ' {"a": 1} ', {"a": 1}),
        ({"parse_output": False}, "6.6", "6.6"),
        ({"input_type": "json"}, "6.6", "6.6"),
    ],
)
def test_strings_that_are_json(
    make_application: Any, values: dict[str, Any], output: str, expected: Any
) -> None:
    found = answer(make_application(**values), output)
    assert found == (200, {"output": expected, "default": False})


def test_a_default_output_says_why(make_application: Any) -> None:
    application = make_application(default_output="-1.0")
    assert answer(application, NO_MODEL) == (
        200,
        {
            "output": -1.0,
            "default": True,
            "default_explanation": "No connected models found for query",
        },
    )


@pytest.mark.parametrize(
    ("error", "status"), [(NO_MODEL, 503), (CRASH, 500), (LATE, 504), (FULL, 503)]
)
def test_without_a_default_it_is_an_error(
    make_application: Any, error: RowError, status: int
) -> None:
    found, value = answer(make_application(), error)
    assert found == status
    assert value.keys() == {"error", "cause"} and value["cause"] == error.cause


def test_overload_can_be_rejected_in_spite_of_a_default(make_application: Any) -> None:
    application = make_application(default_output="-1", on_overload="reject")
    assert answer(application, FULL)[0] == 503
    assert answer(application, LATE)[0] == 200


def test_each_row_of_a_batch_for_itself(make_application: Any) -> None:
    application = make_application()
    nobody = application.roster.nobody
    batch = BatchQuery(application, Nobody(), nobody, NOBODY, 0.0, 1.0, 4)
    for index, output in enumerate((b"1", "2.5", CRASH, b'"x"')):
        batch.row_done(index, output)
    rows = msgspec.json.decode(batch_answer(batch))["batch_predictions"]
    ids = [row.pop("query_id") for row in rows]
    assert [query_id.partition(".")[2] for query_id in ids] == ["0", "1", "2", "3"]
    assert len({query_id.partition(".")[0] for query_id in ids}) == 1
    assert rows == [
        {"output": 1, "default": False},
        {"output": 2.5, "default": False},
        {"error": "model_failed", "cause": "It went wrong"},
        {"output": "x", "default": False},
    ]


def test_an_error_is_two_fields() -> None:
    assert msgspec.json.decode(error_answer(Overloaded('a "b"\r\n'))) == {
        "error": "overloaded",
        "cause": 'a "b"\r\n',
    }
