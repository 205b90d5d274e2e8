"""What is registered: records, current versions and the history that rollback goes
through. Pure: it answers and checks, and makes the changes that the engine commits."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from clipper.batching.registry import make_controller
from clipper.config import Limits
from clipper.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from clipper.inputs import encode_json_value, parse_input_type
from clipper.records import ApplicationRecord, Damaged, ModelRecord, State
from clipper.registration import check_application, check_model, json_bytes
from clipper.store.base import (
    Change,
    DeleteApplication,
    DeleteModel,
    PutApplication,
    PutModel,
    SetCurrent,
)

# Earlier current versions that rollback can go back through.
HISTORY = 20


class Catalog:
    """The stored state in memory. It changes by `apply` alone, after a commit."""

    def __init__(self, state: State, limits: Limits) -> None:
        self._limits = limits
        # All mutable state, with the numbers given out but not committed yet, and how long
        # each version's record is.
        self.state = state
        self._sizes = {key: _size(record) for key, record in state.models.items()}

    @property
    def applications(self) -> dict[str, ApplicationRecord]:
        return self.state.applications

    @property
    def models(self) -> dict[str, ModelRecord]:
        """Every version, by "name:version"."""
        return self.state.models

    @property
    def damaged(self) -> Damaged:
        """The records that cannot be read."""
        return self.state.damaged

    def check_readable(self, damaged: dict[str, str], key: str, way_on: str) -> None:
        """Refuse what needs a record that cannot be read."""
        if key in damaged:
            raise Unavailable(
                f"{key:.200} cannot be served: {damaged[key]}; restore the data directory "
                f"from a backup, or {way_on}"
            )

    def check_application(self, name: str) -> None:
        """Refuse an application whose record cannot be read."""
        way_on = "delete the application and register it again, which begins anew"
        self.check_readable(self.damaged.applications, name, way_on)

    def check_version(self, name: str, version: str) -> None:
        """Refuse a version whose record cannot be read."""
        way_on = "deploy the version again, or undeploy it"
        self.check_readable(self.damaged.models, f"{name}:{version}", way_on)

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over what was committed."""
        state, damaged = self.state, self.damaged
        for change in changes:
            match change:
                case PutApplication(record=application):
                    state.applications[application.name] = application
                    damaged.applications.pop(application.name, None)
                case DeleteApplication(name=name):
                    state.applications.pop(name, None)
                    damaged.applications.pop(name, None)
                case PutModel(record=model):
                    state.models[model.key] = model
                    self._sizes[model.key] = _size(model)
                    damaged.models.pop(model.key, None)
                case DeleteModel(name=name, version=version):
                    state.models.pop(f"{name}:{version}", None)
                    self._sizes.pop(f"{name}:{version}", None)
                    damaged.models.pop(f"{name}:{version}", None)
                case SetCurrent(name=name, version=current, previous=previous):
                    damaged.current.pop(name, None)
                    state.previous[name] = list(previous)
                    if not previous:
                        del state.previous[name]
                    if current is None:
                        state.current.pop(name, None)
                    else:
                        state.current[name] = current

    def next_number(self) -> int:
        """A number that no application and no model version ever had."""
        self.state.last_number += 1
        return self.state.last_number

    # -- versions -----------------------------------------------------------------------

    def model(self, name: str, version: str) -> ModelRecord:
        record = self.models.get(f"{name}:{version}")
        if record is None:
            raise NotFound(
                f"model with name '{name:.100}' and version '{version:.100}' does not exist"
            )
        return record

    def versions(self, name: str) -> list[ModelRecord]:
        return [record for record in self.models.values() if record.name == name]

    def current(self, name: str) -> ModelRecord | None:
        """The current version of a model, None where there is none."""
        version = self.state.current.get(name)
        return None if version is None else self.models.get(f"{name}:{version}")

    def arm(self, name: str) -> ModelRecord | None:
        """The version that a candidate of an application stands for: that of
        "model:version", or the current one of "model"; None where there is none."""
        return self.models.get(name) if ":" in name else self.current(name)

    def is_current(self, record: ModelRecord) -> bool:
        return self.state.current.get(record.name) == record.version

    def make_current(self, name: str, version: str) -> SetCurrent:
        """The change that makes a version current and remembers the one before."""
        now = self.state.current.get(name)
        history = [v for v in self.state.previous.get(name, []) if v != version]
        if now is not None and now != version:
            history.append(now)
        return SetCurrent(name, version, history[-HISTORY:])

    def set_version(self, name: str, version: str) -> SetCurrent:
        """The change that makes a version current which people name."""
        if not self.versions(name):
            raise NotFound(f"Cannot set version for nonexistent model '{name:.100}'")
        if f"{name}:{version}" not in self.models:
            raise NotFound(
                f"Cannot set non-existent version '{version:.100}' for model with name "
                f"'{name}'"
            )
        return self.make_current(name, version)

    def roll_back(self, name: str) -> SetCurrent:
        """The change that goes back to the version that was current before."""
        if not self.versions(name):
            raise NotFound(f"no model with name '{name:.100}' exists")
        history = [
            v for v in self.state.previous.get(name, []) if f"{name}:{v}" in self.models
        ]
        if not history:
            raise Conflict(f"model '{name}' has no earlier version to go back to")
        return SetCurrent(name, history[-1], history[:-1])

    def remove(self, name: str, version: str) -> list[Change]:
        """The changes that delete a version and take it out of the history. If it was
        current, the model has no current version until one is set or deployed: nothing
        else was asked for."""
        if f"{name}:{version}" not in self.damaged.models:
            self.model(name, version)
        before, now = self.state.previous.get(name, []), self.state.current.get(name)
        history = [v for v in before if v != version]
        changes: list[Change] = [DeleteModel(name, version)]
        others = [record for record in self.versions(name) if record.version != version]
        lost = name in self.damaged.current and not others
        if now == version or history != before or lost:
            changes.append(SetCurrent(name, None if now == version else now, history))
        return changes

    # -- links --------------------------------------------------------------------------

    def link(self, application: ApplicationRecord, models: list[str]) -> PutApplication:
        """The change that adds candidate models, which must exist, to an application."""
        for model in models:
            if not self.versions(model):
                raise NotFound(f"No model with name '{model:.100}' exists.")
            self.check_link(application, model)
            if model in application.models:
                raise Conflict(
                    f"The model with name '{model}' is already linked to "
                    f"'{application.name}'"
                )
        linked = replace(application, models=[*application.models, *models])
        return PutApplication(check_application(linked))

    def unlink(self, application: ApplicationRecord, models: list[str]) -> PutApplication:
        """The change that takes models from an application."""
        for model in models:
            if model not in application.models:
                raise NotFound(
                    f"Cannot remove nonexistent link between app {application.name} and "
                    f"model {model:.100}"
                )
        rest = [model for model in application.models if model not in models]
        return PutApplication(replace(application, models=rest))

    # -- checks -------------------------------------------------------------------------

    def check_new_application(self, spec: ApplicationRecord) -> ApplicationRecord:
        """The specification in canonical form, if it can be registered now."""
        spec = check_application(spec)
        if spec.name in self.damaged.applications:
            raise Conflict(
                f"application '{spec.name}' exists, but "
                f"{self.damaged.applications[spec.name]}; restore the data directory from "
                "a backup, or delete the application first, with what it learned"
            )
        if spec.name in self.applications:
            raise Conflict(f"application '{spec.name}' already exists")
        if len(self.applications) >= self._limits.applications:
            raise TooManyRequests(
                f"there are {len(self.applications)} applications, the most allowed; "
                "delete some"
            )
        for name in spec.models:
            self.check_link(spec, name)
        return spec

    def check_new_model(self, spec: ModelRecord) -> ModelRecord:
        """The specification in canonical form, if it can be added now."""
        spec = check_model(spec)
        make_controller(spec.batching, 1.0)
        if spec.example is not None:
            encode_json_value(parse_input_type(spec.input_type), spec.example, "example")
        if spec.key in self.models:
            raise Conflict(
                f"model with name '{spec.name}' and version '{spec.version}' already exists"
            )
        if len(self.models) >= self._limits.models:
            raise TooManyRequests(
                f"there are {len(self.models)} model versions, the most allowed; "
                "undeploy some"
            )
        most = self._limits.record_bytes
        if sum(self._sizes.values()) + _size(spec) > most:
            raise TooManyRequests(
                f"examples, sources and environments of all versions may have {most} bytes "
                "together; undeploy some"
            )
        for record in self.applications.values():
            if spec.name in record.models and record.input_type != spec.input_type:
                raise Conflict(
                    f"Model with name '{spec.name}' is already linked to app "
                    f"'{record.name}' using input type '{record.input_type}'. The input "
                    "type you provided for a new version of the model, "
                    f"'{spec.input_type}', is not compatible."
                )
        return spec

    def check_link(self, application: ApplicationRecord, model: str) -> None:
        """Refuse a model whose input type is not the application's."""
        for record in self.versions(model):
            if record.input_type != application.input_type:
                raise Conflict(
                    f"Model with name '{model}' has incompatible input_type "
                    f"'{record.input_type}'. Requested app to link to has input_type "
                    f"'{application.input_type}'."
                )

    def check_functions(self, more: int) -> None:
        """Refuse `more` bytes of functions, of deploys under way and the one to come,
        than there may be beside those of all versions."""
        most = self._limits.function_bytes
        if sum(record.function_bytes for record in self.models.values()) + more > most:
            raise TooManyRequests(
                f"the functions of all versions may have {most} bytes together; undeploy "
                "some"
            )

    def check_replicas(self, more: int, starting: int) -> None:
        """Refuse more workers than the server may have; `starting` are those of deploys
        under way."""
        running = sum(r.workers for r in self.models.values() if r.blob is not None)
        running += starting
        if more > 0 and running + more > self._limits.replicas:
            raise TooManyRequests(
                f"{running} replicas run and {self._limits.replicas} are allowed"
            )

    def check_scale(self, name: str, version: str | None, replicas: int) -> ModelRecord:
        """The version to scale, by default the current one."""
        current = self.current(name)
        if version is None and current is None:
            raise NotFound(f"model '{name:.100}' has no current version")
        if replicas < 0:
            raise InvalidInput("num_replicas must not be negative")
        record = self.model(name, version) if version is not None else current
        assert record is not None
        if record.blob is None:
            raise Conflict(
                f"Cannot resize the replica set for containerless model {record.key}"
            )
        return record


def _size(record: ModelRecord) -> int:
    return json_bytes("the version's record", record)
