"""The admin routes of the original Clipper, with the success texts of its release 0.4.1.

Its Python client drives a server through these. What differs: errors are ours (status
and JSON), an application may have several candidates, texts are labelled text/plain
where the original called them JSON, and the bodies may carry settings it did not know.
As in the original, keys that nobody knows are ignored here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from clipper.engine import Engine
from clipper.errors import InvalidInput
from clipper.explanation.arms import learned
from clipper.frontend.operations import Operation
from clipper.frontend.schemas import (
    ApplicationName,
    DefaultOutput,
    InputTypeName,
    Labels,
    ModelNames,
    Name,
    Uid,
    described,
)
from clipper.frontend.schemas import NamedVersion as Version
from clipper.inputs import parse_input_type
from clipper.model import Model
from clipper.records import (
    ApplicationRecord,
    BatchingSettings,
    ModelRecord,
    PolicySettings,
)
from clipper.registration import MAX_SLO_MICROS, ON_OVERLOAD
from clipper.values import ModelId, check_name, check_uid

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Text = Annotated[str, Meta(max_length=4096)]


class Policy(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    options: dict[str, Any] = {}


class AddApplication(msgspec.Struct):
    name: ApplicationName
    input_type: InputTypeName
    default_output: DefaultOutput
    latency_slo_micros: Annotated[int, described(minimum=1, maximum=MAX_SLO_MICROS)]
    candidate_model_names: ModelNames | None = None  # as in releases before 0.2
    models: ModelNames | None = None
    policy: str | Policy = "static"
    cache: bool = True
    cache_ttl_seconds: Annotated[float, described(exclusiveMinimum=0)] | None = None
    parse_output: bool = True
    on_overload: Annotated[str, described(enum=ON_OVERLOAD)] = "default"
    loss: str = "zero_one"


class AddModel(msgspec.Struct):
    model_name: Name
    model_version: Version
    input_type: InputTypeName
    labels: Labels = []
    container_name: Text = ""
    model_data_path: Text = ""
    batch_size: Annotated[Int32, described(anyOf=[{"const": -1}, {"minimum": 1}])] = -1


class NamedApplication(msgspec.Struct):
    name: str


class ApplicationByName(msgspec.Struct):
    app_name: str


class NamedVersion(msgspec.Struct):
    model_name: str
    model_version: Version


class AskedVersion(msgspec.Struct):
    """A version to look for: any name will do, for nothing is found of a wrong one."""

    model_name: str
    model_version: int | str


class NamedReplica(AskedVersion):
    replica_id: int


class Links(msgspec.Struct):
    app_name: str
    model_names: list[str]


class NewLinks(Links):
    model_names: Annotated[list[str], described(minItems=1)]


class Verbose(msgspec.Struct):
    verbose: bool = False


class StateOf(msgspec.Struct):
    app_name: str
    uid: Uid | UnsetType = UNSET


class OriginalRoutes:
    """Handlers of the original's routes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def operations(self) -> list[Operation]:
        return [
            ("add_app", AddApplication, self.add_app),
            ("delete_app", NamedApplication, self.delete_app),
            ("add_model", AddModel, self.add_model),
            ("delete_versioned_model", NamedVersion, self.delete_versioned_model),
            ("set_model_version", NamedVersion, self.set_model_version),
            ("add_model_links", NewLinks, self.add_model_links),
            ("delete_model_links", Links, self.delete_model_links),
            ("get_linked_models", ApplicationByName, self.get_linked_models),
            ("get_all_applications", Verbose, self.get_all_applications),
            ("get_application", NamedApplication, self.get_application),
            ("get_all_models", Verbose, self.get_all_models),
            ("get_model", AskedVersion, self.get_model),
            ("get_all_containers", Verbose, self.get_all_containers),
            ("get_container", NamedReplica, self.get_container),
            ("get_state", StateOf, self.get_state),
        ]

    # -- changes ------------------------------------------------------------------------

    async def add_app(self, body: AddApplication) -> str:
        default = body.default_output
        if default is not None and not isinstance(default, str):
            raise InvalidInput(
                'default_output must be a string, such as "-1.0" with its quotes, or null'
            )
        if body.models is not None and body.candidate_model_names is not None:
            raise InvalidInput("give either models or candidate_model_names")
        record = await self._engine.register_application(
            ApplicationRecord(
                name=body.name,
                number=0,
                input_type=body.input_type,
                slo_micros=body.latency_slo_micros,
                default_output=default,
                models=body.models or body.candidate_model_names or [],
                policy=policy_settings(body.policy),
                cache=body.cache,
                cache_ttl_seconds=body.cache_ttl_seconds,
                parse_output=body.parse_output,
                on_overload=body.on_overload,
                loss=body.loss,
            )
        )
        return f"Successfully added application with name '{record.name}'"

    async def delete_app(self, body: NamedApplication) -> str:
        await self._engine.delete_application(body.name)
        return f"Successfully deleted application with name '{body.name}'"

    async def add_model(self, body: AddModel) -> str:
        size = body.batch_size
        if size < 1 and size != -1:
            raise InvalidInput(
                "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1"
            )
        record = await self._engine.add_model(
            ModelRecord(
                name=body.model_name,
                version=_version(body.model_version),
                input_type=body.input_type,
                generation=0,
                labels=body.labels,
                batching=BatchingSettings(max_batch_size=None if size < 1 else size),
                container_name=body.container_name,
                model_data_path=body.model_data_path,
            )
        )
        kind = parse_input_type(record.input_type).original_name
        return f"Successfully added model with name '{record.name}' and input type '{kind}'"

    async def delete_versioned_model(self, body: NamedVersion) -> str:
        name, version = body.model_name, _version(body.model_version)
        await self._engine.delete_model(name, version)
        return f"Successfully deleted model with name '{name}' and version '{version}'"

    async def set_model_version(self, body: NamedVersion) -> str:
        name, version = body.model_name, _version(body.model_version)
        await self._engine.set_version(name, version)
        return f"Successfully set model with name '{name}' to version '{version}'"

    async def add_model_links(self, body: NewLinks) -> str:
        self._engine.application(body.app_name)
        if not body.model_names:
            raise InvalidInput(
                "Please provide the name of the model that you want to link to the "
                f"application '{body.app_name}'"
            )
        await self._engine.link(body.app_name, body.model_names)
        names = "', '".join(body.model_names)
        kind = "model with name" if len(body.model_names) == 1 else "models with names"
        return f"Successfully linked {kind} '{names}' to application '{body.app_name}'"

    async def delete_model_links(self, body: Links) -> str:
        await self._engine.unlink(body.app_name, body.model_names)
        return "Success!"

    # -- looking ------------------------------------------------------------------------

    async def get_linked_models(self, body: ApplicationByName) -> list[str]:
        return self._engine.application(body.app_name).record.models

    async def get_all_applications(self, body: Verbose) -> list[Any]:
        records = self._engine.catalog.applications.values()
        return [_application(r) if body.verbose else r.name for r in records]

    async def get_application(self, body: NamedApplication) -> dict[str, Any]:
        record = self._engine.catalog.applications.get(body.name)
        return _application(record) if record is not None else {}

    async def get_all_models(self, body: Verbose) -> list[Any]:
        records = self._engine.catalog.models.values()
        return [self._model(r) if body.verbose else r.key for r in records]

    async def get_model(self, body: AskedVersion) -> dict[str, Any]:
        model = self._find(body)
        return self._model(model.record) if model is not None else {}

    async def get_all_containers(self, body: Verbose) -> list[Any]:
        show = _replica if body.verbose else _replica_name
        return [
            show(model, number)
            for model in self._engine.models.values()
            for number in range(model.replicas.live)
        ]

    async def get_container(self, body: NamedReplica) -> dict[str, Any]:
        model = self._find(body)
        if model is None or not 0 <= body.replica_id < model.replicas.live:
            return {}
        return _replica(model, body.replica_id)

    async def get_state(self, body: StateOf) -> dict[str, Any]:
        """What an application, or one of its users, has learned. The original answered
        its default output here."""
        application = self._engine.applications.get(body.app_name)
        uid = None if body.uid is UNSET else check_uid(body.uid, "$.uid")
        if application is None:
            return {}
        return await learned(self._engine.learning, application, uid)

    # -- pieces -------------------------------------------------------------------------

    def _find(self, body: AskedVersion) -> Model | None:
        model_id = ModelId(body.model_name, str(body.model_version))
        return self._engine.models.get(model_id)

    def _model(self, record: ModelRecord) -> dict[str, Any]:
        return {
            "model_name": record.name,
            "model_version": record.version,
            "input_type": parse_input_type(record.input_type).original_name,
            "labels": record.labels,
            "container_name": record.container_name,
            "model_data_path": record.model_data_path,
            "is_current_version": self._engine.catalog.is_current(record),
        }


