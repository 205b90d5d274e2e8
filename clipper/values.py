"""Values that cross layers. Hot ones are slotted and not frozen: a frozen dataclass
costs about four times as much to construct."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from msgspec import to_builtins

from clipper.errors import InvalidInput

MAX_UID_BYTES = 256
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(kind: str, name: object) -> str:
    """`name` if it is a legal name of an application, model, version or label.

    An integer is taken as its digits, so that version 1 and "1" are the same.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidInput(
            f"{kind} must match [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}, got {name!r:.100}"
        )
    return name


def check_uid(uid: object, path: str = "uid") -> str | None:
    """Whose query it is, as text: 0 and "0" are one user. None is nobody in particular."""
    if uid is None:
        return None
    if isinstance(uid, bool) or not isinstance(uid, (int, str)):
        raise InvalidInput(f"Expected an integer or a string at {path}")
    if isinstance(uid, int):
        if not -(2**63) <= uid < 2**63:
            raise InvalidInput(f"Expected an integer of 64 bits at {path}")
        return str(uid)
    try:
        size = len(uid.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"The string is not valid Unicode at {path}") from None
    if size > MAX_UID_BYTES:
        raise InvalidInput(f"Expected at most {MAX_UID_BYTES} bytes at {path}")
    return str(uid)  # numpy's strings are strings of a class of their own


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, numpy's numbers as numbers, keys as text.
    Raises TypeError or RecursionError for what JSON cannot say."""
    return to_builtins(value, str_keys=True, enc_hook=_plain_of_numpy)


def _plain_of_numpy(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON cannot say what is of type {type(value).__name__}")


class ModelId(NamedTuple):
    """One version of one model; what a selection policy calls an arm."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


# -- outputs ---------------------------------------------------------------------------


@dataclass(slots=True)
class RowError:
    """The model failed on this row: a stable code and one sentence."""

    code: str
    cause: str


# One row's result as it came from the worker: JSON text (bytes), or a string output
# that is itself JSON text (str; see parse_output), or the row's error.
Output: TypeAlias = bytes | str | RowError


@dataclass(slots=True)
class Prediction:
    """The answer to one query, as an embedding program sees it.

    `output` is the parsed output; `default` tells whether it is the application's
    default output, and `default_explanation` then says why. `model` is the version that
    answered, as name:version, where there was a choice; `confidence` and `missing` tell of
    the members of an ensemble.
    """

    query_id: str
    output: Any
    default: bool = False
    default_explanation: str | None = None
    model: str | None = None
    confidence: float | None = None
    missing: list[str] = field(default_factory=list)


# -- batches: what the batching layer hands to a replica -------------------------------


class FailureKind(Enum):
    """Why a whole batch has no outputs."""

    RAISED = "raised"  # the function raised
    WRONG_COUNT = "wrong_count"  # it returned another number of outputs than rows
    CRASHED = "crashed"  # the worker died while the batch was its oldest
    HUNG = "hung"  # the batch ran past the hang limit; the worker was killed
    RETURNED = "returned"  # never started: the worker died or stopped before; no blame


# The worker is gone after these, and one of the rows may have been what ended it.
DEADLY = (FailureKind.CRASHED, FailureKind.HUNG)


class Verdict(Enum):
    """Who is to blame for the end of a worker that had a batch."""

    OPEN = "open"  # not known yet: the rows of the batch are evaluated alone
    POISON = "poison"  # a row that ends a worker alone as well
    OWN = "own"  # none of the rows: the worker itself
    UNKNOWN = "unknown"  # that was not tried of all rows


@dataclass(slots=True)
class BatchFailure:
    """A batch that came back without outputs. `cause` is safe to show to clients;
    `detail` (a traceback, say) is for operators only."""

    kind: FailureKind
    cause: str
    detail: str = ""


BatchResult: TypeAlias = "list[Output] | BatchFailure"


class Layout(NamedTuple):
    """How the rows of a batch lie in its bytes.

    `lengths` is None when all rows have the same number of bytes. `shapes` is None when
    every row is flat (one axis, or no array at all), one shape when all rows share it,
    else one shape per row.
    """

    lengths: list[int] | None = None
    shapes: tuple[int, ...] | list[tuple[int, ...]] | None = None


UNIFORM = Layout()


class Batch:
    """Rows evaluated by one call of the user's function.

    `buffers` concatenated are the rows' bytes in order. The replica sets `seconds`, the
    service time without the wait behind another batch in flight, and then calls `done`
    exactly once, with one output per row or a BatchFailure.
    """

    __slots__ = ("buffers", "done", "layout", "rows", "seconds")

    def __init__(
        self,
        rows: int,
        buffers: Sequence[bytes | memoryview],
        layout: Layout,
        done: Callable[[Batch, BatchResult], None],
    ) -> None:
        self.rows = rows
        self.buffers = buffers
        self.layout = layout
        self.done = done
        self.seconds = 0.0
