"""Settings of a server: defaults, ``clipper.toml``, and command-line flags over both."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from clipper.errors import ConfigError

KIB, MIB = 1024, 1024 * 1024

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
RowCount = Annotated[int, msgspec.Meta(ge=1, le=65_535)]  # a query id counts no further
Bytes = Annotated[int, msgspec.Meta(ge=0)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a client could make grow, with its bound."""

    body: Bytes = 16 * MIB  # predict and update
    deploy_body: Bytes = 256 * MIB
    head: Bytes = 16 * KIB  # request line and headers together
    bytes_in_flight: Bytes = 256 * MIB  # bodies accepted and not yet answered
    connections: Count = 16_384  # lowered at start to what the descriptors allow
    admin_connections: Count = 64  # with room of their own, lowered in the same way
    head_seconds: Seconds = 10.0  # to send the request line and headers
    body_seconds: Seconds = 30.0  # to send the body
    idle_seconds: Seconds = 75.0  # between requests of one connection
    write_seconds: Seconds = 30.0  # a reader that takes nothing for this long is closed
    queue_rows: Count = 200_000  # waiting for one model
    rows_per_request: RowCount = 10_000
    values_per_request: Count = 500_000  # numbers, strings, arrays: what decoding costs
    applications: Count = 1_000
    models: Count = 1_000  # model versions
    replicas: Count = 256  # workers of all versions together
    deploys: Count = 4  # at once, uploads that are coming in included
    record_bytes: Bytes = 256 * MIB  # of what deployers say of all versions, as JSON
    function_bytes: Bytes = 16 * 1024 * MIB  # packaged functions of all versions


class LearningSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of feedback, and for how long."""

    # of feedback; as long as query ids live, or the same could be learned from twice
    feedback_days: Annotated[float, msgspec.Meta(ge=7)] = 30.0
    # of feedback on disk; the oldest that a snapshot holds goes, but for what tells that
    # the same comes again
    feedback_bytes: Bytes = 4096 * MIB
    decision_days: Annotated[float, msgspec.Meta(gt=0)] = 7.0
    decision_bytes: Bytes = 1024 * MIB  # of decisions on disk; the oldest go
    users_in_memory: Count = 10_000  # for each application
    users_on_disk: Count = 1_000_000  # for each application; who gave none for longest go
    snapshot_entries: Count = 10_000  # of all applications; then a snapshot is due
    snapshot_seconds: Seconds = 30.0  # or this long after the first of them
    policies: list[str] = []  # of one's own, as "module:Class"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server. `port` and `admin_port` 0 take any free port (for tests)."""

    host: str = "127.0.0.1"
    port: Port = 1337
    admin_host: str = "127.0.0.1"
    admin_port: Port = 1338
    data_dir: str | None = None  # None: $CLIPPER_DATA_DIR or $XDG_DATA_HOME/clipper
    ephemeral: bool = False  # keep nothing on disk
    recover: bool = False  # of a damaged database, go on with what can be read
    auth: bool = True  # admin routes need the token; False on loopback only
    require_token: bool = False  # predictions and feedback need it too
    allowed_hosts: list[str] = []  # Host values accepted beside loopback
    allowed_origins: list[str] = []  # Origin values accepted on the query port
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    durability: Literal["full", "process"] = "full"  # survive power loss, or kill -9
    cache_bytes: Bytes = 64 * MIB
    cache_policy: Literal["sieve", "lru"] = "sieve"  # which outputs go when it is full
    drain_seconds: Seconds = 10.0
    learning: LearningSettings = LearningSettings()
    limits: Limits = Limits()


def make_settings(values: dict[str, Any], origin: str = "settings") -> Settings:
    """Validated settings from plain values; `origin` is named in errors."""
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {error}") from None
    if not settings.auth and not (
        is_loopback(settings.admin_host) and is_loopback(settings.host)
    ):
        raise ConfigError(
            f"{origin}: without authentication the server stays on loopback; "
            "drop --no-auth, or --host and --admin-host"
        )
    return settings


def load_settings(path: str | Path | None, flags: dict[str, Any]) -> Settings:
    """Settings from a TOML file (optional) with flags over it; flags of None are unset."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # of TOML, UTF-8 or a huge integer
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
    values.update({key: value for key, value in flags.items() if value is not None})
    return make_settings(values, str(path) if path is not None else "settings")


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine. A name that somebody else owns cannot be
    trusted for that, whatever it begins with."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
