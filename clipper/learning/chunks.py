"""Decisions as they are kept on disk: many in one row, each a few bytes.

A choice that many queries shared is written once for a chunk. Outputs are kept as they
came from the worker: JSON text (bytes), or a string that is JSON text (str).
"""

from __future__ import annotations

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


_encode = encode_context = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode


def encode_chunk(nonces: Sequence[int], mades: Sequence[Made], at: float) -> Chunk:
    """One chunk of decisions with their nonces, which need not be in order."""
    first = min(nonces)
    choices: dict[int, Choice] = {id(made.choice): made.choice for made in mades}
    places = {known: place for place, known in enumerate(choices)}
    body = _Body(
        [_written(choice) for choice in choices.values()],
        [nonce - first for nonce in nonces],
        [made.application for made in mades],
        [places[id(made.choice)] for made in mades],
        [made.subject.uid for made in mades],
        [
            output
            if type(output := made.outputs) is bytes and len(output) <= LARGEST
            else _results(output)
            for made in mades
        ],
        {
            place: context
            for place, made in enumerate(mades)
            if made.subject.context is not None and (context := _context(made)) is not None
        },
    )
    return Chunk(first, max(nonces), at, _encode(body))


def _results(outputs: Any) -> _Result:
    if type(outputs) is list:
        return {_ROWS: [_result(output) for output in outputs]}
    return _result(outputs)


def _context(made: Made) -> Any:
    """The query's context, if it is worth keeping."""
    context = made.subject.context
    if context is None or made.choice.context is not None:
        return None
    return context if len(encode_context(context)) <= LARGEST else None


def _written(choice: Choice) -> _Choice:
    return _Choice(
        choice.generation,
        choice.arms,
        tuple(choice.odds),
        choice.index,
        choice.propensity,
        choice.context,
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
        self._first = chunk.first
        try:
            self._body = _decode(chunk.body)
        except msgspec.DecodeError as error:
            raise StoreError(f"a chunk of decisions makes no sense: {error}") from error
        self._places = {offset: n for n, offset in enumerate(self._body.offsets)}

    def __iter__(self) -> Iterator[tuple[int, int, Decision]]:
        """Every decision with its nonce and row."""
        for offset, place in self._places.items():
            for index in range(len(self._rows(place))):
                decision = self.find(self._first + offset, index)
                assert decision is not None
                yield self._first + offset, index, decision

    def find(self, nonce: int, index: int) -> Decision | None:
        place = self._places.get(nonce - self._first)
        if place is None:
            return None
        rows, body = self._rows(place), self._body
        if index >= len(rows):
            return None
        result = rows[index]
        if type(result) is list:
            result = msgspec.convert(result, _Panel)
        choice = body.choices[body.chosen[place]]
        uid, context = body.uids[place], body.contexts.get(place)
        return _decision(body.applications[place], choice, uid, context, result)

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
    subject = made.subject
    return _decision(
        made.application, made.choice, subject.uid, subject.context, _result(outputs)
    )


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
        propensity, uid, context if choice.context is None else choice.context,
        outputs, answer, failed,
    )  # fmt: skip
