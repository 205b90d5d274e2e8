"""Decisions as they are kept on disk: many in one chunk, each a few bytes.

A choice that many queries shared is written once for a chunk. Outputs are kept as they
came from the worker: JSON text (bytes), or a string that is JSON text (str).

The rows of a large batch are cut into parts. The first is kept with the other decisions,
each of the others in a chunk of its own, under a number that no query id has.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from clipper.errors import StoreError
from clipper.selection.policy import Arm
from clipper.store.base import Chunk

if TYPE_CHECKING:
    from clipper.choosing import Choice
    from clipper.learning.decisions import Made

# Outputs and contexts past this many bytes are not kept; feedback with a label then brings
# the input.
LARGEST = 4096

# A chunk holds about this many bytes: what one turn of the loop can encode or decode.
CHUNK_BYTES = 1024 * 1024
_ROW = 64  # what a row costs beside its output, in bytes that take as long
_PANEL = 500


class Decision(msgspec.Struct):
    """One decision with what came of it.

    `odds` are the probabilities of `arms` under a single choice, the weights of an
    ensemble's members. `chosen` are the arms whose output was the answer, with that
    answer's `propensity`. `outputs` holds what is known of the arms' outputs; under a
    single choice the chosen arm's is missing where it failed (`failed`), or was too large.
    `context` is what the policy made of the query's, or the query's own where it made
    nothing of it.
    """

    application: int
    generation: int
    arms: tuple[Arm, ...]
    odds: tuple[float, ...]
    ensemble: bool
    chosen: tuple[Arm, ...]
    propensity: float
    uid: str | None
    context: Any
    outputs: dict[Arm, bytes | str]
    answer: bytes | str | None  # the output that was answered; None: the default, or lost
    failed: bool  # no model answered


class _Choice(msgspec.Struct, array_like=True):
    """A choice as written."""

    generation: int
    arms: tuple[Arm, ...]
    odds: tuple[float, ...]
    index: int | None
    propensity: float
    context: Any


class _Panel(msgspec.Struct, array_like=True):
    """What became of a row that an ensemble answered."""

    texts: list[bytes | None]
    agreeing: tuple[int, ...]
    propensity: float
    answer: bytes | None  # where it is no member's own


# An output, None for one that is not kept, False for a failure; or a panel's; or, for a
# batch, a mapping of _ROWS to a list of these.
_Result = Any
_ROWS = 0


class _Body(msgspec.Struct, array_like=True):
    """Decisions by columns, which cost less to make than rows."""

    choices: list[_Choice]
    offsets: list[int]  # of the nonces, from the chunk's first
    applications: list[int]
    chosen: list[int]  # places in `choices`
    uids: list[str | None]
    results: list[_Result]
    contexts: dict[int, Any]  # the queries' own, by place
    # Of a batch that was cut, by place: the first row of each further part.
    cuts: dict[int, list[int]] = {}
    # Of a further part, which is its chunk's only decision: the batch's nonce, and the
    # part's first row.
    part_of: tuple[int, int] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode

_decode_any = msgspec.msgpack.Decoder().decode

_NOTHING = _encode(None)


def encode_chunks(
    nonces: Sequence[int], mades: Sequence[Made], at: float
) -> Iterator[Chunk]:
    """Decisions with their nonces, which need not be in order: first the further parts of
    batches that are cut, last the one chunk of all decisions. Each chunk is made when it
    is asked for, and holds about CHUNK_BYTES, if `mades` but for the batches do."""
    first = min(nonces)
    results: list[_Result] = []
    cuts: dict[int, list[int]] = {}
    for place, (nonce, made) in enumerate(zip(nonces, mades, strict=True)):
        output = made.outputs
        if type(output) is bytes and len(output) <= LARGEST:
            results.append(output)
        elif type(output) is not list:
            results.append(_result(output))
        else:
            parts = _parts(output)
            _, head = next(parts)
            results.append({_ROWS: head})
            for start, rows in parts:
                cuts.setdefault(place, []).append(start)
                number = _number(nonce, start)
                body = _body([made], [0], [{_ROWS: rows}])
                body.part_of = (nonce, start)
                yield Chunk(number, number, at, _encode(body))
    body = _body(mades, [nonce - first for nonce in nonces], results)
    body.cuts = cuts
    yield Chunk(first, max(nonces), at, _encode(body))


def _body(mades: Sequence[Made], offsets: list[int], results: list[_Result]) -> _Body:
    applications, chosen, uids, contexts, _ = map(list, zip(*mades, strict=True))
    names = list(map(id, chosen))
    choices: dict[int, Choice] = dict(zip(names, chosen, strict=True))
    places = {name: place for place, name in enumerate(choices)}
    return _Body(
        [_written(choice) for choice in choices.values()],
        offsets,
        applications,
        [places[name] for name in names],
        uids,
        results,
        {
            place: msgspec.Raw(context)
            for place, context in enumerate(contexts)
            if context is not None
        },
    )


def _number(nonce: int, start: int) -> int:
    """What the part of a batch from row `start` on is kept under: beyond all nonces, which
    have 63 bits. Two batches in 2**47 share theirs; the chunk says whose it is."""
    return 1 << 63 | (nonce << 16 | start) & (1 << 63) - 1


def _parts(outputs: Sequence[Any]) -> Iterator[tuple[int, list[_Result]]]:
    """The rows of a batch, as written, in parts of about CHUNK_BYTES; each with the index
    of its first."""
    rows: list[_Result] = []
    start = size = 0
    for index, output in enumerate(outputs):
        result = _result(output)
        weight = _weight(result)
        if rows and size + weight > CHUNK_BYTES:
            yield start, rows
            rows, start, size = [], index, 0
        rows.append(result)
        size += weight
    yield start, rows


def _weight(result: _Result) -> int:
    if isinstance(result, _Panel):
        return _ROW + _PANEL + sum([len(text) for text in result.texts if text])
    return _ROW + (len(result) if result else 0)


def encode_context(context: Any) -> bytes:
    """A context, or what a policy made of one, as it is kept, in memory too: dozens of
    numbers are more as objects. One that is too large or cannot be written becomes none."""
    try:
        text = _encode(context)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _NOTHING
    return text if len(text) <= LARGEST else _NOTHING


def _written(choice: Choice) -> _Choice:
    return _Choice(
        choice.generation,
        choice.arms,
        tuple(choice.odds),
        choice.index,
        choice.propensity,
        msgspec.Raw(_NOTHING if choice.features is None else choice.features),
    )


def _result(output: Any) -> _Result:
    kind = type(output)
    if kind is bytes or kind is str:
        return output if len(output) <= LARGEST else None
    texts = getattr(output, "texts", None)
    if texts is None:
        return False
    kept = [text if text and len(text) <= LARGEST else None for text in texts]
    answer = output.answer
    if output.agreeing and kept[output.agreeing[0]] == answer:
        answer = None
    return _Panel(kept, output.agreeing, output.propensity, answer)


class DecodedChunk:
    """A chunk in memory."""

    def __init__(self, chunk: Chunk) -> None:
        try:
            self._body = _decode(chunk.body)
        except msgspec.DecodeError as error:
            raise StoreError(f"a chunk of decisions makes no sense: {error}") from error
        # the nonce that offsets count from, and the row that a batch's rows begin with
        self._first, self._start = self._body.part_of or (chunk.first, 0)
        self._places = {offset: n for n, offset in enumerate(self._body.offsets)}

    def __iter__(self) -> Iterator[tuple[int, int, Decision]]:
        """Every decision with its nonce and row."""
        for offset, place in self._places.items():
            for index in range(self._start, self._start + len(self._rows(place))):
                decision = self.find(self._first + offset, index)
                assert decision is not None
                yield self._first + offset, index, decision

    def elsewhere(self, nonce: int, index: int) -> int | None:
        """The number under which the part of a batch with this row is kept, if it is not
        here."""
        place = self._places.get(nonce - self._first)
        starts = None if place is None else self._body.cuts.get(place)
        if not starts or index < starts[0]:
            return None
        return _number(nonce, starts[bisect_right(starts, index) - 1])

    def find(self, nonce: int, index: int) -> Decision | None:
        place = self._places.get(nonce - self._first)
        if place is None:
            return None
        rows, body = self._rows(place), self._body
        index -= self._start
        if not 0 <= index < len(rows):
            return None
        result = rows[index]
        if type(result) is list:
            result = msgspec.convert(result, _Panel)
        choice = body.choices[body.chosen[place]]
        context = body.contexts.get(place, choice.context)
        return _decision(
            body.applications[place], choice, body.uids[place], context, result
        )

    def _rows(self, place: int) -> list[_Result]:
        result = self._body.results[place]
        rows: list[_Result] = result[_ROWS] if type(result) is dict else [result]
        return rows


def decode_chunk(chunk: Chunk) -> DecodedChunk:
    """Raises StoreError for a body that makes no sense."""
    return DecodedChunk(chunk)


def to_decision(made: Made, index: int) -> Decision | None:
    """One row of a decision that is in memory."""
    outputs = made.outputs
    if type(outputs) is list:
        if index >= len(outputs):
            return None
        outputs = outputs[index]
    elif index:
        return None
    text = made.choice.features if made.context is None else made.context
    context = None if text is None else _decode_any(text)
    return _decision(made.application, made.choice, made.uid, context, _result(outputs))


def _decision(
    application: int,
    choice: Choice | _Choice,
    uid: str | None,
    context: Any,
    result: _Result,
) -> Decision:
    arms, ensemble = choice.arms, choice.index is None
    outputs: dict[Arm, bytes | str] = {}
    answer: bytes | str | None = None
    propensity = choice.propensity
    if isinstance(result, _Panel):
        chosen = tuple(arms[i] for i in result.agreeing)
        outputs = {
            arm: text
            for arm, text in zip(arms, result.texts, strict=True)
            if text is not None
        }
        propensity = result.propensity
        failed = not chosen
        answer = result.answer
        if answer is None and chosen:
            answer = outputs.get(chosen[0])
    else:
        chosen = () if choice.index is None else (arms[choice.index],)
        failed = result is False
        if not failed and result is not None:
            answer = result
            for arm in chosen:
                outputs[arm] = result
    return Decision(
        application, choice.generation, arms, tuple(choice.odds), ensemble, chosen,
        propensity, uid, context, outputs, answer, failed,
    )  # fmt: skip
