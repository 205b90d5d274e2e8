from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clipper.catalog import HISTORY, Catalog
from clipper.config import Limits
from clipper.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from clipper.records import ApplicationRecord, BatchingSettings, ModelRecord, State
from clipper.store.base import (
    DeleteApplication,
    DeleteModel,
    PutApplication,
    PutModel,
    SetCurrent,
)


def model(name: str = "m", version: str = "1", **fields: Any) -> ModelRecord:
    fields = {"input_type": "doubles", "generation": 0, "blob": "b", **fields}
    return ModelRecord(name=name, version=version, **fields)


def application(name: str = "app", *models: str, **fields: Any) -> ApplicationRecord:
    fields = {"input_type": "doubles", "slo_micros": 1000, **fields}
    return ApplicationRecord(name, 0, models=list(models), **fields)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(State(), Limits(applications=3, models=5, replicas=8))


def deploy(catalog: Catalog, *versions: str, **fields: Any) -> None:
    for version in versions:
        record = model(version=version, **fields)
        current = catalog.make_current(record.name, record.version)
        catalog.apply([PutModel(record), current])


def remove(catalog: Catalog, version: str) -> None:
    catalog.apply(catalog.remove("m", version))


def current(catalog: Catalog) -> str | None:
    record = catalog.current("m")
    return record.version if record is not None else None


# -- what is there ---------------------------------------------------------------------


def test_what_was_applied_is_there(catalog: Catalog) -> None:
    catalog.apply([PutApplication(application()), PutModel(model())])
    assert list(catalog.applications) == ["app"] and list(catalog.models) == ["m:1"]
    assert catalog.model("m", "1") == model() and catalog.versions("m") == [model()]
    assert catalog.current("m") is None and not catalog.is_current(model())
    catalog.apply([DeleteApplication("app"), DeleteModel("m", "1")])
    catalog.apply([DeleteApplication("app"), DeleteModel("m", "1")])
    assert not catalog.applications and not catalog.models
    with pytest.raises(NotFound, match="'m' and version '1' does not exist"):
        catalog.model("m", "1")


def test_numbers_are_never_given_twice(catalog: Catalog) -> None:
    catalog.state.last_number = 7
    assert [catalog.next_number() for _ in range(3)] == [8, 9, 10]


# -- history ---------------------------------------------------------------------------


def test_rollback_goes_through_the_versions_backwards(catalog: Catalog) -> None:
    deploy(catalog, "1", "2", "3")
    for expected in ("2", "1"):
        catalog.apply([catalog.roll_back("m")])
        assert current(catalog) == expected
    with pytest.raises(Conflict, match="no earlier version"):
        catalog.roll_back("m")
    with pytest.raises(NotFound, match="no model with name 'x'"):
        catalog.roll_back("x")


def test_setting_a_version_is_a_step_that_can_be_taken_back(catalog: Catalog) -> None:
    deploy(catalog, "1", "2", "3")
    catalog.apply([catalog.make_current("m", "1")])
    catalog.apply([catalog.make_current("m", "1")])  # changes nothing
    assert catalog.state.previous["m"] == ["2", "3"]
    catalog.apply([catalog.roll_back("m")])
    assert current(catalog) == "3"


def test_a_deleted_version_is_not_gone_back_to(catalog: Catalog) -> None:
    deploy(catalog, "1", "2", "3")
    remove(catalog, "2")
    assert current(catalog) == "3"
    assert catalog.roll_back("m") == SetCurrent("m", "1", [])
    remove(catalog, "3")
    assert current(catalog) is None
    catalog.apply([catalog.roll_back("m")])
    assert current(catalog) == "1"


def test_a_version_that_comes_back_under_its_old_name_is_a_new_one(
    catalog: Catalog,
) -> None:
    """Added without a function it was never current, whatever its predecessor was."""
    deploy(catalog, "1", "2", "3")
    remove(catalog, "2")
    catalog.apply([PutModel(model(version="2", blob=None))])
    assert catalog.roll_back("m") == SetCurrent("m", "1", [])


def test_nothing_is_left_of_a_model_whose_versions_are_gone(catalog: Catalog) -> None:
    deploy(catalog, "1", "2")
    for version in ("1", "2"):
        remove(catalog, version)
    assert catalog.state.previous == {} and catalog.state.current == {}


def test_the_history_is_bounded(catalog: Catalog) -> None:
    deploy(catalog, *map(str, range(HISTORY + 10)))
    history = catalog.state.previous["m"]
    assert history == [str(i) for i in range(9, HISTORY + 9)]


