from __future__ import annotations

from typing import Any

import pytest

from clipper.errors import InvalidInput
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.registration import (
    MAX_EXAMPLE,
    MAX_SLO_MICROS,
    RESERVED,
    check_application,
    check_model,
)


def application(**fields: Any) -> ApplicationRecord:
    known = {"name": "app", "number": 0, "input_type": "doubles", "slo_micros": 1000}
    return ApplicationRecord(**{**known, **fields})


def model(**fields: Any) -> ModelRecord:
    known = {"name": "m", "version": "1", "input_type": "doubles", "generation": 0}
    return ModelRecord(**{**known, **fields})


def _options(size: int) -> PolicySettings:
    """Options of a policy that have this many bytes as JSON."""
    name = "n" * (size - len('{"":1}'))
    return PolicySettings("static", {name: 1})


def test_names_and_types_become_canonical() -> None:
    spec = check_application(application(input_type="d", models=["a", "b"]))
    assert (spec.input_type, spec.models) == ("doubles", ["a", "b"])
    record = check_model(model(version=3, input_type="i", labels=[7, "x"]))
    assert (record.version, record.input_type, record.labels) == ("3", "ints", ["7", "x"])


@pytest.mark.fault("A4")
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "a b"}, "application name must match"),
        ({"name": ""}, "application name must match"),
        *[({"name": name}, "which is a route") for name in sorted(RESERVED)],
        ({"slo_micros": 0}, "between 1 and"),
        ({"slo_micros": MAX_SLO_MICROS + 1}, "one hour"),
        ({"models": ["a/b"]}, "model name must match"),
        ({"models": ["a", "a"]}, "named twice"),
        ({"models": [f"m{i}" for i in range(65)]}, "at most 64 models"),
        ({"default_output": "x" * 65_537}, "longer than 65536"),
        ({"default_output": "\ud800"}, "default_output is not valid Unicode"),
        ({"policy": PolicySettings("log_pool")}, "application with loss log, not zero_one"),
        ({"cache_ttl_seconds": 0.0}, "cache_ttl_seconds must be a positive number"),
        ({"cache_ttl_seconds": -1.0}, "positive number of seconds, or null, got -1"),
        ({"cache_ttl_seconds": float("inf")}, "got inf"),
        ({"cache_ttl_seconds": float("nan")}, "got nan"),
        ({"on_overload": "wait"}, "on_overload must be one of default, reject, got 'wait'"),
        ({"loss": "none"}, "loss must be zero_one, absolute"),
        ({"policy": _options(16 * 1024 + 1)}, "options may have at most 16384 bytes"),
        ({"policy": PolicySettings("static", {"x": object()})}, "cannot be said in JSON"),
        ({"policy": PolicySettings("magic")}, "policy must be one of static"),
        ({"policy": PolicySettings("static", {"x": 1})}, "has no option 'x'"),
        ({"input_type": "int32"}, "input_type must be one of"),
    ],
)
def test_a_wrong_application_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        check_application(application(**fields))


def test_the_longest_slo_and_names_are_taken() -> None:
    check_application(application(name="x" * 64, slo_micros=MAX_SLO_MICROS))
    check_application(application(slo_micros=1, default_output="ä" * 65_536))


@pytest.mark.fault("A4")
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "a:b"}, "model name must match"),
        ({"version": "v 1"}, "model version must match"),
        ({"version": -1}, "model version must match"),
        ({"labels": ["x" * 65]}, "label must match"),
        ({"num_replicas": 0}, "num_replicas must be at least 1"),
        ({"memory_limit": 0}, "positive number of bytes"),
        ({"spares": -1}, "spares must not be negative"),
        ({"recycle_after": 0}, "positive number of batches"),
        ({"recycle_memory": 0}, "recycle_memory must be a positive number of bytes"),
        ({"input_type": "tensor"}, "input_type must be one of"),
        ({"environment": {"A=B": "x"}}, "variable of the name 'A=B'"),
        ({"environment": {"": "x"}}, "variable of the name ''"),
        ({"environment": {"A": "x\0"}}, "no NUL"),
        ({"environment": {"A": "x" * 65_536, "B": "x"}}, "more than 65536 characters"),
        ({"environment": {f"A{i}": "x" for i in range(101)}}, "more than 100"),
        ({"labels": [f"l{i}" for i in range(65)]}, "at most 64 labels"),
        ({"source": "x" * 65_537}, "longer than 65536"),
        ({"example": "x" * (MAX_EXAMPLE - 1)}, "example may have at most 4194304 bytes"),
        ({"example": object()}, "example cannot be said in JSON"),
        ({"example": "\ud800"}, "example cannot be said in JSON"),
        ({"packages": {f"p{i}": "1" for i in range(1001)}}, "more than 1000"),
        ({"packages": {"p" * 257: "1"}}, "more than 256 characters"),
        ({"packages": {"p": "1" * 257}}, "more than 256 characters"),
    ],
)
def test_a_wrong_model_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        check_model(model(**fields))


@pytest.mark.fault("A4")
@pytest.mark.parametrize(
    "fields",
    [
        {"environment": {"A": "x" * 65_536}},
        {"environment": {f"A{i}": "x" for i in range(100)}},
        {"labels": [f"l{i}" for i in range(64)]},
        {"source": "x" * 65_536},
        {"example": "x" * (MAX_EXAMPLE - 2)},
        {"packages": {f"p{i}": "1" * 256 for i in range(1000)}},
    ],
)
def test_as_much_as_is_allowed_is_taken(fields: dict[str, Any]) -> None:
    check_model(model(**fields))


def test_as_many_options_as_are_allowed_get_to_the_policy() -> None:
    with pytest.raises(InvalidInput, match="has no option"):
        check_application(application(policy=_options(16 * 1024)))


def test_as_many_candidates_as_are_allowed_are_taken() -> None:
    check_application(application(models=[f"m{i}" for i in range(64)]))


def test_a_right_environment_is_taken() -> None:
    check_model(model(environment={"OMP_NUM_THREADS": "1", "_x": ""}, memory_limit=1))
