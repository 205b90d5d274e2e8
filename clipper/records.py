"""What is stored of an application and of a model version: msgspec structs, leaf.

A record is replaced, never changed in place; `msgspec.structs.replace` makes the new one.
"""

from __future__ import annotations

from typing import Any

import msgspec


class BatchingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How batches are sized. `max_batch_size` counts rows and bounds every controller;
    with `fixed` it is the size itself. `batch_wait` is how many milliseconds a batch may
    wait to become fuller, from the arrival of its first row; "auto" waits where it pays."""

    controller: str = "aimd"
    max_batch_size: int | None = None
    batch_wait: float | str = "auto"


class ModelRecord(msgspec.Struct, frozen=True):
    """One deployed version of a model.

    `generation` is unique over the life of the store: a version that is deployed again
    after its deletion gets another. `blob` is the sha256 of the packaged function, None
    for a model that was registered without one. `failed` holds the sentence that says
    why a version is out of service.
    """

    name: str
    version: str
    input_type: str
    generation: int
    blob: str | None = None
    labels: list[str] = []
    num_replicas: int = 1
    batching: BatchingSettings = BatchingSettings()
    retry: bool = True
    example: Any = None  # one input, as in a JSON body; None where none was given
    python: str = ""  # major.minor that packaged the function
    packages: dict[str, str] = {}  # versions that were imported when it was packaged
    source: str = ""  # inspect.getsource of the function, for people
    environment: dict[str, str] = {}  # extra environment variables of its workers
    memory_limit: int | None = None  # bytes of address space per worker
    spares: int = 0  # workers that stand by beside `num_replicas`
    recycle_after: int | None = None  # batches
    recycle_memory: int | None = None  # resident bytes of a worker and its children
    function_bytes: int = 0  # of the packaged function; 0 where that was not kept
    container_name: str = ""  # the original's fields, stored and shown back
    model_data_path: str = ""
    created: float = 0.0  # seconds since the epoch

    @property
    def key(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def workers(self) -> int:
        """Replicas and spares: without the former there are none of the latter."""
        return self.num_replicas + self.spares if self.num_replicas else 0


class PolicySettings(msgspec.Struct, frozen=True):
    """A selection policy by name, with its options."""

    name: str = "static"
    options: dict[str, Any] = {}


class ApplicationRecord(msgspec.Struct, frozen=True):
    """One application. `number` is unique over the life of the store; query ids carry
    it, so that an id of a deleted application is not taken for one of its successor.

    The feedback log is told of a new policy after the record: until then its entries are
    those of `previous_policy`, None where there was only one.
    """

    name: str
    number: int
    input_type: str
    slo_micros: int
    default_output: str | None = None  # None: no default, failures become errors
    models: list[str] = []  # candidates by name; each answers with its current version
    policy: PolicySettings = PolicySettings()
    policy_generation: int = 1
    previous_policy: PolicySettings | None = None
    previous_generation: int = 0
    cache: bool = True
    cache_ttl_seconds: float | None = None  # None: outputs are used until they are evicted
    parse_output: bool = True
    on_overload: str = "default"
    loss: str = "zero_one"
    created: float = 0.0


class Damaged(msgspec.Struct):
    """Records that cannot be read, each by its key with what is wrong with it. They stay as
    they are until somebody deletes or replaces them."""

    applications: dict[str, str] = {}
    models: dict[str, str] = {}  # by "name:version"
    current: dict[str, str] = {}  # model name -> why it is not known which is current

    def listed(self) -> list[dict[str, str]]:
        """One for each record, with kind, name and reason."""
        kinds = {
            "application": self.applications,
            "version": self.models,
            "current version of": self.current,
        }
        return [
            {"kind": kind, "name": name, "reason": reason}
            for kind, reasons in kinds.items()
            for name, reason in reasons.items()
        ]


class State(msgspec.Struct):
    """Everything a store holds of records, as read once at start."""

    applications: dict[str, ApplicationRecord] = {}
    models: dict[str, ModelRecord] = {}  # by "name:version"
    current: dict[str, str] = {}  # model name -> its current version
    previous: dict[
        str, list[str]
    ] = {}  # model name -> earlier current versions, newest last
    last_number: int = 0  # highest application number or model generation ever given out
    damaged: Damaged = msgspec.field(default_factory=Damaged)
