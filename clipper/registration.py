"""What an application or a model must satisfy before it is registered."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
from msgspec.structs import replace

from clipper.errors import InvalidInput
from clipper.inputs import parse_input_type
from clipper.records import ApplicationRecord, ModelRecord
from clipper.selection.combine import make_combiner
from clipper.selection.losses import make_loss
from clipper.selection.policy import Ensemble, SelectionPolicy
from clipper.selection.registry import make_policy
from clipper.values import check_name

RESERVED = frozenset({"admin", "docs", "health", "metrics", "openapi.json", "v2"})

MAX_SLO_MICROS = 3600 * 1_000_000
MAX_CANDIDATES = 64
MAX_TEXT = 64 * 1024  # characters of a default output, of a source, of all variables
MAX_VARIABLES = 100  # of an environment
MAX_LABELS = 64
MAX_PACKAGES = 1_000
MAX_PACKAGE = 256  # characters of a package's name, or of its version
MAX_OPTIONS = 16 * 1024  # bytes of a policy's options, as JSON
MAX_EXAMPLE = 4 * 1024 * 1024  # bytes of a version's example, as JSON

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

ON_OVERLOAD = ("default", "reject")


def check_application(spec: ApplicationRecord) -> ApplicationRecord:
    """The specification with names and types in their canonical form."""
    name = check_name("application name", spec.name)
    if name in RESERVED:
        raise InvalidInput(f"an application cannot be called {name!r}, which is a route")
    if not 1 <= spec.slo_micros <= MAX_SLO_MICROS:
        raise InvalidInput(
            f"latency_slo_micros must lie between 1 and {MAX_SLO_MICROS} "
            f"(one hour), got {spec.slo_micros}"
        )
    models = [check_name("model name", model) for model in spec.models]
    if len(set(models)) != len(models):
        raise InvalidInput("a model is named twice")
    if len(models) > MAX_CANDIDATES:
        raise InvalidInput(f"an application has at most {MAX_CANDIDATES} models")
    if spec.default_output is not None:
        _check_default(spec.default_output)
    ttl = spec.cache_ttl_seconds
    if ttl is not None and not (0 < ttl < math.inf):
        raise InvalidInput(
            f"cache_ttl_seconds must be a positive number of seconds, or null, got {ttl:g}"
        )
    _check_one_of("on_overload", spec.on_overload, ON_OVERLOAD)
    _check_size("the policy's options", spec.policy.options, MAX_OPTIONS)
    _check_policy(make_policy(spec.policy), spec, models)
    kind = parse_input_type(spec.input_type)
    return replace(spec, name=name, models=models, input_type=kind.value)


def _check_policy(
    policy: SelectionPolicy, spec: ApplicationRecord, models: list[str]
) -> None:
    """What policy, loss and models must have to do with each other."""
    loss = make_loss(spec.loss)
    if isinstance(policy, Ensemble):
        make_combiner(policy, loss)
    try:
        candidates = [*policy.candidates(models)]
    except InvalidInput:
        raise
    except Exception as error:  # a program's own
        raise InvalidInput(f"policy {policy.name} does not work: {error!r:.300}") from error
    for name in candidates:
        model = name.partition(":")[0]
        if models and model not in models:
            raise InvalidInput(
                f"policy {policy.name} names {name}, and {model} is not among the "
                f"application's models: {', '.join(models)}"
            )


def check_model(spec: ModelRecord) -> ModelRecord:
    """The specification with names and types in their canonical form."""
    if spec.num_replicas < 1:
        raise InvalidInput("num_replicas must be at least 1")
    if spec.memory_limit is not None and spec.memory_limit < 1:
        raise InvalidInput("memory_limit must be a positive number of bytes")
    if spec.spares < 0:
        raise InvalidInput("spares must not be negative")
    if spec.recycle_after is not None and spec.recycle_after < 1:
        raise InvalidInput("recycle_after must be a positive number of batches")
    if spec.recycle_memory is not None and spec.recycle_memory < 1:
        raise InvalidInput("recycle_memory must be a positive number of bytes")
    if len(spec.labels) > MAX_LABELS:
        raise InvalidInput(f"a version has at most {MAX_LABELS} labels")
    if len(spec.source) > MAX_TEXT:
        raise InvalidInput(f"source is longer than {MAX_TEXT} characters")
    _check_size("example", spec.example, MAX_EXAMPLE)
    _check_environment(spec.environment)
    _check_packages(spec.packages)
    return replace(
        spec,
        name=check_name("model name", spec.name),
        version=check_name("model version", spec.version),
        labels=[check_name("label", label) for label in spec.labels],
        input_type=parse_input_type(spec.input_type).value,
    )


def _check_environment(variables: dict[str, str]) -> None:
    if len(variables) > MAX_VARIABLES:
        raise InvalidInput(f"environment has more than {MAX_VARIABLES} variables")
    for name, value in variables.items():
        if not VARIABLE.fullmatch(name):
            raise InvalidInput(f"environment has a variable of the name {name!r:.60}")
        if "\0" in value:
            raise InvalidInput(f"the environment variable {name} must have no NUL")
    if sum(map(len, variables.values())) > MAX_TEXT:
        raise InvalidInput(f"environment has more than {MAX_TEXT} characters")


def _check_packages(packages: dict[str, str]) -> None:
    if len(packages) > MAX_PACKAGES:
        raise InvalidInput(f"packages names more than {MAX_PACKAGES}")
    if any(len(text) > MAX_PACKAGE for item in packages.items() for text in item):
        raise InvalidInput(f"packages has a text of more than {MAX_PACKAGE} characters")


def _check_size(what: str, value: Any, most: int) -> None:
    if json_bytes(what, value) > most:
        raise InvalidInput(f"{what} may have at most {most} bytes as JSON")


def json_bytes(what: str, value: Any) -> int:
    """How long a value is as JSON. Raises InvalidInput if JSON cannot say it."""
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} cannot be said in JSON: {error!s:.200}") from None


def _check_default(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise InvalidInput(f"default_output is longer than {MAX_TEXT} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("default_output is not valid Unicode") from None


def _check_one_of(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(
            f"{field} must be one of {', '.join(allowed)}, got {value!r:.60}"
        )