def policy_settings(policy: str | Policy) -> PolicySettings:
    if isinstance(policy, str):
        return PolicySettings(policy)
    return PolicySettings(policy.name, policy.options)


def _application(record: ApplicationRecord) -> dict[str, Any]:
    ttl, settings, loss = record.cache_ttl_seconds, record.policy, record.loss
    # what the original did not know, where it is not as it was there
    more = {
        **({} if ttl is None else {"cache_ttl_seconds": ttl}),
        **({} if settings == PolicySettings() else {"policy": settings}),
        **({} if loss == "zero_one" else {"loss": loss}),
    }
    return {
        "name": record.name,
        "input_type": parse_input_type(record.input_type).original_name,
        "default_output": record.default_output,
        "latency_slo_micros": record.slo_micros,
        "linked_models": record.models,
        **more,
    }


def _replica_name(model: Model, number: int) -> str:
    return f"{model.id}:{number}"


def _replica(model: Model, number: int) -> dict[str, Any]:
    """Replicas are alike and come and go: a number counts those that are live."""
    return {
        "model_id": str(model.id),
        "model_name": model.id.name,
        "model_version": model.id.version,
        "model_replica_id": number,
        "input_type": model.input_type.original_name,
    }


def _version(version: Version) -> str:
    return check_name("model_version", version)