class Life(RuleBasedStateMachine):
    """Versions come, go and change places: what is current exists, and so does what
    rollback leads to."""

    versions = st.sampled_from("123456")

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog(State(), Limits())
        self.stack: list[str] = []  # versions that were current, the current one last

    @rule(version=versions)
    def deploy_or_set(self, version: str) -> None:
        if f"m:{version}" not in self.catalog.models:
            deploy(self.catalog, version)
        else:
            self.catalog.apply([self.catalog.make_current("m", version)])
        self.stack = [v for v in self.stack if v != version] + [version]

    @rule(version=versions)
    def remove(self, version: str) -> None:
        if f"m:{version}" in self.catalog.models:
            was_current = current(self.catalog) == version
            remove(self.catalog, version)
            self.stack = [v for v in self.stack if v != version]
            if was_current:
                self.stack.append("")

    @rule()
    def roll_back(self) -> None:
        try:
            change = self.catalog.roll_back("m")
        except (NotFound, Conflict):
            assert len([v for v in self.stack[:-1] if v]) == 0
            return
        self.catalog.apply([change])
        self.stack.pop()
        while self.stack[-1] == "":
            self.stack.pop()

    @invariant()
    def agrees(self) -> None:
        expected = self.stack[-1] if self.stack else None
        assert current(self.catalog) == (expected or None)
        history = self.catalog.state.previous.get("m", [])
        assert all(f"m:{version}" in self.catalog.models for version in history)
        assert history == [version for version in self.stack[:-1] if version]


Life.TestCase.settings = settings(max_examples=100, deadline=None)
TestLife = Life.TestCase


# -- checks ----------------------------------------------------------------------------


def test_an_application_is_checked(catalog: Catalog) -> None:
    deploy(catalog, "1", input_type="ints")
    spec = catalog.check_new_application(application("a", "later", input_type="d"))
    assert spec.input_type == "doubles"
    with pytest.raises(Conflict, match="incompatible input_type 'ints'"):
        catalog.check_new_application(application("a", "m"))
    for name in "abc":
        catalog.apply([PutApplication(application(name))])
    with pytest.raises(Conflict, match="'a' already exists"):
        catalog.check_new_application(application("a"))
    with pytest.raises(TooManyRequests, match="3 applications"):
        catalog.check_new_application(application("d"))


def test_a_model_is_checked(catalog: Catalog) -> None:
    assert catalog.check_new_model(model(input_type="d")).input_type == "doubles"
    deploy(catalog, "1")
    with pytest.raises(Conflict, match="'m' and version '1' already exists"):
        catalog.check_new_model(model())
    with pytest.raises(
        InvalidInput, match=r"Expected a number, got a string at example\[0\]"
    ):
        catalog.check_new_model(model(version="2", example=["x"]))
    with pytest.raises(InvalidInput, match="max_batch_size"):
        catalog.check_new_model(model(version="2", batching=BatchingSettings("fixed")))
    deploy(catalog, "2", "3", "4", "5")
    with pytest.raises(TooManyRequests, match="5 model versions"):
        catalog.check_new_model(model(version="6"))


@pytest.mark.fault("A4")
def test_what_is_said_of_all_versions_is_bounded_together() -> None:
    catalog = Catalog(State(), Limits(record_bytes=20_000))
    for version in "123":
        record = catalog.check_new_model(model(version=version, source="x" * 5000))
        catalog.apply([PutModel(record)])
    with pytest.raises(TooManyRequests, match="20000 bytes together; undeploy some"):
        catalog.check_new_model(model(version="4", source="x" * 5000))
    catalog.check_new_model(model(version="4"))
    again = Catalog(catalog.state, Limits(record_bytes=20_000))
    with pytest.raises(TooManyRequests):
        again.check_new_model(model(version="4", source="x" * 5000))
    remove(catalog, "1")
    catalog.check_new_model(model(version="4", source="x" * 5000))


@pytest.mark.fault("A3")
def test_functions_are_bounded_together() -> None:
    catalog = Catalog(State(), Limits(function_bytes=1000))
    deploy(catalog, "1", "2", function_bytes=400)
    catalog.check_functions(200)
    with pytest.raises(TooManyRequests, match="may have 1000 bytes together; undeploy"):
        catalog.check_functions(201)
    remove(catalog, "1")
    catalog.check_functions(600)


def test_a_new_version_fits_the_applications_that_are_linked(catalog: Catalog) -> None:
    catalog.apply([PutApplication(application("app", "m"))])
    catalog.check_new_model(model())
    with pytest.raises(
        Conflict, match="already linked to app 'app' using input type 'doub"
    ):
        catalog.check_new_model(model(input_type="ints"))


def test_replicas_are_bounded(catalog: Catalog) -> None:
    deploy(catalog, "1", "2", num_replicas=3)
    deploy(catalog, "3", num_replicas=100, blob=None)
    catalog.check_replicas(2, starting=0)
    catalog.check_replicas(-1, starting=100)
    with pytest.raises(TooManyRequests, match="7 replicas run and 8 are allowed"):
        catalog.check_replicas(2, starting=1)


def test_scaling_is_checked(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="no current version"):
        catalog.check_scale("m", None, 1)
    deploy(catalog, "1", "2")
    assert catalog.check_scale("m", None, 0).version == "2"
    assert catalog.check_scale("m", "1", 4).version == "1"
    with pytest.raises(InvalidInput, match="must not be negative"):
        catalog.check_scale("m", None, -1)
    with pytest.raises(NotFound):
        catalog.check_scale("m", "9", 1)
    deploy(catalog, "3", blob=None)
    with pytest.raises(Conflict, match="containerless model m:3"):
        catalog.check_scale("m", None, 1)
