"""Records as rows, so that every store keeps the same and reads back the same state.

A store has four tables of (key, body); a body is JSON. It keeps what it is told and
judges no meaning: a current version may name a model that is not there, and to delete
what is not there is no error. It does refuse what it could not read back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from clipper.errors import InvalidInput
from clipper.records import ApplicationRecord, ModelRecord, State

from .base import Change, DeleteApplication, DeleteModel, PutApplication, PutModel

APPLICATION, MODEL, CURRENT, COUNTER = "application", "model", "current", "counter"
TABLES = (APPLICATION, MODEL, CURRENT, COUNTER)

LAST_NUMBER = "last_number"  # the one row of COUNTER; it only ever rises

T = TypeVar("T")

Tables: TypeAlias = Mapping[str, Mapping[str, bytes]]


class Row(NamedTuple):
    """One row to write; a body of None takes the row away."""

    table: str
    key: str
    body: bytes | None


class Write(NamedTuple):
    """What one commit does. `number` is the highest application number or model
    generation among its records, 0 if there is none."""

    rows: list[Row]
    number: int


class _Current(msgspec.Struct, frozen=True):
    """The current version of a model and the earlier ones, newest last."""

    version: str | None
    previous: list[str]


_encode = msgspec.json.Encoder().encode
_decode_application = msgspec.json.Decoder(ApplicationRecord).decode
_decode_model = msgspec.json.Decoder(ModelRecord).decode
_decode_current = msgspec.json.Decoder(_Current).decode
_decode_number = msgspec.json.Decoder(int).decode


def encode(changes: Sequence[Change]) -> Write:
    """The changes as rows, in order. Raises InvalidInput for a value that is not JSON."""
    write = Write([], 0)
    for change in changes:
        row, number = _row(change)
        write.rows.append(row)
        write = write._replace(number=max(write.number, number))
    return write


def decode(tables: Tables) -> State:
    """The state that the rows hold. A body that makes no sense is damage of its record
    alone, but for the counter's, which raises msgspec.DecodeError or, for bad UTF-8,
    UnicodeDecodeError."""
    state = State()
    damaged = state.damaged
    state.applications = dict(
        _sound(tables[APPLICATION], _decode_application, _name_of, damaged.applications)
    )
    state.models = dict(_sound(tables[MODEL], _decode_model, _key_of, damaged.models))
    for key, current in _sound(tables[CURRENT], _decode_current, None, damaged.current):
        if current.version is not None:
            state.current[key] = current.version
        if current.previous:
            state.previous[key] = current.previous
    state.last_number = _decode_number(tables[COUNTER].get(LAST_NUMBER, b"0"))
    return state


def _sound(
    rows: Mapping[str, bytes],
    decode: Callable[[bytes], T],
    name: Callable[[T], str] | None,
    damaged: dict[str, str],
) -> Iterator[tuple[str, T]]:
    """The records that can be read, by key; of the others `damaged` is told."""
    for key, body in rows.items():
        try:
            record = decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            damaged[key] = f"its record makes no sense: {error}"
            continue
        if name is not None and name(record) != key:
            damaged[key] = f"its record is that of {name(record)!r:.200}"
        else:
            yield key, record


def _name_of(record: ApplicationRecord) -> str:
    return record.name


def _key_of(record: ModelRecord) -> str:
    return record.key


def number_body(number: int) -> bytes:
    return _encode(number)


def _row(change: Change) -> tuple[Row, int]:
    if isinstance(change, PutApplication):
        application = change.record
        body = _body(f"application {application.name}", application, _decode_application)
        return Row(APPLICATION, application.name, body), application.number
    if isinstance(change, PutModel):
        model = change.record
        body = _body(f"model {model.key}", model, _decode_model)
        return Row(MODEL, model.key, body), model.generation
    if isinstance(change, DeleteApplication):
        return Row(APPLICATION, _key(change.name), None), 0
    if isinstance(change, DeleteModel):
        return Row(MODEL, _key(f"{change.name}:{change.version}"), None), 0
    key = _key(change.name)
    if change.version is None and not change.previous:
        return Row(CURRENT, key, None), 0
    current = _Current(change.version, change.previous)
    return Row(
        CURRENT, key, _body(f"current version of {key}", current, _decode_current)
    ), 0


def _body(what: str, record: Any, decode: Any) -> bytes:
    """`record` as JSON. It is read back at once: a value that JSON bends (NaN, a tuple,
    a key that is no string) must fail now and not at the next start."""
    try:
        body = _encode(record)
        same = decode(body) == record
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} cannot be stored: {error}") from None
    if not same:
        raise InvalidInput(f"{what} cannot be stored: a value in it is not plain JSON")
    return body


def _key(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{key!r:.100} is not a legal name: {error.reason}") from None
    return key
